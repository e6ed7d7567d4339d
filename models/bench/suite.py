"""The ground-truth benchmark: 24 edits whose exact result is known, every method, one row per method and kind of edit.

Three reference rows say what the figures mean: `source` (nothing edited), `frame_by_frame` (no tie between frames) and
`exact` (the true edit).
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import engine
from models.backbones.backbone import Backbone
from models.bench import measure
from models.bench.cases import CLIPS_PER_KIND as CLIPS_PER_KIND
from models.bench.cases import EDIT_KINDS, Case, cases, rendered, source_file
from models.bench.score import score
from models.context import MemoryCache
from models.types import File

REFERENCES = ("source", "exact")
STEP_FIELDS = ("num_inference_steps", "num_inversion_steps")


@dataclass(frozen=True)
class Plan:
    """What to run: methods, how many clips of each kind, denoising steps, and where finished edits are remembered."""

    methods: tuple[str, ...]
    clips: int
    steps: int
    fit_steps: int
    store: Path


def run(plan: Plan, backbone: Backbone, tell: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Run what is not done yet, remembering every edit at once, and return the rows."""
    done = json.loads(plan.store.read_text()) if plan.store.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in ((name, case) for name in (*REFERENCES, *plan.methods) for case in _all(plan.clips)):
            key = f"{backbone.checkpoint}/{plan.steps}/{name}/{case.id}"
            if key in done:
                continue
            done[key] = _figures(name, case, plan, backbone, Path(folder))
            _remember(plan.store, done)
            seen, psnr = done[key]["judge.edit_success"], done[key]["gt.psnr"]
            tell(f"{name} {case.id}: success {seen:.2f}, PSNR {psnr:.1f} dB")
    return rows(plan, backbone.checkpoint, done)


def _figures(name: str, case: Case, plan: Plan, backbone: Backbone, folder: Path) -> dict[str, float]:
    return _reference(name, case) if name in REFERENCES else _edit(name, case, plan, backbone, folder)


def _all(clips: int) -> Iterable[Case]:
    return (case for kind in EDIT_KINDS for case in cases(kind, clips))


def _remember(store: Path, done: dict[str, Any]) -> None:
    partial = store.with_suffix(".partial")
    partial.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
    partial.replace(store)


def _reference(name: str, case: Case) -> dict[str, float]:
    return score(case, rendered(case.before if name == "source" else case.after).frames)


def params_of(method_id: str, case: Case, plan: Plan) -> dict[str, Any]:
    """The method's defaults with the suite's step counts; tuning is capped at `fit_steps`."""
    params: dict[str, Any] = {"prompt": case.prompt}
    for name, field in engine.find(method_id).Params.model_fields.items():
        if name == "source_prompt":
            params[name] = case.source_prompt
        elif name in STEP_FIELDS:
            params[name] = plan.steps
        elif name.startswith("num_") and name.endswith("_steps") and isinstance(field.default, int):
            params[name] = min(field.default, plan.fit_steps)
    return params


def _edit(method_id: str, case: Case, plan: Plan, backbone: Backbone, folder: Path) -> dict[str, float]:
    source, params = source_file(case, folder), params_of(method_id, case, plan)
    cache = MemoryCache()
    first = measure.measure(method_id, params, {"video": source}, backbone, cache, flops=False)
    figures = {
        **score(case, first.video.frames),
        "frame_evals": first.frame_evals,
        "seconds": first.seconds,
        "peak_bytes": first.peak_bytes,
    }
    return figures | (_second(method_id, params, source, backbone, cache) if case.id.endswith("-0") else {})


def _second(
    method_id: str, params: dict[str, Any], source: File, backbone: Backbone, cache: MemoryCache
) -> dict[str, float]:
    """Figures that need further runs, taken on the first clip of each kind: the cached second edit, and FLOPs."""
    again = measure.measure(method_id, params, {"video": source}, backbone, cache, flops=False)
    counted = measure.measure(method_id, params, {"video": source}, backbone, MemoryCache(), flops=True)
    return {"frame_evals_cached": again.frame_evals, "seconds_cached": again.seconds, "flops": counted.flops}


def rows(plan: Plan, checkpoint: str, done: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """One row per method and edit kind: means over the clips."""
    found = []
    for name in (*REFERENCES, *plan.methods):
        for kind in EDIT_KINDS:
            keys = [f"{checkpoint}/{plan.steps}/{name}/{case.id}" for case in cases(kind, plan.clips)]
            results = [done[key] for key in keys if key in done]
            names = sorted({figure for result in results for figure in result})
            means = {figure: _mean(results, figure) for figure in names}
            found.append({"method": name, "edit_kind": kind, "checkpoint": checkpoint, "clips": len(results), **means})
    return found


def _mean(results: Sequence[dict[str, float]], figure: str) -> float:
    values = [result[figure] for result in results if figure in result]
    return sum(values) / len(values)


COLUMNS = {
    "gt.psnr": "PSNR", "gt.ssim": "SSIM", "judge.edit_success": "success", "judge.kept": "kept", "bg.psnr": "bg PSNR",
    "warp.exact_flow": "warp", "mini.clip_text": "text", "mini.clip_frame": "frames", "frame_evals": "evals",
    "frame_evals_cached": "cached", "flops": "FLOPs", "seconds": "s", "seconds_cached": "s cached",
    "peak_bytes": "bytes",
}  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| method | edit | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in found:
        cells = [f"{row[key]:.4g}" if key in row else "–" for key in COLUMNS]
        lines.append(f"| {row['method']} | {row['edit_kind']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
