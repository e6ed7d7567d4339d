"""The service's own engine: `models.engine.run` on a warm backbone, and the edited clip as a file."""

import gc
import time
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from jobs.schema import Notice, StageProgress
from jobs.settings import Settings
from models import engine, video
from models.backbones.backbone import Backbone
from models.context import Preview
from models.errors import Cancelled
from models.method import VideoInput, validated
from models.params import VideoParams
from models.types import File, Frames, Video
from models.video import limited
from workers import device as devices
from workers import series
from workers.screen import limits, screen
from workers.warm import Warm
from workers.work import Edit, Hooks, Made, MadeFile

PREVIEW_FPS = 4.0
MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webp": "image/webp"}


@cache
def warm(settings: Settings) -> Warm:
    """Return this process's loaded backbones."""
    return Warm(settings)


def edit(task: Edit, hooks: Hooks, settings: Settings) -> Made:
    """Perform one edit. Raises the errors of `models.errors`; drops its tensors whatever happens."""
    kind = engine.find(task.method)
    screen(task.inputs, settings)
    inputs = _files(task)
    params, given = validated(kind, task.params, inputs)  # before weights are read, which may take minutes
    backbone, was_warm = warm(settings).get(task.checkpoint, kind.backbone.family, hooks.loading)
    devices.begin(backbone.device)
    began = time.monotonic()
    try:
        _load_companions(params, given, backbone, hooks)
        with limited(limits(settings)), backbone.sparing() if task.frugal else nullcontext():
            result = engine.run(
                kind,
                task.params,
                inputs,
                backbone,
                cache=hooks.cache,
                progress=lambda at: hooks.tell(at.stage, at.state, at.step, at.steps),
                cancelled=lambda: hooks.cancelled() and not hooks.handover.wanted(),
                handover=hooks.handover,
                salt=task.salt,
                preview=_preview(task, hooks),
            )
        spent = time.monotonic() - began
        return Made(
            files=(_write(result.video, task), *_metrics(result, backbone.checkpoint, task, hooks)),
            stages=tuple(map(_account, result.stages)),
            warnings=tuple(Notice(code=item.code, message=item.message) for item in result.warnings),
            checkpoint=backbone.checkpoint,
            device=devices.name(backbone.device),
            warm=was_warm,
            loaded=warm(settings).checkpoints,
            gpu_seconds=spent if backbone.device.type != "cpu" else 0.0,
            peak_vram_bytes=devices.peak_bytes(backbone.device),
            receipt=_receipt(task, params, backbone, result),
        )
    finally:
        gc.collect()
        devices.release()


def _load_companions(params: VideoParams, given: VideoInput, backbone: Backbone, hooks: Hooks) -> None:
    """Load the networks that parameters name, which may take minutes, before the first stage."""
    missing = [reference for reference in params.companions() if reference not in backbone.companions]
    if missing:
        with hooks.loading(" ".join(missing)):
            params.ready(backbone, given)


def _receipt(task: Edit, params: VideoParams, backbone: Backbone, result: engine.Result) -> dict[str, Any]:
    """What the result depends on, beside the inputs."""
    module = import_module(engine.find(task.method).__module__)
    return {
        "params": params.model_dump(mode="json"),
        "method": {"id": task.method, "version": getattr(module, "VERSION", 1)},
        "model": {
            "checkpoint": backbone.checkpoint,
            "revision": backbone.revision,
            "digest": backbone.digest,
            "files": backbone.files,
        },
        "companions": {
            name: {"revision": held.revision, "digest": held.digest, "files": held.files}
            for name, held in backbone.companions.items()
            if name in params.companions()
        },
        "keys": {item.name: item.key for item in result.stages},
        "numerics": {
            "torch": torch.__version__,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "device_type": backbone.device.type,
            "threads": torch.get_num_threads(),
            "frugal": task.frugal,
        },
    }


def _preview(task: Edit, hooks: Hooks) -> Preview | None:
    """Write what the edit has come to as a small animated picture, as often as the job asks."""
    if task.preview is None:
        return None
    most, every = task.preview.max_px, task.preview.every_steps

    def show(frames: Frames, step: int, steps: int) -> None:
        height, width = frames.shape[-2:]
        scale = min(1.0, most / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        path = task.folder / "preview.webp"
        video.write(path, frames, PREVIEW_FPS, size=size)
        hooks.preview(MadeFile(path, MEDIA_TYPES["webp"], *size, len(frames), PREVIEW_FPS), step, steps)

    return Preview(every, show)


def _files(task: Edit) -> dict[str, File | tuple[File, ...]]:
    """Return the engine's inputs; `name/0`, `name/1` … become one tuple."""
    found: dict[str, File | tuple[File, ...]] = {}
    lists: dict[str, dict[int, File]] = {}
    for key, given in task.inputs.items():
        name, separator, number = key.partition("/")
        file = File(given.path, given.digest, given.name)
        if separator:
            lists.setdefault(name, {})[int(number)] = file
        else:
            found[name] = file
    return found | {name: tuple(files[number] for number in sorted(files)) for name, files in lists.items()}


def _write(made: Video, task: Edit) -> MadeFile:
    path: Path = task.folder / f"output.{task.container}"
    start = float(task.params.get("start_seconds", 0.0))
    sound = task.inputs["video"].path if task.container == "mp4" else None
    video.write(path, made.frames, made.fps, audio_from=sound, start_seconds=start, size=(made.width, made.height))
    frames = len(made.frames)
    return MadeFile(path, MEDIA_TYPES[task.container], made.width, made.height, frames, made.fps)


def _metrics(result: engine.Result, checkpoint: str, task: Edit, hooks: Hooks) -> tuple[MadeFile, ...]:
    """Return the edit's figures frame by frame, as a second file. Raises Cancelled."""

    def alive(done: int, pairs: int) -> None:
        hooks.tell("publish", "running", done, pairs)
        if hooks.cancelled():
            raise Cancelled("stopped while the edit was measured")

    facts = {"checkpoint": checkpoint, "prompt": str(task.params.get("prompt", "")), "alive": alive}
    path = series.write(task.folder, result.video.frames, result.source.frames, result.video.fps, **facts)
    return () if path is None else (MadeFile(path, "application/json", frames=len(result.video.frames)),)


def _account(report: engine.StageReport) -> StageProgress:
    cached = report.name in engine.CACHED
    return StageProgress(
        name=report.name,
        state="skipped" if report.state == "skipped" else "done",
        seconds=None if report.state == "skipped" else round(report.seconds, 3),
        cache=("hit" if report.state == "hit" else "miss") if cached and report.state != "skipped" else None,
        frame_evals=report.frame_evals + report.resumed_frame_evals,
        resumed_frame_evals=report.resumed_frame_evals or None,
        saved_frame_evals=report.saved_frame_evals if report.state == "hit" else None,
        saved_seconds=round(report.saved_seconds, 3) if report.state == "hit" else None,
    )
