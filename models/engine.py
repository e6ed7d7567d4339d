"""Run a method: five verbs in order, with cache, progress, stop and hand-over. This is all there is to it."""

import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from models import keys
from models.backbones.backbone import Backbone
from models.context import Cache, Context, NoCache, Preview, Warned
from models.errors import Cancelled, EditError, InvalidParams, OutOfMemory
from models.method import Method, VideoInput, absent, validated, warn_unread_words
from models.params import STAGES, Stage, VideoParams, guarded
from models.resume import Handover, Loops
from models.schedules import estimates
from models.types import Clip, Fitted, Trajectory, Video, finite, pack, unpack

CACHED: dict[Stage, type] = {"prepare": Clip, "fit": Fitted, "invert": Trajectory}


@dataclass(frozen=True)
class Progress:
    """Where an edit stands: the stage, its state (running, done, hit, skipped), and the step inside it."""

    stage: Stage
    state: str
    step: int = 0
    steps: int = 0
    label: str = ""


@dataclass(frozen=True)
class StageReport:
    """What one stage did: done, hit (from the cache) or skipped; seconds; UNet frame-evals run, and saved by a hit.

    ``resumed_frame_evals`` were run by an earlier run of the stage that handed it over, and not again by this one.
    """

    name: Stage
    state: str
    seconds: float = 0.0
    frame_evals: int = 0
    saved_frame_evals: int = 0
    saved_seconds: float = 0.0
    key: str = ""
    resumed_frame_evals: int = 0
    resumed_seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """An edited video, how each stage went, what the caller should know, and the clip as it was edited."""

    video: Video
    stages: tuple[StageReport, ...]
    warnings: tuple[Warned, ...]
    source: Clip


@dataclass(frozen=True)
class Run:
    """Everything one edit needs while its stages run."""

    method: Method
    inputs: VideoInput
    params: VideoParams
    backbone: Backbone
    cache: Cache
    progress: Callable[[Progress], None]
    cancelled: Callable[[], bool]
    handover: Handover | None
    preview: Preview | None


def method_ids() -> list[str]:
    """Ids of all methods: the file names in ``models/methods``."""
    package = importlib.import_module("models.methods")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find(method_id: str) -> type[Method]:
    """The method of that id; InvalidParams (``unknown_method``) names the ones there are."""
    if method_id not in method_ids():
        known = ", ".join(method_ids())
        raise InvalidParams(f"there is no method {method_id!r}", code="unknown_method", hint=f"choose one of: {known}")
    module = importlib.import_module(f"models.methods.{method_id}")
    found: list[type[Method]] = [kind for kind in vars(module).values() if _is_method(kind, module.__name__)]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Method, found {len(found)}")
    return found[0]


def _is_method(kind: Any, module: str) -> bool:
    return isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module


def run(
    kind: type[Method],
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    backbone: Backbone,
    *,
    cache: Cache | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    handover: Handover | None = None,
    salt: str = "",
    preview: Preview | None = None,
) -> Result:
    """Edit one clip: prepare, fit, invert, edit, decode.

    ``inputs`` maps field names to File (or tuples of File); ``salt`` separates tenants in the cache; ``preview`` shows
    the edit while it is made. With ``handover`` an edit can be stopped at a step and continued by another call of the
    same method, parameters, inputs, checkpoint and salt. Raises what ``models.errors`` holds; the backbone is always
    given back as it was.
    """
    p, files = validated(kind, params, inputs)
    current = Run(kind(), files, p, backbone, cache or NoCache(), progress, cancelled, handover, preview)
    try:
        p.ready(backbone, files)
        with torch.no_grad(), estimates.watched(preview.watch if preview else None):
            return _stages(current, keys.root(backbone, salt))
    except torch.OutOfMemoryError as error:
        hint = "edit fewer frames (max_frames) or a smaller size (width, height)"
        raise OutOfMemory(str(error), hint=hint) from error


