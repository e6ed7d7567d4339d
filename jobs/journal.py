"""A job's log as its tenant may read it: numbers and words of the service's own, so that nothing can leak into it.

State changes and the ends of attempts are written by the scripts, everything between by the worker; bounded, in a
stream of the records, and kept in the store once the job has ended.
"""

import json
import re
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from jobs import layout
from jobs.progress import Record, StageName
from jobs.records import Records
from jobs.schema import from_ms
from jobs.store import ObjectMissing, Store

Level = Literal["info", "warning", "error"]
Fact = str | int | float | bool | None
FACTS = frozenset(
    {
        *("state", "outcome", "seconds", "cache", "frame_evals", "saved_frame_evals", "step", "steps", "size_bytes"),
        *("code", "reason", "warm", "request_id", "files", "width", "height", "frames"),
    }
)
WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
MOST_LINES = 500


class LogLine(Record):
    """One line. `facts` hold numbers and single words only; there is no free text."""

    id: str
    at: datetime
    level: Level
    event: str
    attempt: int = 0
    worker: str | None = None
    stage: StageName | None = None
    facts: dict[str, Fact] = Field(default_factory=dict)


_LINES = TypeAdapter(list[LogLine])


def draft(event: str, *, level: Level = "info", stage: str | None = None, **facts: Fact) -> dict[str, Any]:
    """A line to be written. Raises ValueError for a fact whose name is not known or whose value is not a plain word."""
    for name, value in facts.items():
        if name not in FACTS or (isinstance(value, str) and WORD.fullmatch(value) is None):
            raise ValueError(f"{name} cannot be told in a log")
    told = {name: value for name, value in facts.items() if value is not None}
    line: dict[str, Any] = {"level": level, "event": event, "facts": told}
    return line | ({"stage": stage} if stage else {})


def read(records: Records, job_id: str, *, after: str = "", limit: int = MOST_LINES) -> list[LogLine]:
    """The job's lines after this one, oldest first; none once the records have forgotten them."""
    start = f"({after}" if after else "-"
    found = records.ask("XRANGE", f"{records.prefix}log:{job_id}", start, "+", "COUNT", limit)
    return [_line(entry, json.loads(row["line"])) for entry, row in map(_pair, found)]


def keep(store: Store, records: Records, tenant: str, job_id: str) -> None:
    """Put the log of an ended job into the store, beside its ending."""
    lines = read(records, job_id)
    if lines:
        store.put_bytes(layout.journal(tenant, job_id), _LINES.dump_json(lines), media_type="application/json")


def kept(store: Store, tenant: str, job_id: str, *, after: str = "", limit: int = MOST_LINES) -> list[LogLine]:
    """The same lines from the store, for a job whose records were rebuilt."""
    try:
        lines = _LINES.validate_json(store.get_bytes(layout.journal(tenant, job_id)))
    except ObjectMissing:
        return []
    return [line for line in lines if order(line.id) > order(after)][:limit]


def order(line_id: str) -> tuple[int, int]:
    """A line's id as something to compare; none comes before all."""
    milliseconds, _, number = (line_id or "0-0").partition("-")
    return int(milliseconds), int(number or 0)


def _line(entry: str, row: dict[str, Any]) -> LogLine:
    facts = row.get("facts") or {}
    return LogLine.model_validate(row | {"id": entry, "at": from_ms(order(entry)[0]), "facts": facts})


def _pair(entry: Any) -> tuple[str, dict[str, str]]:
    """A stream's entry, whose fields are a flat list or a mapping, by the protocol's version."""
    name, row = entry
    return name, row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
