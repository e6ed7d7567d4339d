"""The handbook's numbers are those of the model beside it, and the model is right where the answer is known."""

import importlib.util
import random
import re
import sys
from statistics import mean
from types import ModuleType

import pytest

from tests.deploy.conftest import ROOT

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling_model", ROOT / "docs" / "scaling_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling_model"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_of_capacity_is_the_models(model) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert model.capacity_table() in text
    assert f"The mix takes {model.mix_seconds():.1f} s on an H100" in text


@pytest.mark.parametrize(
    ("method", "petaflop"),
    [
        ("per-frame SDEdit", 2.69),
        ("FateZero", 3.97),
        ("TokenFlow, 50-step inversion", 5.25),
        ("RAVE 3x3", 9.72),
        ("vid2vid-zero, no null-text", 16.1),
        ("FLATTEN, duplicate-free", 29.4),
        ("Tune-A-Video, edit only", 4.81),
    ],
)
def test_work_is_that_of_the_counted_networks(model, method, petaflop) -> None:
    """32 frames of 512 x 512, counted with torch's FlopCounterMode."""
    assert model.petaflop(method) == pytest.approx(petaflop, rel=0.005)


def test_erlang_c_where_it_is_known(model) -> None:
    assert model.erlang_c(1, 0.7) == pytest.approx(0.7)
    assert model.erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert model.erlang_c(3, 2.0) == pytest.approx(4 / 9)
    assert model.mean_wait(1, 0.5) == pytest.approx(1.0)
    assert model.highest_utilisation(1, 0.5) == pytest.approx(1 / 3, abs=1e-6)


def test_the_simulation_agrees_with_pollaczek_and_khinchine(model) -> None:
    """One server, unequal jobs: the mean wait is known exactly."""
    spent = {method: model.seconds(method, "H100") for method in model.MIX}
    square = sum(share * spent[method] ** 2 for method, share in model.MIX.items())
    busy = 0.5
    expected = busy / model.mix_seconds() * square / (2 * (1 - busy))
    waits = [mean(model.simulate(1, busy, 40_000, random.Random(seed))) for seed in range(3)]
    assert mean(waits) == pytest.approx(expected, rel=0.1)


def test_pictures_exist_and_what_was_never_tried_is_said() -> None:
    scaling, operations = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("scaling", "operations"))
    for name in re.findall(r"\]\((images/\S+)\)", scaling + operations):
        assert (ROOT / "docs" / name).is_file(), name
    assert "Nothing on this page was measured on a GPU or a cluster" in scaling
    for word in ("never built", "never installed", "never started", "No worker ever ran on a GPU"):
        assert word in operations, word
