"""The text-to-video denoiser measured on held-out captions, beside the image UNet run frame by frame."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.backbones import sd
from models.conditions import optical_flow
from models.metrics import clip as clip_metrics
from models.metrics import warp
from models.miniature import clip, finder, judge, loop, sheet, world
from models.miniature.evaluate_sizes import Measured, Sizes
from models.miniature.recognisers import HEADS, frames_of
from models.miniature.sampling import generate
from models.miniature.scene import Scene, caption, sample_scene

FIRST_SEED = 5_000_000
FRAMES = 8
GUIDANCE = 4.0
Clips = Float[Tensor, "n f 3 h w"]


def text_to_video(images: sd.Backbone, sizes: Sizes) -> Measured:
    """What the judge sees in generated clips, how steady they are, and how far their subjects travel.

    `images.*` are clips of the image denoiser from the same noise, `world.*` the world's own clips of these captions.
    """
    backbone, count, steps = sd.load(sd.MINIATURE_T2V), sizes.clips, sizes.sampling_steps
    scenes = [sample_scene(FIRST_SEED + index) for index in range(count)]
    texts = [caption(scene, (0, 2)[index % 2]) for index, scene in enumerate(scenes)]
    side = backbone.native_size // backbone.vae_factor
    shape = (count, backbone.latent_channels, FRAMES, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(FIRST_SEED))
    with loop.autocast():
        made = {
            "t2v": generate(backbone, noise, texts, GUIDANCE, steps).float().unflatten(0, (count, FRAMES)),
            "images": generate(images, noise, texts, GUIDANCE, steps).float().unflatten(0, (count, FRAMES)),
        }
    made["world"] = torch.stack([frames_of(world.render_frames(scene, FRAMES)) for scene in scenes])
    figures = {f"{name}.{key}": value for name, clips in made.items() for key, value in steadiness(clips).items()}
    figures |= {f"t2v.{head}": value for head, value in seen(made["t2v"], scenes).items()}
    return figures, _cells(made, scenes)


def seen(clips: Clips, scenes: list[Scene]) -> dict[str, float]:
    """Share of all frames in which the judge sees the caption's word, by attribute."""
    said = judge.classify(clips.flatten(0, 1))
    wanted = {head: [getattr(scene, head) for scene in scenes for _ in range(clips.shape[1])] for head in HEADS}
    return {head: sum(map(str.__eq__, said[head], wanted[head])) / len(said[head]) for head in HEADS}


def steadiness(clips: Clips) -> dict[str, float]:
    """Means over clips: cosine of neighbouring frames (CLIP-like), warp error along DIS flow, and the subject's travel.

    Travel is how far the middle of the subject goes, in frame sides: 0 for a still.
    """
    parts = [(_next(frames), _warp_error(frames), _travel(frames)) for frames in clips]
    names = ("clip_next", "warp_mse", "travel")
    return {
        name: float(torch.tensor(values).nanmean())
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def _next(frames: Tensor) -> float:
    return clip_metrics.frame_consistency_next(clip.embed_frames(frames))


def _warp_error(frames: Tensor) -> float:
    backward = optical_flow.between(frames[1:], frames[:-1])
    forward = optical_flow.between(frames[:-1], frames[1:])
    return warp.warp_mse(frames, backward, warp.valid(backward, forward))


def _travel(frames: Tensor) -> float:
    track = finder.track(finder.masks(frames))
    middle = (track[:, :2] + track[:, 2:]) / 2
    return float((middle.amax(0) - middle.amin(0)).square().sum().sqrt())


def _cells(made: dict[str, Clips], scenes: list[Scene]) -> list[sheet.Cell]:
    """For the first scenes, one row a source of clips: as many frames as a row has room for beside the next."""
    cells: list[sheet.Cell] = []
    for index, scene in enumerate(scenes[:4]):
        for name in ("t2v", "images", "world"):
            label = f"{scene.colour} {scene.subject} {scene.motion}"
            cells += [(f"{name}: {label}", frame) for frame in made[name][index, ::2]]
    return cells
