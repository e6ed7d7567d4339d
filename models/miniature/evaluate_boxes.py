"""The grounded denoiser measured: does the subject come to lie in the box it is given?"""

import torch
from einops import rearrange
from torch import Tensor

from models.backbones import sd
from models.conditions import grounding
from models.guidance import cfg
from models.miniature import boxes, finder, judge, loop, sheet
from models.miniature.evaluate_sizes import Measured, Sizes
from models.miniature.recognisers import HEADS
from models.miniature.sampling import branches
from models.miniature.scene import caption, sample_scene
from models.schedules import ddim

FIRST_SEED = 7_000_000
GUIDANCE = 4.0
INSIDE = 0.5
"""A subject lies in a box when their overlap (intersection over union) is at least this."""


def in_boxes(_: sd.Backbone, sizes: Sizes) -> Measured:
    """Overlap of the subject with its box, with and without grounding, from the same noise and captions."""
    backbone, count, steps = sd.load(sd.MINIATURE_GROUNDED), sizes.boxed, sizes.sampling_steps
    scenes = [sample_scene(FIRST_SEED + index) for index in range(count)]
    given = boxes.pictures_anywhere(range(FIRST_SEED, FIRST_SEED + count))[2]
    texts = [caption(scene, 1) for scene in scenes]
    phrases = [f"a {scene.colour} {scene.subject}" for scene in scenes]
    side = backbone.native_size // backbone.vae_factor
    noise = torch.randn((1, 4, count, side, side), generator=torch.Generator().manual_seed(FIRST_SEED))
    figures: dict[str, float] = {}
    cells: list[sheet.Cell] = []
    for name, where in (("boxes", objects(backbone, given, phrases)), ("boxes.ungrounded", None)):
        with loop.autocast():
            frames = sampled(backbone, noise, texts, where, steps).float()
        found = finder.boxes(frames)
        overlaps = [boxes.overlap(box, right) if box else 0.0 for box, right in zip(found, given, strict=True)]
        figures[f"{name}.iou"] = sum(overlaps) / count
        figures[f"{name}.inside"] = sum(value >= INSIDE for value in overlaps) / count
        said = judge.classify(frames)
        for head in HEADS:
            right = [getattr(scene, head) for scene in scenes]
            figures[f"{name}.{head}"] = sum(map(str.__eq__, said[head], right)) / count
        labelled = zip(phrases, frames, given, strict=True)
        cells += [(phrase, framed(frame, box)) for phrase, frame, box in list(labelled)[:24]]
    return figures, cells


def objects(backbone: sd.Backbone, given: list[boxes.Box], phrases: list[str]) -> grounding.Objects:
    """One object for each picture: picture i has box and phrase i alone."""
    each = [
        grounding.objects(backbone, torch.tensor([[box]]), [text]) for box, text in zip(given, phrases, strict=True)
    ]
    parts = (torch.cat([getattr(one, name) for one in each]) for name in ("boxes", "positive_embeddings", "masks"))
    return grounding.Objects(*parts)


@torch.no_grad()
def sampled(
    backbone: sd.Backbone, noise: Tensor, texts: list[str], where: grounding.Objects | None, steps: int
) -> Tensor:
    """Pictures (n 3 H W) from noise (1 c n h w), one text and one object each."""
    schedule = ddim.Schedule.from_config(backbone.scheduler_config)
    network = grounding.Grounded(backbone.unet, where, None)
    conditional, stride = branches(backbone, texts, GUIDANCE), schedule.stride(steps)
    latents = rearrange(noise, "1 c n h w -> n c 1 h w")
    for t in schedule.timesteps(steps):
        output = backbone.predict(latents, t, conditional.conditional, unet=network)
        if conditional.unconditional is not None:
            plain = backbone.predict(latents, t, conditional.unconditional, unet=network.nowhere())
            output = cfg.combine(plain, output, GUIDANCE)
        latents = ddim.step(schedule, output, latents, level=t, to=t - stride)
    return backbone.decode_latents(rearrange(latents, "n c 1 h w -> 1 c n h w"))


def framed(frame: Tensor, box: boxes.Box) -> Tensor:
    """A frame with the box drawn into it."""
    drawn, side = frame.clone(), frame.shape[-1]
    left, top, right, bottom = (min(round(value * side), side - 1) for value in box)
    red = torch.tensor([1.0, 0.0, 0.0])[:, None]
    drawn[:, top, left:right], drawn[:, bottom, left:right] = red, red
    drawn[:, top:bottom, left], drawn[:, top:bottom, right] = red, red
    return drawn
