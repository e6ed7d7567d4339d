"""The family measured on scenes no training saw: reconstruction, generation, inversion, editing, and its judges.

Every figure stands under a dotted key; `main` writes them as JSON with a sheet of pictures to look at. Generated and
edited pictures are read by the judge, which was trained on renders alone.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.backbones import sd
from models.backbones.components import quiet
from models.metrics import pixel
from models.miniature import (
    evaluate_boxes,
    evaluate_clips,
    evaluate_edges,
    evaluate_motion,
    family,
    judge,
    sheet,
    train_clip,
    train_finder,
    train_judge,
    world,
)
from models.miniature.evaluate_sizes import QUICK, Measured
from models.miniature.evaluate_sizes import Sizes as Sizes
from models.miniature.recognisers import HEADS, frames_of
from models.miniature.sampling import generate, invert
from models.miniature.scene import ATTRIBUTES, Scene, caption, generator, sample_scene
from models.miniature.vae import PATCH, fit_linear_code

GUIDANCE = 4.0
EDIT_GUIDANCE = 4.0
EDITS = ("subject", "colour", "style")


FIRST = {"renders": 1_000_000, "captions": 2_000_000, "inversions": 3_000_000, "edits": 4_000_000}
"""First held-out seed of every part."""


def main(
    json_path: Path | None = None, sheet_path: Path | None = None, quick: bool = False, parts: Sequence[str] = ()
) -> None:
    """Measure the shipped weights, print the figures as JSON, and write them and the sheet where asked.

    `parts` are names of `PARTS`, none: all. Figures of other parts that the JSON file holds already stay in it.
    """
    figures, cells = evaluate(sd.load("miniature"), QUICK if quick else Sizes(), parts)
    known = json.loads(json_path.read_text()) if parts and json_path and json_path.exists() else {}
    text = json.dumps(known | figures, indent=1) + "\n"
    sys.stdout.write(text)
    if json_path:
        json_path.write_text(text)
    if sheet_path:
        sheet.write(sheet_path, cells)


def evaluate(
    backbone: sd.Backbone, sizes: Sizes, parts: Sequence[str] = ()
) -> tuple[dict[str, float], list[sheet.Cell]]:
    """All figures by key, and captioned pictures; `backbone` is the family's, whatever its weights.

    ValueError for a part that is none of `PARTS`.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    figures: dict[str, float] = {}
    cells: list[sheet.Cell] = []
    for name in parts or PARTS:
        started = time.monotonic()
        found, pictures = PARTS[name](backbone, sizes)
        figures.update({key: round(value, 4) for key, value in found.items()})
        cells += pictures
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    return figures, cells


