"""The body of a webhook: thin, so that whoever wants to know more asks the API. No prompt and no file name is in it."""

import json
from typing import Any

from jobs.deliveries import Row
from jobs.records import Records

FOLDERS = {"job": "/v1/jobs/", "batch": "/v1/batches/"}


def letter(row: Row, records: Records) -> str:
    """Return the event's JSON: type, time, and the id, state, version, labels and links of what it is about."""
    kind, _, state = row.type.partition(".")
    data: dict[str, Any] = {"id": row.subject, "object": kind, "state": state, "version": row.version}
    job = records.find(row.subject, row.tenant) if kind == "job" else None
    data["labels"] = job.labels if job is not None else {}
    url = FOLDERS.get(kind, "/") + row.subject
    data["urls"] = {"self": url} | ({"events": f"{url}/events"} if kind == "job" else {"jobs": f"{url}/jobs"})
    return json.dumps({"type": row.type, "timestamp": row.at.isoformat(), "data": data | row.data})
