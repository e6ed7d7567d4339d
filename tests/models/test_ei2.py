"""EI² by its properties: the new layers change nothing at first, see what they should, and do not shift features."""

import pytest
import torch
from einops import rearrange

from models import engine
from models.attention.fine_coarse import fine_coarse, grid
from models.attention.installed import RoutedAttention
from models.backbones import tiny
from models.context import Context
from models.methods import ei2
from models.methods.ei2 import EI2
from models.temporal import inflation
from models.temporal.shift_restricted import (
    ShiftRestrictedAttention,
    add_stam,
    centre,
    largest_singular_value,
    restricted,
)
from models.tuning import paths
from models.types import Clip

FRAMES = 3


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


def latents(seed=0):
    return torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(seed))


def clone(backbone, **changes):
    return inflation.inflate(backbone.unet, FRAMES, temporal=False, norm_over_frames=False, **changes)


@torch.no_grad()
def test_a_new_layer_is_the_identity_and_a_tuned_one_is_not(backbone):
    text, plain = backbone.encode_text(["a dog"]), clone(backbone)
    network = clone(backbone)
    add_stam(network, FRAMES, torch.Generator().manual_seed(0))
    names = [name for name, _ in network.named_modules() if name.endswith(".stam")]
    assert len(names) == 10
    before = backbone.predict(latents(), 401, text, unet=plain)
    assert torch.equal(backbone.predict(latents(), 401, text, unet=network), before)
    network.get_submodule(names[0]).to_out.weight.copy_(torch.eye(8))
    assert not torch.allclose(backbone.predict(latents(), 401, text, unet=network), before, atol=1e-3)


@torch.no_grad()
def test_it_lies_between_self_and_cross_attention(backbone):
    """Self-attention puts out 0, STAM is told to add 1: cross-attention's norm sees the block's input plus 1."""
    network = clone(backbone)
    add_stam(network, FRAMES, torch.Generator().manual_seed(0))
    block = network.mid_block.attentions[0].transformer_blocks[0]
    inflation.own(network, {"mid_block.attentions.0.transformer_blocks.0.stam.to_out.bias": torch.ones(8)})
    for part in ("weight", "bias"):
        name = f"mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.{part}"
        inflation.own(network, {name: torch.zeros_like(block.attn1.to_out[0].get_parameter(part))})
    seen = {}
    block.norm2.register_forward_pre_hook(lambda _, inputs: seen.setdefault("norm2", inputs[0]))
    tokens, text = torch.randn(FRAMES, 4, 8), torch.randn(FRAMES, 5, 16)
    block(tokens, encoder_hidden_states=text)
    torch.testing.assert_close(seen["norm2"], tokens + 1)


def test_centring_keeps_the_variance():
    x = 3 * torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(0)) + 7
    for axis, dim in (("channel", -1), ("frame", -2)):
        centred = centre(x, axis)
        torch.testing.assert_close(centred.var(dim=dim), x.var(dim=dim))
        torch.testing.assert_close(centred.mean(dim=dim), torch.zeros_like(centred.mean(dim=dim)), atol=1e-5, rtol=0)


def test_the_output_projection_cannot_enlarge():
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.matrix_norm(weight, 2)
    assert 0.9 * exact < largest_singular_value(weight) <= exact * (1 + 1e-5)
    assert torch.linalg.matrix_norm(restricted(weight, "spectral"), 2) < 1.1
    rows = restricted(weight, "row").norm(dim=1)
    torch.testing.assert_close(rows, torch.ones(16))
    assert torch.equal(restricted(weight, "none"), weight)
    for norm in ("spectral", "row"):
        assert torch.equal(restricted(weight * 0.01, norm), weight * 0.01)
        learned = torch.zeros(4, 4, requires_grad=True)
        restricted(learned, norm).sum().backward()
        assert torch.equal(learned.grad, torch.ones(4, 4))  # a zero matrix can start to learn