def reconstruction(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """The VAE's PSNR, in its worst style or background, and that of a patch-PCA code of as many channels."""
    pictures, scenes = world.render_pictures(range(FIRST["renders"], FIRST["renders"] + sizes.renders))
    frames = frames_of(pictures)
    rebuilt = backbone.decode_latents(backbone.encode_frames(frames))
    values = pixel.psnr(rebuilt, frames)
    groups: dict[str, list[float]] = {}
    for scene, value in zip(scenes, values.tolist(), strict=True):
        groups.setdefault(scene.style, []).append(value)
        groups.setdefault(scene.background, []).append(value)
    linear = patch_pca(frames, backbone.latent_channels, sizes.linear_fit)
    figures = {
        "vae.psnr": float(values.mean()),
        "vae.psnr_worst_group": min(sum(group) / len(group) for group in groups.values()),
        "vae.psnr_pca": float(pixel.psnr(linear, frames).mean()),
    }
    cells: list[sheet.Cell] = []
    for scene, value, source, result in list(zip(scenes, values.tolist(), frames, rebuilt, strict=True))[:6]:
        cells += [("render", source), (f"{scene.style}: {value:.1f} dB", result)]
    return figures, cells


def patch_pca(frames: Float[Tensor, "f 3 h w"], channels: int, fitted_on: int) -> Float[Tensor, "f 3 h w"]:
    """Frames through the linear 8x8-patch code of `channels` numbers, fitted on other renders."""
    others = world.render_pictures(range(FIRST["renders"] - fitted_on, FIRST["renders"]))[0]
    mean, basis, _ = fit_linear_code(frames_of(others) * 2 - 1, channels)
    patches = functional.pixel_unshuffle(frames * 2 - 1, PATCH).movedim(1, -1) - mean
    return (functional.pixel_shuffle((patches @ basis @ basis.T + mean).movedim(-1, 1), PATCH) / 2 + 0.5).clamp(0, 1)


def text_to_image(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """How often the judge sees the caption's words in a generated picture."""
    seeds = range(FIRST["captions"], FIRST["captions"] + sizes.captions)
    scenes = [sample_scene(seed) for seed in seeds]
    texts = [caption(scene, index) for index, scene in enumerate(scenes)]
    side = backbone.native_size // backbone.vae_factor
    noise = torch.stack([_noise(seed, backbone.latent_channels, side) for seed in seeds])
    frames = generate(backbone, noise, texts, GUIDANCE, sizes.sampling_steps)
    said = judge.classify(frames)
    figures = {f"t2i.{head}": _share(said[head], [getattr(scene, head) for scene in scenes]) for head in HEADS}
    return figures, [(_short(scene), frame) for scene, frame in zip(scenes[:36], frames, strict=False)]


def _noise(seed: int, channels: int, side: int) -> Tensor:
    return torch.randn((channels, 1, side, side), generator=torch.Generator().manual_seed(seed))


def clips(backbone: sd.Backbone, scenes: Sequence[Scene], frames: int) -> tuple[Tensor, Tensor]:
    """Frames (b f 3 H W) spread over an eight-frame render of each scene, and their latents (b c f h w)."""
    rendered = [frames_of(world.render_frames(scene, 8)[:: max(1, 8 // frames)][:frames]) for scene in scenes]
    return torch.stack(rendered), torch.cat([backbone.encode_frames(clip) for clip in rendered])


def round_trip(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """PSNR of inversion and reconstruction at guidance 1, beside what the VAE alone allows."""
    scenes = [sample_scene(FIRST["inversions"] + index) for index in range(sizes.inversions)]
    texts = [caption(scene) for scene in scenes]
    frames, latents = clips(backbone, scenes, sizes.frames)
    frames = frames.flatten(0, 1)
    ceiling = backbone.decode_latents(rearrange(latents, "b c f h w -> 1 c (b f) h w"))
    noise = invert(backbone, latents, texts, sizes.inversion_steps)
    rebuilt = generate(backbone, noise, texts, 1.0, sizes.inversion_steps)
    figures = {
        "inversion.psnr": float(pixel.psnr(rebuilt, frames).mean()),
        "inversion.psnr_vae_ceiling": float(pixel.psnr(ceiling, frames).mean()),
    }
    pairs = zip(frames[:: sizes.frames][:4], rebuilt[:: sizes.frames][:4], strict=True)
    return figures, [cell for source, result in pairs for cell in (("source", source), ("inverted", result))]


def editing(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """Edits frame by frame: how often the judge sees the new word, and how often the other three words stay."""
    figures, cells, kept = dict[str, float](), list[sheet.Cell](), list[float]()
    for number, kind in enumerate(EDITS):
        first = FIRST["edits"] + 1000 * number
        scenes = [sample_scene(first + index) for index in range(sizes.edits)]
        targets = [_edited(scene, kind) for scene in scenes]
        frames, latents = clips(backbone, scenes, sizes.frames)
        noise = invert(backbone, latents, [caption(scene) for scene in scenes], sizes.inversion_steps)
        results = generate(backbone, noise, [caption(each) for each in targets], EDIT_GUIDANCE, sizes.inversion_steps)
        said = judge.classify(results)
        wanted = {head: [getattr(each, head) for each in targets for _ in range(sizes.frames)] for head in HEADS}
        shares = {head: _share(said[head], wanted[head]) for head in HEADS}
        figures[f"edit.{kind}"] = shares.pop(kind)
        kept += shares.values()
        for index in range(min(6, sizes.edits)):
            source, result = frames[index, 0], results[index * sizes.frames]
            cells += [(_short(scenes[index]), source), (f"-> {getattr(targets[index], kind)}", result)]
    return figures | {"edit.kept": sum(kept) / len(kept)}, cells


def _edited(scene: Scene, kind: str) -> Scene:
    """The scene with another word for one attribute, drawn by the scene's seed."""
    choices = [word for word in ATTRIBUTES[kind] if word != getattr(scene, kind)]
    word = choices[int(generator("edit", kind, scene.seed).integers(len(choices)))]
    changes: dict[str, Any] = {kind: word}
    return replace(scene, **changes)


def through_diffusers(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """diffusers' own pipeline on the folder, read by the same judge."""
    scenes = [sample_scene(FIRST["captions"] + index) for index in range(sizes.pipeline)]
    diffusers_logging.disable_progress_bar()
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(family.WEIGHTS, vae=family.load_vae(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures: Tensor = pipeline(
        [caption(scene) for scene in scenes],
        height=backbone.native_size,
        width=backbone.native_size,
        guidance_scale=GUIDANCE,
        num_inference_steps=sizes.sampling_steps,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    said = judge.classify(pictures)
    figures = {f"pipeline.{head}": _share(said[head], [getattr(scene, head) for scene in scenes]) for head in HEADS}
    return figures, [("diffusers", picture) for picture in pictures[:4]]


def recognisers(_: sd.Backbone, sizes: Sizes) -> Measured:
    """The judge, the finder and the CLIP-like pair on unseen renders."""
    figures = {f"judge.{head}": value for head, value in train_judge.measure(count=sizes.recogniser_renders).items()}
    figures |= train_finder.measure(count=sizes.recogniser_renders // 4)
    return figures | {"clip.top1_of_64": train_clip.retrieval(count=sizes.recogniser_renders)}, []


PARTS: dict[str, Callable[[sd.Backbone, Sizes], Measured]] = {
    "vae": reconstruction,
    "t2i": text_to_image,
    "inversion": round_trip,
    "edit": editing,
    "pipeline": through_diffusers,
    "recognisers": recognisers,
    "clips": evaluate_clips.text_to_video,
    "boxes": evaluate_boxes.in_boxes,
    "edges": evaluate_edges.along_edges,
    "motion": evaluate_motion.transfer,
    "dreamix": evaluate_motion.appearance,
}


def _share(said: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(said, wanted, strict=True)) / len(said)


def _short(scene: Scene) -> str:
    return f"{scene.colour} {scene.subject} {scene.background} {scene.style.split()[0]}"
