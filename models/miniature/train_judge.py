"""Training of the judge: cross-entropy on the four attributes of softened renders, and its export."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.miniature import data, loop
from models.miniature.judge import FOLDER, WIDTHS, Judge, classify
from models.miniature.recognisers import (
    HEADS,
    averaged,
    drawn,
    frames_of,
    labels,
    publish,
    shrink,
    soften,
    unseen,
    write_half,
)

BATCH = 128
PICTURES = 30_000
UNSEEN = 2_000


def train(
    folder: Path,
    minutes: float,
    resume: bool = False,
    *,
    out: Path = FOLDER,
    count: int = PICTURES,
    measured: int = UNSEEN,
) -> dict[str, float]:
    """Train for `minutes` on `count` pictures and write the weights to `out`.

    Pictures and checkpoints are kept in `folder`. Returns the accuracy per attribute on `measured` unseen renders.
    """
    torch.manual_seed(0)
    store, truth = data.pictures(folder, count), labels(data.scenes(count))

    def loss(network: nn.Module, step: int) -> Tensor:
        rows, generator = drawn(step, count, BATCH)
        frames = soften(shrink(frames_of(store[rows.numpy()])), generator)
        with loop.autocast():
            answer = network(frames)
        parts = [
            functional.cross_entropy(answer[head].float(), truth[rows, column], label_smoothing=0.05)
            for column, head in enumerate(HEADS)
        ]
        return torch.stack(parts).sum()

    plan = loop.Plan(folder / "judge", minutes, "cross-entropy", resume, average_decay=0.995)
    run = loop.Run(Judge().train(), plan)
    run.go(loss, lambda run: str(measure(averaged(run), count=measured // 4)))
    accuracy = measure(averaged(run), count=measured)
    publish(out, lambda fresh: _write(fresh, averaged(run), accuracy))
    return accuracy


def measure(judge: Judge | None = None, *, softened: bool = False, count: int = UNSEEN) -> dict[str, float]:
    """Accuracy per attribute on `count` renders of unseen seeds, plain or softened as in training."""
    frames, shown = unseen(count)
    if softened:
        frames = soften(frames, torch.Generator().manual_seed(0))
    said = classify(frames, judge)
    return {
        head: sum(word == getattr(scene, head) for word, scene in zip(said[head], shown, strict=True)) / count
        for head in HEADS
    }


def _write(folder: Path, judge: Judge, accuracy: dict[str, float]) -> None:
    write_half(judge, folder / "model.safetensors")
    config = {"widths": list(WIDTHS), "heads": list(HEADS), "unseen_accuracy": accuracy}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
