"""The text-to-video family: clips go through whole, and a folder of it is loaded as what it is."""

import json

import diffusers
import pytest
import torch

from models import engine
from models.backbones import sd, tiny, unet3d
from models.tuning import spatial_temporal_lora as dual


@pytest.fixture(scope="module")
def backbone():
    return unet3d.make_tiny()


def latents(batch=1, frames=3):
    return torch.randn(batch, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_order_of_frames_matters_and_branches_do_not_mix(backbone):
    text = backbone.encode_text(["a dog", "a cat"])
    z = latents(batch=2)
    backbone.frame_evals = 0
    both = backbone.predict(z, 401, text)
    assert both.shape == z.shape and backbone.frame_evals == 2 * 3
    each = [backbone.predict(z[i : i + 1], 401, text[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(each), atol=1e-5, rtol=0)
    turned = backbone.predict(z.flip(2), 401, text).flip(2)
    assert not torch.allclose(turned, both, atol=1e-3)
    times = backbone.predict(z, torch.tensor([401, 1]), text)
    torch.testing.assert_close(times[:1], both[:1], atol=1e-5, rtol=0)
    assert not torch.allclose(times[1:], both[1:], atol=1e-3)


def test_as_the_library_calls_it(backbone):
    text = backbone.encode_text(["a dog"])
    expected = backbone.unet(latents(), torch.tensor(401), encoder_hidden_states=text).sample
    torch.testing.assert_close(backbone.predict(latents(), 401, text), expected)


def test_a_folder_is_loaded_as_what_it_is(backbone, tmp_path):
    for role in ("tokenizer", "text_encoder", "vae", "unet"):
        getattr(backbone, role).save_pretrained(tmp_path / role)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(backbone.scheduler_config))
    classes = {"tokenizer": "CLIPTokenizer", "text_encoder": "CLIPTextModel"}
    classes |= {"vae": "AutoencoderKL", "unet": "UNet3DConditionModel"}
    (tmp_path / "model_index.json").write_text(json.dumps({role: ["", name] for role, name in classes.items()}))
    loaded = sd.load(str(tmp_path))
    assert type(loaded) is unet3d.Backbone3D and loaded.native_size == 64
    text = backbone.encode_text(["a dog"])
    assert torch.equal(loaded.predict(latents(), 401, text), backbone.predict(latents(), 401, text))


def test_presets_and_who_uses_them():
    for preset, size in ((unet3d.MODELSCOPE, 256), (unet3d.ZEROSCOPE, 384)):
        assert sd.PRESETS[preset.id] is preset and (preset.family, preset.native_size) == ("t2v", size)
    families = {name: engine.find(name).backbone.family for name in engine.method_ids()}
    assert {name for name, family in families.items() if family == "t2v"} >= {"motion_director", "dreamix"}


def test_same_seed_same_weights():
    weights = [unet3d.make_tiny(seed).unet.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert unet3d.make_tiny(0).digest != unet3d.make_tiny(1).digest != tiny.make(1).digest


def test_layers_of_the_published_network():
    """The architecture alone, without weights: 1.4 billion parameters, and where motion can be learned."""
    with torch.device("meta"):
        network = diffusers.UNet3DConditionModel(sample_size=32, cross_attention_dim=1024, attention_head_dim=64)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert 1.40e9 < count < 1.42e9
    assert len(dual.spatial_layers(network)) == 16 * 6
    assert len(dual.temporal_layers(network)) == 17 * 10
