"""The ground-truth benchmark: 24 edits whose exact result is known, every method, one row per method and kind of edit.

Reference rows say what the figures mean: `source` (nothing edited), `exact` (the true edit), `vae` (the true edit
encoded and decoded: what no edit in latents can surpass) and `frame_by_frame` (no tie between frames).
"""

import importlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from models import engine
from models.backbones import sd
from models.backbones.backbone import Backbone
from models.bench import inputs, measure, settings, sheets
from models.bench.cases import CLIPS_PER_KIND as CLIPS_PER_KIND
from models.bench.cases import EDIT_KINDS, Case, cases, rendered, source_file
from models.bench.score import score
from models.context import MemoryCache
from models.digest import digest_json

REFERENCES = ("source", "exact", "vae")
UNTIED = "frame_by_frame"
STEP_FIELDS = ("num_inference_steps", "num_inversion_steps")


@dataclass(frozen=True)
class Plan:
    """What to run: methods, how many clips of each kind, denoising steps, and where finished edits are remembered."""

    methods: tuple[str, ...]
    clips: int
    steps: int
    fit_steps: int
    store: Path
    only_done: bool = False
    """Run nothing: the rows of what is remembered."""

    @property
    def pictures(self) -> Path:
        """Where frames of the first edit of every kind are kept for the contact sheets."""
        return self.store.with_suffix(".frames")