def _stages(current: Run, key: str) -> Result:
    reports: list[StageReport] = []
    warnings = _unread(current)
    clip_key = ""
    values: dict[str, Any] = {"inputs": current.inputs, "fit": None, "invert": None}
    for stage in STAGES:
        if absent(type(current.method), stage):
            reports.append(StageReport(stage, "skipped"))
            current.progress(Progress(stage, "skipped"))
            continue
        key = keys.of_stage(type(current.method), current.params, current.inputs, stage, key)
        clip_key = key if stage == "prepare" else clip_key
        value, report, warned = _stage(current, stage, key, clip_key, values)
        values[stage] = value
        reports.append(report)
        warnings += [item for item in warned if item not in warnings]
    return Result(values["decode"], tuple(reports), tuple(warnings), values["prepare"])


def _unread(current: Run) -> list[Warned]:
    ctx = Context(current.backbone, "prepare")
    warn_unread_words(ctx, current.params)
    return ctx.warnings


def _stage(
    current: Run, stage: Stage, key: str, clip_key: str, values: dict[str, Any]
) -> tuple[Any, StageReport, list[Warned]]:
    """One stage, from the cache or computed; the third value are its warnings, repeated on a hit."""
    started = time.monotonic()
    if stage in CACHED and (stored := current.cache.get(stage, key)) is not None:
        tensors, meta = stored
        current.progress(Progress(stage, "hit"))
        saved = json.loads(meta["cost"])
        seconds = time.monotonic() - started
        report = StageReport(stage, "hit", seconds, 0, saved["frame_evals"], saved["seconds"], key)
        value: Any = unpack(CACHED[stage], placed(tensors, current.backbone.device), meta)
        return value, report, [Warned(*item) for item in json.loads(meta["warnings"])]
    current.progress(Progress(stage, "running"))
    ctx = _context(current, stage, key, clip_key)
    before = current.backbone.frame_evals
    value = _call(current, stage, ctx, values)
    report = StageReport(
        stage,
        "done",
        time.monotonic() - started,
        current.backbone.frame_evals - before,
        key=key,
        resumed_frame_evals=ctx.loops.resumed_frame_evals,
        resumed_seconds=ctx.loops.resumed_seconds,
    )
    if stage in CACHED:
        value = _store(current.cache, value, report, ctx.warnings)
    ctx.loops.end(stored=stage in CACHED)
    current.progress(Progress(stage, "done"))
    return value, report, ctx.warnings


def placed(tensors: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Stored tensors where a computed stage has them: pictures on the CPU, everything else with the networks."""
    return {name: tensor if name == "frames" else tensor.to(device) for name, tensor in tensors.items()}


def _context(current: Run, stage: Stage, key: str, clip_key: str) -> Context:
    def report(step: int, steps: int, label: str) -> None:
        current.progress(Progress(stage, "running", step, steps, label))

    backbone, inputs = current.backbone, keys.files(current.inputs, stage, exact=False)
    loops = Loops(current.handover, key, backbone.device, lambda: backbone.frame_evals)
    cancelled, cache, preview = current.cancelled, current.cache, current.preview
    return Context(backbone, stage, inputs, report, cancelled, cache, clip_key, preview=preview, loops=loops)


def _call(current: Run, stage: Stage, ctx: Context, values: dict[str, Any]) -> Any:
    ctx.check()
    if current.handover is not None and current.handover.wanted():
        raise Cancelled(f"the edit was handed over before stage {stage}")
    verb = getattr(current.method, stage)
    order = {
        "prepare": ("inputs",),
        "fit": ("prepare",),
        "invert": ("prepare", "fit"),
        "edit": ("prepare", "fit", "invert"),
        "decode": ("prepare", "edit"),
    }
    value = verb(ctx, guarded(current.params, stage), *(values[name] for name in order[stage]))
    if stage == "edit" and not finite(value):
        raise EditError(
            "the edit diverged: its latents hold NaN or infinity", hint="lower guidance_scale or the learning rate"
        )
    return value


def _store(cache: Cache, value: Any, report: StageReport, warnings: list[Warned]) -> Any:
    """Store a result; returns it as the cache will hand it out: another layout in memory rounds sums differently."""
    tensors, meta = pack(value)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    evals, seconds = report.frame_evals + report.resumed_frame_evals, report.seconds + report.resumed_seconds
    cost = {"frame_evals": evals, "seconds": seconds}
    warned = json.dumps([[item.code, item.message] for item in warnings])
    cache.put(report.name, report.key, tensors, {**meta, "cost": json.dumps(cost), "warnings": warned})
    return unpack(type(value), tensors, meta)
