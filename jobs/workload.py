"""How much work a request is, as far as that can be said without doing it, and what it will find in the stage cache.

Two requests of the same class (`24f@512x512x50`) cost about the same on the same device; between classes the stages
scale with frames, pixels and steps.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs import catalogue
from jobs.request import JobRequest

CACHED = ("prepare", "fit", "invert")
STEPS = {"edit": "num_inference_steps", "invert": "num_inversion_steps", "fit": "num_tuning_steps"}
ORDER = ("prepare", "fit", "invert", "edit", "decode")
DEFAULT_SIDE, FRAME_STEP, SIDE_STEP = 512, 8, 64


class ClipFacts(BaseModel):
    """What the probe found of a clip."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    frames: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None


class Workload(BaseModel):
    """Frames and size that are worked on, steps of each stage that has steps, and networks beside the checkpoint."""

    model_config = ConfigDict(frozen=True)

    frames: int
    width: int
    height: int
    steps: dict[str, int]
    beside: int = 0

    @property
    def kind(self) -> str:
        """The class: frames rounded up to eights, sides to 64, steps of edit, invert and fit, networks beside."""
        frames = self.frames if self.frames <= FRAME_STEP else _up(self.frames, FRAME_STEP)
        steps = "+".join(str(self.steps[stage]) for stage in STEPS if stage in self.steps)
        beside = f"&{self.beside}" if self.beside else ""
        return f"{frames}f@{_up(self.width, SIDE_STEP)}x{_up(self.height, SIDE_STEP)}x{steps or 1}{beside}"

    def units(self, stage: str) -> float:
        """What the stage's time grows with."""
        return float(self.frames * self.width * self.height * self.steps.get(stage, 1))


def workload(request: JobRequest, clip: ClipFacts) -> Workload:
    """Return the work of a request on a clip; parameters that are left out have the method's defaults."""
    params = _whole(request)
    steps = {stage: int(params[name]) for stage, name in STEPS.items() if isinstance(params.get(name), int)}
    return Workload(
        frames=_frames(params, clip),
        width=_number(params, "width") or clip.width or DEFAULT_SIDE,
        height=_number(params, "height") or clip.height or DEFAULT_SIDE,
        steps=steps,
        beside=len(catalogue.load().checkpoints(request.method, params)),
    )


def fingerprints(request: JobRequest, model: str, tenant: str, digests: Mapping[str, str]) -> dict[str, str]:
    """Return for each cached stage a digest of what it depends on, as far as the catalogue tells.

    `digests` are the inputs' by name. Equal digests mean an equal result, so a second request finds it in the cache;
    stages that several methods share have one for each method.
    """
    entry = catalogue.load().methods.get(request.method, {})
    params, stages = _whole(request), entry.get("stages", ORDER)
    found, above = {}, f"{tenant}/{model}/{request.method}/{entry.get('version')}"
    for stage in (stage for stage in CACHED if stage in stages):
        own = {name: params.get(name) for name, schema in _fields(entry, "params") if schema.get("x-stage") == stage}
        mine = {name for name, schema in _fields(entry, "inputs") if schema.get("x-stage", "prepare") == stage}
        files = {name: digest for name, digest in digests.items() if name.partition("/")[0] in mine}
        text = json.dumps([stage, above, own, files], sort_keys=True, default=str)
        above = found[stage] = hashlib.sha256(text.encode()).hexdigest()[:24]
    return found


def _whole(request: JobRequest) -> dict[str, Any]:
    entry = catalogue.load().method(request.method)
    defaults = {name: schema["default"] for name, schema in _fields(entry, "params") if "default" in schema}
    return defaults | catalogue.load().adhered(request).engine_params()


def _fields(entry: dict[str, Any], part: str) -> list[tuple[str, dict[str, Any]]]:
    return list(entry.get(part, {}).get("properties", {}).items())


def _number(params: Mapping[str, Any], name: str) -> int:
    value = params.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _frames(params: Mapping[str, Any], clip: ClipFacts) -> int:
    frames, rate = clip.frames or 1, clip.fps or 0.0
    if rate:
        begin, end = params.get("start_seconds") or 0.0, params.get("end_seconds")
        seconds = max(0.0, min(frames / rate, end if end is not None else frames / rate) - begin)
        frames = round(seconds * min(params.get("fps") or rate, rate))
    most = _number(params, "max_frames")
    return max(1, min(frames, most) if most else frames)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
