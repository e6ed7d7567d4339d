"""The methods as data: what they are, what they take, in JSON Schema. Generated, committed, never edited by hand."""

import importlib
import json
from pathlib import Path
from typing import Any

from models import engine
from models.backbones import sd
from models.method import Method
from models.params import STAGES, stage_of

RUNGS = tuple(f"{word}_{number}" for word in ("adhere", "flex", "reimagine") for number in (1, 2, 3))
PATH = Path(__file__).resolve().parent.parent / "jobs" / "catalogue.json"


def describe(method_id: str) -> dict[str, Any]:
    """One method: title, summary, paper, family, backbones, stages, and the schemas of its inputs and parameters."""
    kind = engine.find(method_id)
    module = importlib.import_module(kind.__module__)
    families = kind.families or (kind.backbone.family,)
    documentation = (module.__doc__ or "").strip()
    title = documentation.split("\n", 1)[0]
    return {
        "id": method_id,
        "title": title.split(". arXiv", 1)[0].rstrip("."),
        "documentation": documentation,
        "paper": {"arxiv": kind.paper.arxiv, "title": kind.paper.title, "venue": kind.paper.venue},
        "family": kind.backbone.family,
        "backbones": sorted(name for name, preset in sd.PRESETS.items() if preset.family in families),
        "version": getattr(module, "VERSION", 1),
        "stages": [stage for stage in STAGES if stage not in Method.optional or _has(kind, stage)],
        "adherence": rungs(kind),
        "inputs": _schema(kind.Inputs),
        "params": _ordered(kind),
    }


def rungs(kind: type[Method]) -> dict[str, dict[str, float]]:
    """The method's parameters on each rung, from keeping to the source to leaving it; empty where it has no ladder."""
    if not kind.adherence:
        return {}
    part = {rung: number / (len(RUNGS) - 1) for number, rung in enumerate(RUNGS)}
    ends = kind.adherence.items()
    return {rung: {name: round(a + (b - a) * part[rung], 3) for name, (a, b) in ends} for rung in RUNGS}


def _has(kind: type[Method], stage: str) -> bool:
    return getattr(kind, stage) is not getattr(Method, stage)


def _schema(model: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    return schema


def _ordered(kind: type[Method]) -> dict[str, Any]:
    """The parameter schema, fields in the order a form shows them: the essential before the advanced, then by stage."""
    schema = _schema(kind.Params)
    fields = schema["properties"]
    rank = {name: (_essential(fields[name]), STAGES.index(stage_of(kind.Params, name))) for name in fields}
    schema["properties"] = {name: fields[name] for name in sorted(fields, key=lambda name: rank[name])}
    return schema


def _essential(field: dict[str, Any]) -> int:
    return int(field["x-advanced"])


def build() -> dict[str, Any]:
    """The whole catalogue."""
    return {"methods": {method_id: describe(method_id) for method_id in engine.method_ids()}}


def text() -> str:
    """The catalogue as it is committed."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


def write(path: Path = PATH) -> None:
    """Write the catalogue."""
    path.write_text(text(), encoding="utf-8")


def stale(path: Path = PATH) -> bool:
    """Whether the committed catalogue differs from the code."""
    return not path.exists() or path.read_text(encoding="utf-8") != text()
