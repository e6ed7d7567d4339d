"""RAFT as an extra: what is said where it is missing, and how pictures and flow are brought to its sizes and back."""

import sys

import pytest
import torch

from models import engine
from models.conditions import flow_estimator, raft
from models.context import Context
from models.errors import WeightsUnavailable
from models.types import Clip


@pytest.fixture
def no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    raft.load.cache_clear()
    yield
    raft.load.cache_clear()


@pytest.mark.parametrize("method_id", ["flatten", "medm"])
def test_the_missing_extra_is_named(no_torchvision, method_id):
    p = engine.find(method_id).Params(prompt="a red bear", flow_estimator="raft")
    clip = Clip(torch.rand(2, 3, 64, 64), torch.zeros(1, 4, 2, 8, 8), 8.0, 64, 64)
    with pytest.raises(WeightsUnavailable, match="needs torchvision") as caught:
        flow_estimator.forward(Context(None, "edit"), p, clip)
    assert caught.value.code == "model.unavailable" and "refilm[raft]" in caught.value.hint


def test_pictures_are_enlarged_and_flow_is_scaled_back():
    seen = []

    def network(first, second, num_flow_updates):
        seen.append((first.shape, float(first.min()), float(first.max())))
        moved = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1).expand(len(first), 2, *first.shape[-2:])
        return [torch.zeros_like(moved), moved]

    frames = torch.rand(7, 3, 60, 200)
    flow = raft.between(frames[:-1], frames[1:], network)
    assert [shape for shape, *_ in seen] == [(4, 3, 128, 200), (2, 3, 128, 200)]
    assert all(low >= -1 and high <= 1 and low < -0.5 for _, low, high in seen)
    assert flow.shape == (6, 2, 60, 200)
    assert torch.allclose(flow[:, 0], torch.tensor(8.0)) and torch.allclose(flow[:, 1], torch.tensor(4.0 * 60 / 128))
    assert raft.between(frames[:0], frames[:0], network).shape == (0, 2, 60, 200)
