"""The miniature's judge, its CLIP-like pair and its evaluation, on renders and on a random backbone."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from models.backbones import tiny
from models.miniature import clip, evaluate, judge, recognisers, sampling, sheet, train_clip, train_judge
from models.miniature.recognisers import HEADS, frames_of, labels, soften, unseen
from models.miniature.scene import ATTRIBUTES, WORDS, Scene, caption
from models.miniature.text import build_tokenizer
from models.miniature.world import render_frames

SMALL = evaluate.Sizes(
    renders=8, captions=3, inversions=2, edits=2, frames=1, linear_fit=100, sampling_steps=4, inversion_steps=4
)


def test_the_shipped_judge_reads_unseen_renders() -> None:
    accuracy = train_judge.measure(count=200)
    assert set(accuracy) == set(HEADS)
    assert min(accuracy.values()) >= 0.96


def test_the_shipped_judge_bears_softness() -> None:
    assert min(train_judge.measure(softened=True, count=200).values()) >= 0.90


def test_the_judge_answers_in_words_for_every_frame_of_any_size() -> None:
    scene = Scene(style="photo", colour="blue", subject="teapot", background="desert", seed=5)
    said = judge.classify(frames_of(render_frames(scene, 3, 192)))
    assert said["subject"] == ["teapot"] * 3
    assert said["colour"] == ["blue"] * 3
    assert all(word in ATTRIBUTES[head] for head in HEADS for word in said[head])


def test_recognisers_are_small_half_precision_files() -> None:
    for folder in (judge.FOLDER, clip.FOLDER):
        assert (folder / "model.safetensors").stat().st_size < 9_000_000
    assert sum(weight.numel() for weight in judge.load().parameters()) < 1_500_000
    said = json.loads((judge.FOLDER / "config.json").read_text())["unseen_accuracy"]
    assert set(said) == set(HEADS)


def test_the_shipped_pair_finds_captions() -> None:
    assert train_clip.retrieval(count=192) >= 0.8


def test_embeddings_are_unit_and_tell_an_edit() -> None:
    fox, owl = Scene(subject="fox", colour="green", seed=3), Scene(subject="owl", colour="green", seed=3)
    frames = frames_of(render_frames(fox, 2))
    images, texts = clip.embed_frames(frames), clip.embed_text([caption(fox), caption(owl)])
    assert images.shape == texts.shape == (2, clip.WIDTH)
    assert images.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    similar = images @ texts.T
    assert (similar[:, 0] > similar[:, 1] + 0.1).all()


def test_an_end_token_that_transformers_would_misread_is_refused() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert clip.Pair(tokenizer).text.config.eos_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(2)
    with pytest.raises(ValueError, match="end token is 2"):
        clip.Pair(tokenizer)


def test_softening_is_a_function_of_its_generator() -> None:
    frames, _ = unseen(8)
    once = soften(frames, torch.Generator().manual_seed(1))
    assert torch.equal(once, soften(frames, torch.Generator().manual_seed(1)))
    assert not torch.equal(once, soften(frames, torch.Generator().manual_seed(2)))
    changed = (once - frames).flatten(1).abs().amax(1) > 0
    assert changed.any()
    assert once.min() >= 0 <= once.max() <= 1


def test_quantisation_is_transparent_at_a_fine_step() -> None:
    frames, _ = unseen(2)
    fine = recognisers._quantised(frames, torch.full((2, 1, 1, 1), 1e-5))
    assert (fine - frames).abs().max() < 1e-3


@pytest.mark.parametrize("trainer", [train_judge, train_clip])
def test_training_goes_on_from_its_checkpoint_and_exports(trainer: ModuleType, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    for resume in (False, True):
        measured = trainer.train(work, 0.01, resume, out=out, count=16, measured=192)
        assert all(0 <= value <= 1 for value in measured.values())
    assert {"model.safetensors", "config.json"} <= {path.name for path in out.iterdir()}
    name = trainer.__name__.rsplit("_", 1)[-1]
    assert (work / name / "loss.png").exists()
    assert torch.load(work / name / "checkpoint.pt", weights_only=True)["clock"]["step"] >= 2


def test_labels_are_places_in_the_lists() -> None:
    scene = Scene(subject="cat", colour="yellow", background="beach", style="neon")
    assert labels([scene]).tolist() == [[1, 1, 0, 4]]


def test_publish_replaces_a_folder_whole(tmp_path: Path) -> None:
    out = tmp_path / "part"
    recognisers.publish(out, lambda folder: (folder / "a").touch())
    recognisers.publish(out, lambda folder: (folder / "b").touch())
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert [path.name for path in out.iterdir()] == ["b"]


def test_patch_pca_improves_with_channels() -> None:
    frames = frames_of(render_frames(Scene(seed=9), 2))
    few, many = (evaluate.patch_pca(frames, channels, fitted_on=60) for channels in (2, 24))
    assert (many - frames).square().mean() < (few - frames).square().mean() / 2


def test_a_finer_round_trip_is_a_closer_one() -> None:
    """Inversion and sampling are each other's inverse but for the network's change from level to level."""
    backbone = tiny.make()
    size = backbone.native_size // backbone.vae_factor
    latents = torch.randn((2, backbone.latent_channels, 1, size, size), generator=torch.Generator().manual_seed(0))
    texts = ["a photo of a red fox", "a photo of a blue owl"]
    direct = torch.cat([backbone.decode_latents(item[None]) for item in latents])
    error = {}
    for steps in (5, 50):
        noise = sampling.invert(backbone, latents, texts, steps)
        assert (noise - latents).abs().mean() > 0.5
        error[steps] = float((sampling.generate(backbone, noise, texts, 1.0, steps) - direct).abs().mean())
    assert error[50] < 0.6 * error[5]


def test_figures_of_a_random_backbone_have_their_keys_and_are_poor() -> None:
    backbone = tiny.make()
    figures: dict[str, float] = {}
    for part in (evaluate.reconstruction, evaluate.text_to_image, evaluate.editing, evaluate.round_trip):
        found, cells = part(backbone, SMALL)
        figures |= found
        assert cells
    rooms = {"vae": {"psnr", "psnr_worst_group", "psnr_pca"}, "inversion": {"psnr", "psnr_vae_ceiling"}}
    rooms |= {"t2i": set(HEADS), "edit": {"subject", "colour", "style", "kept"}}
    assert set(figures) == {f"{room}.{name}" for room, names in rooms.items() for name in names}
    assert figures["vae.psnr"] < figures["vae.psnr_pca"]
    assert all(0 <= value <= 1 for key, value in figures.items() if key.startswith(("t2i", "edit")))


def test_the_sheet_holds_every_picture(tmp_path: Path) -> None:
    cells = [("red", torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 64, 64))] * (sheet.COLUMNS + 1)
    sheet.write(tmp_path / "sheet.png", cells)
    picture = np.asarray(cv2.imread(str(tmp_path / "sheet.png")))
    assert picture.shape == (2 * (sheet.SIDE + sheet.STRIP), sheet.COLUMNS * (sheet.SIDE + 2), 3)
    assert np.array_equal(picture[10, 10], [0, 0, 255])
    with pytest.raises(ValueError, match="at least one"):
        sheet.write(tmp_path / "none.png", [])
