"""Training of the finder on softened renders with exact masks, and its export."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.miniature import boxes, data, finder, loop, world
from models.miniature import scene as world_scene
from models.miniature.recognisers import averaged, drawn, frames_of, publish, shrink, soften, write_half
from models.miniature.scene import generator

BATCH = 96
PICTURES = 30_000
FIRST_SEED = 40_000_000
HELD_OUT = 950_000
UNSEEN = 400


def train(folder: Path, minutes: float, resume: bool = False, *, out: Path = finder.FOLDER) -> dict[str, float]:
    """Train for `minutes`, half on the training pictures, half on subjects anywhere, and write the weights to `out`."""
    torch.manual_seed(0)
    store = data.pictures(folder, PICTURES)

    def loss(network: nn.Module, step: int) -> Tensor:
        rows, draws = drawn(step, PICTURES, BATCH // 2)
        near = frames_of(store[rows.numpy()])
        first = FIRST_SEED + step * BATCH
        far, truth = anywhere(range(first, first + BATCH - len(near)))
        frames = soften(shrink(torch.cat([near, far])), draws)
        wanted = torch.cat([exact(rows.tolist()), truth])
        with loop.autocast():
            logits = network(frames)
        return functional.binary_cross_entropy_with_logits(logits.float(), wanted)

    plan = loop.Plan(folder / "finder", minutes, "cross-entropy", resume, average_decay=0.99)
    run = loop.Run(finder.Finder().train(), plan)
    run.go(loss, lambda run: str(measure(averaged(run), count=UNSEEN // 4)))
    figures = measure(averaged(run))
    publish(out, lambda fresh: _write(fresh, averaged(run), figures))
    return figures


def exact(rows: list[int]) -> Tensor:
    """Masks (n 1 32 32) of training pictures."""
    return _masks([_coverage(data.FIRST_SEED + row) for row in rows])


def _coverage(seed: int) -> world.Picture:
    return world.coverage(world_scene.sample_scene(seed), float(generator("time", seed).random()))


def anywhere(seeds: range) -> tuple[Tensor, Tensor]:
    """Pictures (n 3 128 128) with subjects anywhere, and their masks (n 1 32 32)."""
    scenes = [world_scene.sample_scene(seed) for seed in seeds]
    made = [world.picture_at(shown, boxes.anywhere(shown.seed), data.SIZE) for shown in scenes]
    return frames_of(np.stack([picture for picture, _ in made])), _masks([mask for _, mask in made])


def _masks(covers: list[world.Picture]) -> Tensor:
    stacked = torch.from_numpy(np.stack(covers))[:, None]
    return functional.interpolate(stacked, size=(finder.SIDE, finder.SIDE), mode="area")


def measure(network: finder.Finder | None = None, *, count: int = UNSEEN) -> dict[str, float]:
    """On unseen renders with subjects anywhere: the mean overlap (IoU) of the found box with the exact one."""
    seeds = range(HELD_OUT, HELD_OUT + count)
    pictures, _, truth = boxes.pictures_anywhere(seeds)
    found = finder.boxes(frames_of(pictures), network)
    overlaps = [0.0 if box is None else boxes.overlap(box, right) for box, right in zip(found, truth, strict=True)]
    return {"finder.box_iou": sum(overlaps) / count}


def _write(folder: Path, network: finder.Finder, figures: dict[str, float]) -> None:
    write_half(network, folder / "model.safetensors")
    config = {"widths": list(finder.WIDTHS), "unseen": figures}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
