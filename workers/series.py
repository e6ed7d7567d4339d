"""How an edit holds up frame by frame: a small file beside the result, drawn under the player of the page.

Each series is one value per frame, null where it is not defined (a warp error needs the frame before). The keys are
those of `models.metrics`, so that a curve is never mistaken for another definition of the same name.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn import functional

from models.conditions import optical_flow
from models.metrics import pixel, warp
from models.miniature import clip as miniature_clip
from models.types import Frames

NAME = "metrics.json"
SCHEMA_VERSION = 1
CHUNK = 16
"""Pairs of frames whose flow is held at once: memory stays flat however long the clip is."""
MINIATURE = "miniature"

log = structlog.get_logger(__name__)
Values = list[float | None]
Alive = Callable[[int, int], None]


def write(folder: Path, edited: Frames, source: Frames, fps: float, **facts: Any) -> Path | None:
    """Write `metrics.json` of an edit (f 3 h w) of `source` (f 3 h w) at working size; `facts` as `measure` takes them.

    None, and a line in the log, when they cannot be measured: an edit is never lost for its metrics.
    """
    try:
        measured = measure(edited.float().cpu(), source.float().cpu(), fps, **facts)
    except (RuntimeError, ValueError, OSError) as error:
        log.warning("no metrics of this edit", kind=type(error).__name__)
        return None
    path = folder / NAME
    path.write_text(json.dumps(measured), encoding="utf-8")
    return path


def measure(
    edited: Frames, source: Frames, fps: float, *, checkpoint: str, prompt: str, alive: Alive
) -> dict[str, Any]:
    """The series of an edit. `alive(done, pairs)` is called now and then, and may raise to stop.

    The CLIP-like pair is the miniature's and knows nothing of other footage, so only that checkpoint's edits get it.
    """
    height, width = edited.shape[-2:]
    series = [*_motion(edited, source, alive), *_pixels(edited, source)]
    if checkpoint == MINIATURE:
        series += _embedded(edited, prompt)
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": checkpoint,
        "frames": len(edited),
        "fps": fps,
        "width": width,
        "height": height,
        "series": series,
    }


def _series(key: str, title: str, help_text: str, better: str, values: Values) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = round(sum(known) / len(known), 6) if known else None
    return {"key": key, "title": title, "help": help_text, "better": better, "mean": mean, "values": values}


def _motion(edited: Frames, source: Frames, alive: Alive) -> Iterator[dict[str, Any]]:
    if edited.shape != source.shape or len(edited) < 2:
        return
    errors = torch.cat([_warp_errors(edited, source, start, alive) for start in range(0, len(edited) - 1, CHUNK)])
    text = "Mean squared difference to the frame before, carried along by the source's DIS optical flow; visible pixels"
    yield _series("refilm.warp_mse@dis", "Warp error", text, "lower", [None, *_plain(errors, 8)])


def _warp_errors(edited: Frames, source: Frames, start: int, alive: Alive) -> Tensor:
    """Errors of up to `CHUNK` pairs, the first of which ends at frame `start + 1`."""
    alive(start, len(edited) - 1)
    end = min(start + CHUNK, len(edited) - 1)
    before, after = source[start:end], source[start + 1 : end + 1]
    backward, forward = optical_flow.between(after, before), optical_flow.between(before, after)
    visible = warp.valid(backward, forward).to(edited.dtype)
    guess = warp.warp(edited[start:end], backward)
    error = (edited[start + 1 : end + 1] - guess).square().mean(1, keepdim=True)
    return (error * visible).flatten(1).sum(1) / visible.flatten(1).sum(1)


def _pixels(edited: Frames, source: Frames) -> Iterator[dict[str, Any]]:
    if edited.shape == source.shape:
        text = "Decibels against the source: how much of the picture stays"
        yield _series("refilm.psnr_source", "PSNR to source", text, "none", _plain(pixel.psnr(edited, source), 3))


def _embedded(edited: Frames, prompt: str) -> Iterator[dict[str, Any]]:
    frames = miniature_clip.embed_frames(edited)
    if prompt:
        text = miniature_clip.embed_text([prompt])[0]
        fit = "100 times the cosine of frame and prompt, by the miniature's CLIP-like pair"
        yield _series("tgve.clip_text@miniature", "Prompt fit", fit, "higher", _plain(100 * (frames @ text), 4))
    if len(frames) > 1:
        near = functional.cosine_similarity(frames[1:], frames[:-1])
        steady = "Cosine of a frame and the one before it, by the miniature's CLIP-like pair"
        yield _series("fatezero.tem_con@miniature", "Steadiness", steady, "higher", [None, *_plain(near, 6)])


def _plain(values: Tensor, digits: int) -> Values:
    return [round(value, digits) if value == value else None for value in values.tolist()]
