"""Job records as the API needs them: create, read, list, cancel, delete, and the streams of changes.

Workers use `jobs.leases`, the scheduler `jobs.sweeps`. All writes are Lua scripts; see `jobs/lua`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.connection import Scripts, available, connect
from jobs.feed import entries
from jobs.history import History
from jobs.outlook import Outlook
from jobs.presence import Roster
from jobs.request import JobRequest
from jobs.rows import creation_fields, job_from
from jobs.schema import Event, Job, JobError
from jobs.settings import Settings
from jobs.states import State


class NotFound(Exception):
    """No such job for this tenant; another tenant's job is the same thing."""


class StateConflict(Exception):
    """The job's state forbids the request. `state` says which it is."""

    def __init__(self, state: State) -> None:
        """Keep the state that stood in the way."""
        super().__init__(f"the job is {state}")
        self.state = state


class IdempotencyReuse(Exception):
    """The idempotency key was used before with another request."""


class QueueFull(Exception):
    """More jobs wait than the caller accepts. `ahead` is how many."""

    def __init__(self, ahead: int) -> None:
        """Keep how many jobs wait."""
        super().__init__(f"{ahead} jobs are ahead")
        self.ahead = ahead


class BatchCanceled(Exception):
    """The job's batch was canceled before the job was created."""


@dataclass(frozen=True)
class Idempotency:
    """The caller's key and the digest of the request it came with."""

    key: str
    request_hash: str


@dataclass(frozen=True)
class Created:
    """`replayed` is true when an earlier request with the same key had made the job already."""

    job: Job
    replayed: bool


