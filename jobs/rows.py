"""Job hash to `Job` and back: the only place that knows the field names of `rf:job:{id}` in Python."""

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from jobs.batch import BatchPlace
from jobs.catalogue import load
from jobs.forecast import Forecast
from jobs.request import BROKER_PRIORITY, JobRequest
from jobs.schema import Attempt, Job, JobError, Notice, Output, Placement, Preview, Progress, Usage, from_ms
from jobs.settings import Settings
from jobs.states import State

SCHEMA_VERSION = 1
"""Version of manifests and records. A worker takes no job of a newer one; it stays for workers that know it."""

_NOTICES = TypeAdapter(tuple[Notice, ...])


def creation_fields(
    request: JobRequest, tenant: str, settings: Settings, *, pool: str, retry_of: str, born: dict[str, int | str]
) -> str:
    """Return the JSON of the fields that a job is born with."""
    life = request.output.expires_in or settings.media_ttl_seconds
    fields: dict[str, str | int] = {
        "tenant": tenant,
        "pool": pool,
        "priority": BROKER_PRIORITY[request.priority],
        "method": request.method,
        "model": request.model or "",
        "request": load().adhered(request).model_dump_json(),
        "retry_of": retry_of,
        "assets": json.dumps(sorted(set(request.assets().values()))),
        "webhook": request.webhook.model_dump_json() if request.webhook else "",
        "ttl": int(life * 1000),
        "keep": int(settings.record_ttl_seconds * 1000),
        "events_ttl": int(min(life, settings.events_ttl_seconds) * 1000),
        "needs": SCHEMA_VERSION,
    }
    within = request.deadline.model_dump(exclude_none=True)
    return json.dumps(fields | within | born)


def dump_outputs(outputs: tuple[Output, ...]) -> str:
    """Return outputs as JSON with their store keys, which the public form leaves out."""
    return to_json([output.model_dump() | {"key": output.key} for output in outputs]).decode()


def dump_notices(notices: tuple[Notice, ...]) -> str:
    """Return warnings as JSON."""
    return _NOTICES.dump_json(notices).decode()


def job_from(job_id: str, row: dict[str, str]) -> Job:
    """Build the `Job` of a hash; the place in the queue is added by the caller, who can see the queue."""
    request = JobRequest.model_validate_json(row["request"])
    times: dict[str, Any] = {
        f"{name}_at": from_ms(_whole(row, name)) for name in ("created", "queued", "started", "finished")
    }
    parsed: dict[str, Any] = {
        "progress": Progress.model_validate_json(row["progress"]) if row.get("progress") else Progress(),
        "placement": Placement.model_validate_json(row["placement"]) if row.get("placement") else None,
        "batch": BatchPlace.model_validate_json(row["place"]) if row.get("place") else None,
        "forecast": Forecast.model_validate_json(row["forecast"]) if row.get("forecast") else None,
        "error": JobError.model_validate_json(row["error"]) if row.get("error") else None,
        "warnings": _NOTICES.validate_json(row.get("warnings") or "[]"),
        "outputs": tuple(Output.model_validate(item) for item in json.loads(row.get("outputs") or "[]")),
        "attempts": tuple(_attempt(item) for item in json.loads(row.get("attempts") or "[]")),
        "usage": _usage(row),
        "preview": _preview(row),
    }
    return Job(
        id=job_id,
        version=int(row["version"]),
        state=State(row["state"]),
        method=row["method"],
        model=row.get("model") or None,
        expires_at=from_ms(_whole(row, "expires")),
        retry_of=row.get("retry_of") or None,
        request_id=row.get("request_id") or None,
        traceparent=row.get("traceparent") or None,
        labels=request.labels,
        metadata=request.metadata,
        tenant=row["tenant"],
        request=request,
        fence=_whole(row, "fence"),
        attempt=_whole(row, "attempt"),
        pool=row["pool"],
        media_gone=row.get("media_gone") == "1",
        **times,
        **parsed,
    )


def _whole(row: dict[str, str], name: str) -> int:
    return int(float(row.get(name) or 0))


def _attempt(item: dict[str, Any]) -> Attempt:
    return Attempt.model_validate(item | {"started_at": from_ms(int(item["started"]))})


def _preview(row: dict[str, str]) -> Preview | None:
    """The newest preview of the attempt that runs or succeeded; those of others are gone."""
    found = Preview.model_validate_json(row["preview"]) if row.get("preview") else None
    gone = row["state"] in {State.FAILED, State.CANCELED, State.EXPIRED} or row.get("media_gone") == "1"
    return None if found is None or gone or found.fence != _whole(row, "fence") else found


def _usage(row: dict[str, str]) -> Usage:
    usage = Usage.model_validate_json(row["usage"]) if row.get("usage") else Usage()
    return usage.model_copy(
        update={"queue_seconds": _whole(row, "waited") / 1000, "wall_seconds": _whole(row, "wall") / 1000}
    )