def run(plan: Plan, checkpoint: str, tell: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Run what is not done yet, remembering every edit at once, and return the rows."""
    done = json.loads(plan.store.read_text()) if plan.store.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in ((name, case) for name in (*REFERENCES, *plan.methods) for case in _all(plan.clips)):
            key = _key(plan, checkpoint, name, case)
            if key in done or plan.only_done:
                continue
            done[key] = _figures(name, case, plan, checkpoint, Path(folder))
            _remember(plan.store, done)
            seen, psnr = done[key]["judge.edit_success"], done[key]["gt.psnr"]
            tell(f"{name} {case.id}: success {seen:.2f}, PSNR {psnr:.1f} dB")
    return rows(plan, checkpoint, done)


def _key(plan: Plan, checkpoint: str, name: str, case: Case) -> str:
    """Where a finished edit is remembered: another checkpoint, parameter or version of the method is another edit."""
    version = [] if name in REFERENCES else [params_of(name, case, plan), _version(name)]
    return f"{checkpoint}/{plan.steps}/{name}/{case.id}/{digest_json(version)[:8]}"


def _version(method_id: str) -> int:
    return int(getattr(importlib.import_module(engine.find(method_id).__module__), "VERSION", 1))


@lru_cache(maxsize=4)
def _backbone(checkpoint: str, family: str) -> Backbone:
    return sd.load(checkpoint, family=family)


def _figures(name: str, case: Case, plan: Plan, checkpoint: str, folder: Path) -> dict[str, float]:
    if name in REFERENCES:
        return _reference(name, case, _backbone(checkpoint, "sd"))
    return _edit(name, case, plan, _backbone(checkpoint, engine.find(name).backbone.family), folder)


def _all(clips: int) -> Iterable[Case]:
    return (case for kind in EDIT_KINDS for case in cases(kind, clips))


def _remember(store: Path, done: dict[str, Any]) -> None:
    partial = store.with_suffix(".partial")
    partial.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
    partial.replace(store)


def _reference(name: str, case: Case, backbone: Backbone) -> dict[str, float]:
    frames = rendered(case.before if name == "source" else case.after).frames
    return score(case, backbone.decode_latents(backbone.encode_frames(frames)) if name == "vae" else frames)


def params_of(method_id: str, case: Case, plan: Plan) -> dict[str, Any]:
    """The method's defaults with the suite's step counts and settings; tuning is capped at `fit_steps`."""
    params: dict[str, Any] = {"prompt": case.prompt}
    for name, field in engine.find(method_id).Params.model_fields.items():
        if name == "source_prompt":
            params[name] = case.source_prompt
        elif name in STEP_FIELDS:
            params[name] = plan.steps
        elif name in settings.COUNTED_OF_ALL:
            params[name] = round(field.default * plan.steps / settings.PUBLISHED_STEPS)
        elif name.startswith("num_") and name.endswith("_steps") and isinstance(field.default, int):
            params[name] = min(field.default, plan.fit_steps)
    return params | inputs.params(method_id, case) | settings.given(method_id, case)


def _edit(method_id: str, case: Case, plan: Plan, backbone: Backbone, folder: Path) -> dict[str, float]:
    """One edit; on the first clip of all FLOPs are counted, which costs time, so that its own time is not kept."""
    source, params, cache = source_file(case, folder), params_of(method_id, case, plan), MemoryCache()
    counted = case.id == f"{EDIT_KINDS[0]}-0"
    first = measure.measure(method_id, params, {"video": source}, backbone, cache, flops=counted)
    figures = score(case, first.video.frames) | {"frame_evals": first.frame_evals, "peak_bytes": first.peak_bytes}
    if case.id.endswith("-0"):
        sheets.keep(plan.pictures, method_id, case.kind, first.video.frames)
    if not counted:
        return figures | {"seconds": first.seconds, "cpu_seconds": first.cpu_seconds}
    again = measure.measure(method_id, params, {"video": source}, backbone, cache, flops=False)
    return figures | {
        "flops": first.flops,
        "frame_evals_cached": again.frame_evals,
        "seconds_cached": again.seconds,
        "cpu_seconds_cached": again.cpu_seconds,
    }


def rows(plan: Plan, checkpoint: str, done: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One row per method and edit kind: means over the clips that are done, and the warp error against the same clips
    of `frame_by_frame` (`warp.to_frame_by_frame`).
    """
    found = []
    for name in (*REFERENCES, *plan.methods):
        edits = {kind: _results(plan, checkpoint, done, name, kind) for kind in EDIT_KINDS}
        every = [result for results in edits.values() for result in results.values()]
        counts = {figure: _mean(every, figure) for figure in COUNTED if any(figure in result for result in every)}
        for kind, results in edits.items():
            means = {figure: _mean(results.values(), figure) for figure in sorted(set().union(*results.values()))}
            row = {"method": name, "edit_kind": kind, "checkpoint": checkpoint, "clips": len(results)}
            found.append(row | counts | means | _steadiness(results, _results(plan, checkpoint, done, UNTIED, kind)))
    return [row for row in found if row["clips"]]


def _results(
    plan: Plan, checkpoint: str, done: dict[str, dict[str, float]], name: str, kind: str
) -> dict[str, dict[str, float]]:
    """Finished edits of one method and kind by clip."""
    keys = {case.id: _key(plan, checkpoint, name, case) for case in cases(kind, plan.clips)}
    return {clip: done[key] for clip, key in keys.items() if key in done}


def _steadiness(results: Mapping[str, dict[str, float]], untied: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """Warp error as a fraction of `frame_by_frame`'s on the same clips."""
    both = results.keys() & untied.keys()
    if not both or len(both) < len(results):
        return {}
    errors = [_mean([edits[clip] for clip in sorted(both)], "warp.exact_flow") for edits in (results, untied)]
    return {"warp.to_frame_by_frame": errors[0] / errors[1]}


def _mean(results: Iterable[dict[str, float]], figure: str) -> float:
    values = [result[figure] for result in results if figure in result]
    return sum(values) / len(values)


COUNTED = ("flops", "frame_evals_cached", "seconds", "cpu_seconds", "seconds_cached", "cpu_seconds_cached")
"""Measured on some clips only; the other rows of a method have the mean."""
COLUMNS = {
    "clips": "clips", "gt.psnr": "PSNR", "gt.ssim": "SSIM", "judge.edit_success": "success", "judge.kept": "kept",
    "bg.psnr": "bg PSNR", "warp.exact_flow": "warp", "warp.to_frame_by_frame": "÷ fbf", "mini.clip_text": "text",
    "mini.clip_frame": "frames", "frame_evals": "evals", "frame_evals_cached": "cached", "flops": "FLOPs",
    "cpu_seconds": "CPU s", "cpu_seconds_cached": "CPU s cached", "peak_bytes": "bytes",
}  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| method | edit | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in found:
        cells = [f"{row[key]:.4g}" if key in row else "–" for key in COLUMNS]
        lines.append(f"| {row['method']} | {row['edit_kind']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