class Records:
    """The jobs in Redis. Thread-safe. Raises QueueUnavailable when Redis cannot be reached."""

    def __init__(self, settings: Settings, client: Any | None = None) -> None:
        """Use the settings' Redis, or a client that is given; nothing is sent yet."""
        self.settings = settings
        self.redis = client if client is not None else connect(settings.redis_url)
        self.prefix = settings.redis_prefix
        limits = {"TENANT_CAP": settings.tenant_jobs, "LOOK_AHEAD": settings.look_ahead}
        self.roster = Roster(self)
        self.history, self.outlook = History(self), Outlook(self)
        self.run = Scripts(self.redis, self.prefix, limits | {"MOST_PASSED": settings.most_passed})

    def ping(self) -> None:
        """Return if Redis answers. Raises QueueUnavailable otherwise."""
        self.ask("PING")

    def create(
        self,
        job_id: str,
        request: JobRequest,
        tenant: str,
        *,
        pool: str = "default",
        ready: bool = True,
        idempotency: Idempotency | None = None,
        retry_of: str = "",
        most_ahead: int | None = None,
        born: dict[str, int | str] | None = None,
    ) -> Created:
        """Create the record, queued at once when `ready`; with the idempotency row in the same script.

        Raises IdempotencyReuse and QueueFull. A job with this id that exists already is returned as replayed. `born`
        adds to what a new record starts with: its origin, and `created` (ms) and `fence` of one that existed before.
        """
        fields = creation_fields(request, tenant, self.settings, pool=pool, retry_of=retry_of, born=born or {})
        key, digest = (idempotency.key, idempotency.request_hash) if idempotency else ("", "")
        life = int(self.settings.idempotency_ttl_seconds * 1000)
        most = "" if most_ahead is None else most_ahead
        answer, value = self.run("create", job_id, fields, key, digest, life, int(ready), most)
        if answer == "reuse":
            raise IdempotencyReuse(key)
        if answer == "full":
            raise QueueFull(int(value))
        if answer == "canceled":
            raise BatchCanceled(job_id)
        return Created(self.get(value, tenant), replayed=answer != "created")

    def replay(self, tenant: str, idempotency: Idempotency) -> Job | None:
        """Return the job an earlier request with this key made, or None. Raises IdempotencyReuse."""
        row = self.ask("HMGET", f"{self.prefix}idem:{tenant}:{idempotency.key}", "hash", "job")
        if row[0] is None:
            return None
        if row[0] != idempotency.request_hash:
            raise IdempotencyReuse(idempotency.key)
        return self.find(row[1], tenant)

    def admit(self, job_id: str, error: JobError | None = None) -> State | None:
        """Let an accepted job into the queue, or fail it. Returns the state after, or None without a record."""
        answer = self.run("admit", job_id, error.dump() if error else "")
        return State(answer[-1]) if answer[0] != "gone" else None

    def restore(
        self, job_id: str, row: dict[str, str | int], idempotency: Idempotency | None, tell_since: float
    ) -> bool:
        """Put back the hash of an ended job as its archive has it. False when the job has a record.

        What ended since a time (seconds since 1970) gets its row in the outbox again.
        """
        key, digest = (idempotency.key, idempotency.request_hash) if idempotency else ("", "")
        life = int(self.settings.idempotency_ttl_seconds * 1000)
        return bool(
            self.run("restore", job_id, json.dumps(row), key, digest, life, int(tell_since * 1000)) == "restored"
        )

    def known(self, job_id: str) -> bool:
        """True when the job has a record."""
        return bool(self.ask("EXISTS", self._key(job_id)))

    def find(self, job_id: str, tenant: str | None = None) -> Job | None:
        """Return the job or None; with `tenant`, only that tenant's."""
        row: dict[str, str] = self.ask("HGETALL", self._key(job_id))
        if not row.get("request") or (tenant is not None and row["tenant"] != tenant):
            return None
        return self.placed([job_from(job_id, row)])[0]

    def placed(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs, the queued ones with their place in line and why they are held back, if they are."""
        waiting = [job for job in jobs if job.state == State.QUEUED]
        found = self.run("place", *(job.id for job in waiting)) if waiting else ()
        places = self.outlook.places(waiting, found)
        return [job.model_copy(update={"queue": places[job.id]}) if job.id in places else job for job in jobs]

    def get(self, job_id: str, tenant: str | None = None) -> Job:
        """Return the job. Raises NotFound."""
        job = self.find(job_id, tenant)
        if job is None:
            raise NotFound(job_id)
        return job

    def version(self, job_id: str, tenant: str) -> int:
        """Return the version alone: the one read that a 304 costs. Raises NotFound."""
        theirs, version = self.ask("HMGET", self._key(job_id), "tenant", "version")
        if theirs != tenant:
            raise NotFound(job_id)
        return int(version)

    def cancel(self, job_id: str, tenant: str) -> Job:
        """Ask for cancellation: idempotent, and without effect once the outcome is being committed. Raises NotFound."""
        state, _ = self.run("cancel", job_id, tenant)
        if state == "gone":
            raise NotFound(job_id)
        return self.get(job_id, tenant)

    def delete(self, job_id: str, tenant: str) -> None:
        """Forget an ended job. Raises NotFound, and StateConflict while it has not ended."""
        answer = self.run("delete", job_id, tenant)
        if answer == "gone":
            raise NotFound(job_id)
        if answer != "deleted":
            raise StateConflict(State(answer))

    def events(self, job_id: str, after: str = "0", *, block_ms: int | None = None, count: int = 200) -> list[Event]:
        """Return the job's events after a stream id; waits up to `block_ms` (below the socket's timeout) for one."""
        block: tuple[str | int, ...] = () if block_ms is None else ("BLOCK", block_ms)
        stream = f"{self.prefix}ev:{job_id}"
        answer = self.ask("XREAD", "COUNT", count, *block, "STREAMS", stream, after)
        return [_event(entry, fields) for entry, fields in entries(answer, stream)]

    def first_event(self, job_id: str) -> str | None:
        """Return the oldest stream id still kept, to tell whether a resumed stream was trimmed."""
        found = self.ask("XRANGE", f"{self.prefix}ev:{job_id}", "-", "+", "COUNT", 1)
        return str(found[0][0]) if found else None

    def uses(self, tenant: str, asset_id: str) -> int:
        """Return how many jobs that have not ended read this asset."""
        return int(self.ask("HGET", f"{self.prefix}use:{tenant}", asset_id) or 0)

    def counters(self) -> dict[str, int]:
        """Return the service's counters by name, for metrics."""
        return {name: int(value) for name, value in self.ask("HGETALL", f"{self.prefix}counters").items()}

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self.ask("HINCRBY", f"{self.prefix}counters", name, by)

    def _key(self, job_id: str) -> str:
        return f"{self.prefix}job:{job_id}"

    def ask(self, *command: str | int | float) -> Any:
        """Send one command. Raises QueueUnavailable."""
        with available():
            return self.redis.execute_command(*command)


def _event(entry: str, row: dict[str, str]) -> Event:
    return Event.model_validate(row | {"id": entry, "data": json.loads(row["data"])})
