"""Methods made for text-to-video networks, measured by motion: MotionDirector's transfer and Dreamix' edits.

Motion is compared by `finder.track_correlation`: the exact track of the source clip's subject with the track the finder
sees in the output. The clips are held out; their motions are those that a track shows, which spinning is not.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import engine, video
from models.backbones import sd
from models.context import Cache, MemoryCache
from models.digest import digest_file
from models.miniature import finder, judge, loop, sheet, world
from models.miniature.evaluate_sizes import Measured, Sizes
from models.miniature.scene import ATTRIBUTES, Scene, caption, generator, sample_scene
from models.types import File

FIRST_SEED = 6_000_000
MOTIONS = ("drift", "arc", "bounce", "zoom")
FRAMES, FPS = 8, 8
TRANSFER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_inversion_steps": 15,
    "num_inference_steps": 15,
    "guidance_scale": 6.0,
}
"""Parameters of MotionDirector that are not its defaults: twice the rate, fewer steps of sampling, less guidance."""
CONTROLS: dict[str, dict[str, Any]] = {
    "motion": {},
    "motion.no_prior": {"noise_prior": 0.0},
    "motion.not_learned": {"motion_scale": 0.0},
}
"""MotionDirector as published, from fresh noise alone, and without what it learned (the noise prior still there)."""
REPAINT: dict[str, Any] = {"num_tuning_steps": 40, "num_inference_steps": 20, "guidance_scale": 6.0}
"""Parameters of Dreamix that are not its defaults."""


def clips(count: int, first: int = FIRST_SEED) -> list[Scene]:
    """Held-out scenes whose motions take turns, seen by a camera that stands still."""
    scenes = [sample_scene(first + index) for index in range(count)]
    return [replace(scene, motion=MOTIONS[i % len(MOTIONS)], camera="still") for i, scene in enumerate(scenes)]


def edited(scene: Scene, kind: str) -> Scene:
    """The scene with another word for one attribute, drawn by its seed."""
    others = [word for word in ATTRIBUTES[kind] if word != getattr(scene, kind)]
    changes: dict[str, Any] = {kind: others[int(generator("motion", kind, scene.seed).integers(len(others)))]}
    return replace(scene, **changes)


def transfer(_: sd.Backbone, sizes: Sizes) -> Measured:
    """MotionDirector learns a clip's motion and makes a clip of another subject: track correlation, and the judge."""
    backbone = loaded()
    return summary("motion", [transferred(scene, backbone) for scene in clips(sizes.motions)])


def appearance(_: sd.Backbone, sizes: Sizes) -> Measured:
    """Dreamix changes colour or subject: whether the judge sees it, what is kept, and the track correlation."""
    backbone, scenes = loaded(), clips(sizes.motions, FIRST_SEED + 1000)
    return summary("dreamix", [repainted(scene, index, backbone) for index, scene in enumerate(scenes)])


def transferred(scene: Scene, backbone: sd.Backbone) -> Measured:
    """One clip's motion given to another subject, with and without its parts."""
    target, cache = edited(scene, "subject"), MemoryCache()
    figures: dict[str, float] = {}
    cells: list[sheet.Cell] = []
    for name, control in CONTROLS.items():
        params = {"source_prompt": caption(scene), "prompt": caption(target, 1), **TRANSFER, **control}
        source, output = run("motion_director", params, scene, backbone, cache)
        correlation = kept_track(scene, output)
        figures |= {f"{name}.track": correlation, f"{name}.subject": share(output, target, "subject")}
        cells += row(source, output, scene, target.subject, correlation) if name == "motion" else []
        sys.stderr.write(f"{name} {scene.motion} -> {target.subject}: track correlation {correlation:.2f}\n")
    return figures | {f"motion.track.{scene.motion}": figures["motion.track"]}, cells


def repainted(scene: Scene, index: int, backbone: sd.Backbone) -> Measured:
    """One clip in another colour, or with another subject: two clips and two clips take turns."""
    kind = ("colour", "subject")[index // 2 % 2]
    target = edited(scene, kind)
    params = {"source_prompt": caption(scene), "prompt": caption(target), **REPAINT}
    source, output = run("dreamix", params, scene, backbone, MemoryCache())
    kept = [share(output, target, head) for head in ("background", "style")]
    figures = {
        "dreamix.track": kept_track(scene, output),
        f"dreamix.{kind}": share(output, target, kind),
        "dreamix.kept": sum(kept) / len(kept),
    }
    sys.stderr.write(f"{scene.motion} -> {getattr(target, kind)}: {figures}\n")
    return figures, row(source, output, scene, getattr(target, kind), figures["dreamix.track"])


def summary(name: str, parts: Sequence[Measured]) -> Measured:
    """Means over clips by key, the least track correlation, and all pictures."""
    keys = dict.fromkeys(key for figures, _ in parts for key in figures)
    values = {key: [figures[key] for figures, _ in parts if key in figures] for key in keys}
    means = {key: sum(found) / len(found) for key, found in values.items()}
    least = {f"{name}.track_least": min(values[f"{name}.track"])}
    return means | least, [cell for _, cells in parts for cell in cells]


def kept_track(scene: Scene, output: Tensor) -> float:
    """Correlation of the scene's exact track with the one seen in the output."""
    return finder.track_correlation(exact_track(scene), finder.track(finder.masks(output)))


def loaded() -> sd.Backbone:
    """The text-to-video backbone, in bf16 where the processor multiplies it natively: tuning takes half the time."""
    dtype = torch.bfloat16 if loop.bf16_is_native() else torch.float32
    return sd.load(sd.MINIATURE_T2V, dtype=dtype)


def run(
    method_id: str, params: dict[str, Any], scene: Scene, backbone: sd.Backbone, cache: Cache
) -> tuple[Tensor, Tensor]:
    """Edit the scene's clip with a method: the frames before and after (f 3 h w)."""
    source = world.render(scene, FRAMES).frames
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write(path, source, FPS)
        given = {"video": File(path, digest_file(path), path.name)}
        return source, engine.run(engine.find(method_id), params, given, backbone, cache=cache).video.frames


def exact_track(scene: Scene) -> Tensor:
    """The track of the scene's subject from its exact masks."""
    return finder.track(world.render(scene, FRAMES).masks)


def share(frames: Tensor, wanted: Scene, head: str) -> float:
    """Share of frames in which the judge sees the wanted word."""
    said, word = judge.classify(frames)[head], str(getattr(wanted, head))
    return said.count(word) / len(said)


def row(source: Tensor, output: Tensor, scene: Scene, word: str, correlation: float) -> list[sheet.Cell]:
    """Six frames of the source and six of the output."""
    places = [0, 1, 3, 4, 6, 7]
    before = [(f"{scene.motion}: {scene.colour} {scene.subject}", source[place]) for place in places]
    return before + [(f"-> {word} r={correlation:.2f}", output[place]) for place in places]
