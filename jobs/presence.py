"""Which workers are alive, and what each of them serves and holds warm. Written every few seconds, forgotten soon."""

import json
import time
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from jobs.records import Records

EVERY_SECONDS = 5.0
LIFE_SECONDS = 15.0
KNOWN_SECONDS = 1.0


class Worker(BaseModel):
    """A live worker: the pools it serves, the job it runs, and the checkpoints it holds in memory."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    pools: tuple[str, ...] = ()
    draining: bool = False
    device: str | None = None
    job: str | None = None
    warm: tuple[str, ...] = ()


def announce(records: "Records", worker_id: str, **facts: Any) -> None:
    """Say that the worker lives, and change some of its facts. Raises QueueUnavailable."""
    key = f"{records.prefix}w:{worker_id}"
    fields = {"id": worker_id} | facts
    pairs = [item for name, value in fields.items() for item in (name, json.dumps(value))]
    records.ask("HSET", key, *pairs)
    records.ask("PEXPIRE", key, int(LIFE_SECONDS * 1000))
    records.ask("ZADD", f"{records.prefix}workers", int(time.time()), worker_id)


def leave(records: "Records", worker_id: str) -> None:
    """Say that the worker is gone. Raises QueueUnavailable."""
    records.ask("DEL", f"{records.prefix}w:{worker_id}")
    records.ask("ZREM", f"{records.prefix}workers", worker_id)


def live_workers(records: "Records") -> list[Worker]:
    """Return the workers that spoke within their life. Raises QueueUnavailable."""
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in records.run("workers")]
    return [Worker.model_validate({name: json.loads(value) for name, value in row.items()}) for row in rows]


class Roster:
    """The live workers as they were at most a second ago, so that many bells ask Redis once."""

    def __init__(self, records: "Records") -> None:
        """Look at nothing yet."""
        self._records = records
        self._seen: tuple[Worker, ...] = ()
        self._until = 0.0

    def live(self) -> tuple[Worker, ...]:
        """Return the workers that are up and take jobs. Raises QueueUnavailable."""
        if time.monotonic() >= self._until:
            self._seen = tuple(worker for worker in live_workers(self._records) if not worker.draining)
            self._until = time.monotonic() + KNOWN_SECONDS
        return self._seen
