"""The ControlNet measured: does another scene come to lie where the edges say?"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from models.backbones import companions, sd
from models.conditions.controlnet import OFF, Control
from models.guidance import cfg
from models.metrics.pixel import psnr
from models.miniature import boxes, finder, judge, loop, world
from models.miniature.evaluate_motion import edited
from models.miniature.evaluate_sizes import Measured, Sizes
from models.miniature.recognisers import HEADS
from models.miniature.sampling import branches
from models.miniature.scene import caption, sample_scene
from models.miniature.train_control import edged
from models.schedules import ddim
from models.weights import MINIATURE_SOFTEDGE

FIRST_SEED = 5_000_000
GUIDANCE = 4.0


def along_edges(backbone: sd.Backbone, sizes: Sizes) -> Measured:
    """Overlap of the subject with the source's, in another style, with and without the ControlNet, from the same noise.

    `edges.psnr` (dB) compares the result with the world's own picture of the scene in that style.
    """
    count, steps = min(sizes.boxed, 32), sizes.sampling_steps
    scenes = [sample_scene(FIRST_SEED + index) for index in range(count)]
    targets = [edited(scene, "style") for scene in scenes]
    before, after = (torch.cat([world.render(scene, 1).frames for scene in each]) for each in (scenes, targets))
    exact = [boxes.box_of(world.render(scene, 1).masks[0, 0].numpy()) for scene in scenes]
    steered = Control(
        companions.load(backbone, MINIATURE_SOFTEDGE, companions.CONTROL_NETS).network,
        edged(2 * before - 1).repeat(2, 1, 1, 1),  # both branches of guidance
        active=frozenset(range(1000)),
        by_frame=True,
    )
    side = backbone.native_size // backbone.vae_factor
    noise = torch.randn((count, 4, 1, side, side), generator=torch.Generator().manual_seed(FIRST_SEED))
    figures: dict[str, float] = {}
    cells = [(f"{scene.colour} {scene.subject}", frame) for scene, frame in zip(scenes, before, strict=True)][:8]
    for name, control in (("edges", steered), ("edges.uncontrolled", OFF)):
        with loop.autocast():
            frames = sampled(backbone, noise, [caption(each, 1) for each in targets], control, steps).float()
        overlaps = [
            boxes.overlap(box, right) if box else 0.0 for box, right in zip(finder.boxes(frames), exact, strict=True)
        ]
        figures |= {f"{name}.iou": sum(overlaps) / count, f"{name}.psnr": float(psnr(frames, after).mean())}
        said = judge.classify(frames)
        for head in HEADS:
            figures[f"{name}.{head}"] = (
                sum(map(str.__eq__, said[head], [getattr(each, head) for each in targets])) / count
            )
        cells += [(target.style, frame) for target, frame in zip(targets, frames, strict=True)][:8]
    return figures, cells


@torch.no_grad()
def sampled(backbone: sd.Backbone, noise: Tensor, texts: list[str], control: Control, steps: int) -> Tensor:
    """Pictures (n 3 H W) from noise (n c 1 h w), one text and one picture of edges each."""
    schedule = ddim.Schedule.from_config(backbone.scheduler_config)
    text, stride, latents = branches(backbone, texts, GUIDANCE), schedule.stride(steps), noise
    predict = partial(backbone.predict, control=control)
    for t in schedule.timesteps(steps):
        output = cfg.guided(predict, latents, t, text, GUIDANCE)
        latents = ddim.step(schedule, output, latents, level=t, to=t - stride)
    return backbone.decode_latents(rearrange(latents, "n c 1 h w -> 1 c n h w"))
