"""The miniature's networks: the code they start from, words, the pipeline folder, and a training step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from models.backbones import vocabulary
from models.backbones.miniature_vae import MiniatureVAE
from models.miniature import captions, data, family, loop, scene, text, train_unet, train_vae, world
from models.miniature.vae import fit_linear_code

NARROW = (3, 12, 8, 8)


@pytest.fixture(scope="module")
def renders() -> Tensor:
    """Eight held-out pictures (8 3 64 64) in -1...1."""
    return data.to_tensor(world.render_pictures(range(8), size=64)[0])


def linear_vae(renders: Tensor) -> MiniatureVAE:
    mean, basis, deviation = fit_linear_code(renders, 4)
    vae: MiniatureVAE = MiniatureVAE(latent_channels=4, block_out_channels=NARROW).eval()
    vae.set_linear_code(mean, basis, deviation)
    return vae


@torch.no_grad()
def test_vae_starts_as_the_patch_pca_code(renders: Tensor) -> None:
    mean, basis, deviation = fit_linear_code(renders, 4)
    patches = nn.functional.pixel_unshuffle(renders, 8).movedim(1, -1) - mean
    components = patches @ basis
    expected = nn.functional.pixel_shuffle((components @ basis.T + mean).movedim(-1, 1), 8)
    vae = linear_vae(renders)
    latents = vae.encode(renders).latent_dist.mode()
    assert torch.allclose(latents.movedim(1, -1) * deviation, components, atol=1e-4)
    assert torch.allclose(vae.decode(latents).sample, expected, atol=1e-4)


@torch.no_grad()
def test_latents_of_the_linear_code_are_whitened(renders: Tensor) -> None:
    latents = linear_vae(renders).encode_mode(renders)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-2)


def test_training_start_has_latents_of_unit_power(tmp_path: Path) -> None:
    vae = train_vae.new(tmp_path, pictures=16)
    held_out = data.to_tensor(world.render_pictures(range(16))[0])
    train_vae.scale(vae, held_out)
    with torch.no_grad():
        power = (vae.encode_mode(held_out) * vae.config.scaling_factor).square().mean()
    assert float(power) == pytest.approx(1.0, abs=1e-2)
    assert data.rendered(tmp_path) == 16


def test_pictures_continue_after_an_interruption(tmp_path: Path) -> None:
    first = np.array(data.pictures(tmp_path / "a", 3))
    data.pictures(tmp_path / "a", 5)
    assert np.array_equal(data.pictures(tmp_path / "a", 5), data.pictures(tmp_path / "b", 5))
    assert np.array_equal(data.pictures(tmp_path / "a", 5)[:3], first)


def test_every_caption_word_is_known_and_fits() -> None:
    tokenizer = text.build_tokenizer(scene.WORDS)
    for seed in range(60):
        for variant in range(scene.CAPTION_VARIANTS):
            caption = scene.caption(scene.sample_scene(seed), variant)
            assert vocabulary.unknown_words(tokenizer, caption) == []
            ids = tokenizer(caption).input_ids
            assert len(ids) <= text.MAX_TOKENS
            assert tokenizer.unk_token_id not in ids


def test_unknown_words_are_named_once_and_tokenised_as_unknown() -> None:
    tokenizer = text.build_tokenizer(["a", "red", "fox"])
    sentence = "A Red, quixotic fox; QUIXOTIC zebra!"
    assert vocabulary.unknown_words(tokenizer, sentence) == ["quixotic", "zebra"]
    assert tokenizer.tokenize(sentence) == ["a", "red", "<unk>", "fox", "<unk>", "<unk>"]


def test_text_encoder_pools_at_the_end_token() -> None:
    tokenizer = text.build_tokenizer(scene.WORDS)
    encoder = text.build_text_encoder(tokenizer, layers=1).eval()
    tokens = tokenizer("a red fox", padding="max_length", return_tensors="pt").input_ids
    result = encoder(tokens)
    end = tokens[0].tolist().index(tokenizer.eos_token_id)
    assert torch.allclose(result.pooler_output[0], result.last_hidden_state[0, end])


def test_captions_are_deterministic_and_sometimes_empty() -> None:
    subject = scene.sample_scene(3)
    drawn = [captions.draw(subject, np.random.default_rng(i)) for i in range(200)]
    assert drawn == [captions.draw(subject, np.random.default_rng(i)) for i in range(200)]
    assert 5 <= drawn.count("") <= 40
    assert any("<unk>" in caption for caption in drawn)


def tiny_networks() -> train_unet.Networks:
    torch.manual_seed(0)
    tokenizer = text.build_tokenizer(scene.WORDS)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return train_unet.Networks(unet, text.build_text_encoder(tokenizer, layers=1))


def tiny_loss(networks: train_unet.Networks, step: int) -> Tensor:
    clean = torch.ones(2, 4, 8, 8)
    ids = torch.arange(24).repeat(2, 1)
    timesteps = torch.tensor([300, 900])
    return train_unet.denoising_loss(networks, clean, ids, timesteps, family.scheduler().alphas_cumprod)


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    run = loop.Run(tiny_networks(), loop.Plan(tmp_path, 1, "loss", peak_rate=0.05))
    losses = [run.step(tiny_loss, 1.0) for _ in range(14)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = loop.Run(tiny_networks(), loop.Plan(tmp_path / "a", 1, "loss"))
    for _ in range(4):
        straight.step(tiny_loss, 1.0)
    first = loop.Run(tiny_networks(), loop.Plan(tmp_path / "b", 1, "loss"))
    for _ in range(2):
        first.step(tiny_loss, 1.0)
    first.checkpoint()
    resumed = loop.Run(tiny_networks(), loop.Plan(tmp_path / "b", 1, "loss", resume=True))
    assert resumed.clock.step == 2
    for _ in range(2):
        resumed.step(tiny_loss, 1.0)
    for name, value in straight.average.network.state_dict().items():
        assert torch.equal(value, resumed.average.network.state_dict()[name]), name
    assert (tmp_path / "b" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_orthogonalised_update_has_nearly_equal_singular_values() -> None:
    update = loop.orthogonalised(torch.randn(24, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    singular = torch.linalg.svdvals(update.flatten(1)) / (0.2 * 144**0.5)
    assert singular.min() > 0.5
    assert singular.max() < 1.4


def test_exported_folder_is_a_stable_diffusion_pipeline(tmp_path: Path) -> None:
    networks = tiny_networks()
    vae = MiniatureVAE(block_out_channels=NARROW)
    family.export("vae", vae, tmp_path)
    family.export("unet", networks.unet, tmp_path)
    family.export("text_encoder", networks.text_encoder, tmp_path)
    family.export("tokenizer", text.build_tokenizer(scene.WORDS), tmp_path)
    family.export("scheduler", family.scheduler(), tmp_path)
    assert not list(tmp_path.glob(".*"))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, vae=family.load_vae(tmp_path), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae_scale_factor == 8
    picture = pipeline("a red fox in the snow", num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert next(networks.parameters()).dtype == torch.float32


def test_shipped_vae_beats_the_linear_code_on_unseen_renders() -> None:
    unseen = data.to_tensor(world.render_pictures(range(900, 908))[0])
    linear = train_vae.psnr(linear_vae(unseen), unseen)  # fitted on the very pictures it codes
    assert train_vae.psnr(family.load_vae(), unseen) > max(25.0, linear + 3.0)


def test_shipped_tokenizer_knows_every_caption() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(family.WEIGHTS / "tokenizer")
    for seed in range(60):
        caption = scene.caption(scene.sample_scene(seed), seed)
        assert vocabulary.unknown_words(tokenizer, caption) == [], caption


def test_shipped_networks_fit_together() -> None:
    index = json.loads((family.WEIGHTS / "model_index.json").read_text())
    assert index == family.INDEX
    vae, unet = (json.loads((family.WEIGHTS / part / "config.json").read_text()) for part in ("vae", "unet"))
    assert vae["latent_channels"] == unet["in_channels"] == unet["out_channels"]
    assert unet["cross_attention_dim"] == text.WIDTH
    assert all("_name_or_path" not in config for config in (vae, unet))
