"""LoRA: what it adds, that it is taken out again, that it learns, and that merging gives the same network."""

import pytest
import torch

from models.backbones import tiny
from models.schedules import ddim
from models.temporal import inflation
from models.tuning import lora, one_shot


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


def is_projection(name):
    return name.rpartition(".")[2] in {"to_q", "to_k", "to_v"}


def predict(backbone, unet=None):
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(1))
    return backbone.predict(latents, 401, text, unet=unet)


@torch.no_grad()
def test_new_weights_change_nothing_and_are_taken_out(backbone):
    names = lora.targets(backbone.unet, is_projection)
    weights = lora.create(backbone.unet, names, 4, torch.Generator().manual_seed(0))
    assert len(weights) == 2 * len(names) > 0
    plain = predict(backbone)
    with lora.applied(backbone.unet, weights):
        assert torch.equal(predict(backbone), plain)
    for up in (name for name in weights if "lora_B" in name):
        weights[up].fill_(0.1)
    with lora.applied(backbone.unet, weights):
        assert not torch.allclose(predict(backbone), plain, atol=1e-4)
    with pytest.raises(RuntimeError, match="mid-edit"), lora.applied(backbone.unet, weights):
        raise RuntimeError("mid-edit")
    assert torch.equal(predict(backbone), plain)


@torch.no_grad()
def test_merged_is_applied(backbone):
    generator = torch.Generator().manual_seed(0)
    weights = lora.create(backbone.unet, lora.targets(backbone.unet, is_projection), 4, generator)
    weights = {name: torch.randn(w.shape, generator=generator) * 0.1 for name, w in weights.items()}
    with lora.applied(backbone.unet, weights, scale=0.7):
        applied = predict(backbone)
    clone = inflation.inflate(backbone.unet, 2, temporal=False, norm_over_frames=False)
    inflation.own(clone, lora.merged(backbone.unet, weights, scale=0.7))
    assert torch.allclose(predict(backbone, clone), applied, atol=1e-5)


def test_it_learns_and_the_network_does_not(backbone):
    before = {name: weight.clone() for name, weight in backbone.unet.state_dict().items()}
    weights = lora.create(backbone.unet, lora.targets(backbone.unet, is_projection), 4, torch.Generator())
    schedule = ddim.Schedule.from_config(backbone.scheduler_config)
    latents, noise = torch.randn(2, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(list(weights.values()), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    losses = []
    with lora.applied(backbone.unet, weights):
        for _ in range(12):
            loss = one_shot.denoising_loss(backbone.predict, schedule, latents, text, 401, noise)
            losses.append(loss.item())
            one_shot.take_step(optimiser, scaler, loss, 1.0)
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.unet.state_dict().items())


def test_unknown_layers_are_refused(backbone):
    with pytest.raises(KeyError):
        lora.create(backbone.unet, ["nowhere"], 4)
    weights = {"nowhere.lora_A.weight": torch.zeros(1, 1), "nowhere.lora_B.weight": torch.zeros(1, 1)}
    with pytest.raises(KeyError), lora.applied(backbone.unet, weights):
        pass