def test_attention_over_frames_does_not_mix_places():
    stam = ShiftRestrictedAttention(8, 2, "channel", "none")
    x = torch.randn(4, FRAMES, 8, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0] = 0
    torch.testing.assert_close(stam(changed)[1:], stam(x)[1:])
    torch.testing.assert_close(stam(x + 100), stam(x), atol=1e-4, rtol=0)  # what a token has in common does not count


def test_a_frame_sees_itself_finely_and_the_others_coarsely():
    tokens = torch.arange(FRAMES * 16, dtype=torch.float32).reshape(FRAMES, 16, 1)
    policy = fine_coarse(FRAMES, 8, 8, "average")
    query, key, value = policy(tokens, tokens, tokens)
    assert torch.equal(query, tokens) and torch.equal(key, value)
    assert key.shape == (FRAMES, 16 + (FRAMES - 1) * 4, 1)
    pooled = rearrange(tokens, "f (h a w b) d -> f (h w) (a b) d", h=2, a=2, w=2, b=2).mean(dim=2)
    assert torch.equal(key[1], torch.cat([tokens[1], pooled[0], pooled[2]]))
    strided = fine_coarse(FRAMES, 8, 8, "stride")(tokens, tokens, tokens)[1]
    assert strided[0, 16:20, 0].tolist() == [16.0, 18.0, 24.0, 26.0]
    assert fine_coarse(FRAMES, 10, 10)(*[torch.zeros(FRAMES, 25, 1)] * 3)[1].shape[1] == 25 + 2 * 9
    assert grid(15, 10, 6) == (5, 3)
    with pytest.raises(ValueError, match="17 tokens"):
        policy(*[torch.zeros(FRAMES, 17, 1)] * 3)


@torch.no_grad()
def test_without_other_frames_it_is_self_attention(backbone):
    text = backbone.encode_text(["a dog"])
    plain = backbone.predict(latents(), 401, text, unet=clone(backbone))
    outputs = {
        coarse: backbone.predict(
            latents(), 401, text, unet=clone(backbone, attention=RoutedAttention(fine_coarse(FRAMES, 8, 8, coarse)))
        )
        for coarse in ("none", "average", "stride")
    }
    torch.testing.assert_close(outputs["none"], plain, atol=1e-5, rtol=0)
    assert not torch.allclose(outputs["average"], plain, atol=1e-4)
    assert not torch.allclose(outputs["average"], outputs["stride"], atol=1e-4)


def test_it_learns_the_clip(backbone):
    clip = Clip(torch.zeros(FRAMES, 3, 64, 64), latents(), 8.0, 64, 64)
    p = EI2.Params(prompt="a red bear", num_tuning_steps=15, learning_rate=1e-2)
    fitted = EI2().fit(Context(backbone, "fit"), p, clip)
    assert fitted.losses[-5:].mean() < fitted.losses[:5].mean()
    added = [name for name in fitted.weights if ".stam." in name]
    assert len(added) == 10 * 5 and any(fitted.weights[name].any() for name in added if name.endswith("to_out.weight"))
    text = backbone.encode_text(["a dog"])
    tuned = ei2.tuned(Context(backbone, "edit"), p, clip, fitted)(latents(), 401, text)
    fresh = paths.denoiser(backbone, ei2.inflate(Context(backbone, "edit"), p, clip))(latents(), 401, text)
    assert not torch.allclose(tuned, fresh, atol=1e-3)


def test_it_can_recompute_activations(backbone):
    clip = Clip(torch.zeros(FRAMES, 3, 64, 64), latents(), 8.0, 64, 64)
    losses = [
        EI2()
        .fit(Context(backbone, "fit"), EI2.Params(prompt="x", num_tuning_steps=3, gradient_checkpointing=again), clip)
        .losses
        for again in (False, True)
    ]
    torch.testing.assert_close(*losses)


def test_id():
    assert engine.find("ei2") is EI2
