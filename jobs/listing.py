"""A tenant's jobs, page by page: newest first, or in order of change for clients that keep up with many jobs."""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs import ids
from jobs.connection import available
from jobs.records import Records
from jobs.rows import job_from
from jobs.schema import Job
from jobs.states import State

CHUNK = 200
MOST_SCANNED = 5000


class BadCursor(ValueError):
    """The cursor was not made by this service."""


@dataclass(frozen=True)
class Query:
    """Filters of `GET /v1/jobs`. `label` is `key` or `key=value`; `changed_since` is a page's `changed`."""

    state: frozenset[State] = frozenset()
    method: str | None = None
    label: str | None = None
    created_after: datetime | None = None
    changed_since: str | None = None
    cursor: str | None = None
    limit: int = 50
    batch: str | None = None

    def matches(self, job: Job) -> bool:
        """True when the job passes every filter."""
        if (self.state and job.state not in self.state) or (self.method and job.method != self.method):
            return False
        if self.batch is not None and (job.batch is None or job.batch.id != self.batch):
            return False
        if self.created_after is not None and job.created_at <= self.created_after:
            return False
        if self.label is None:
            return True
        key, has_value, value = self.label.partition("=")
        return key in job.labels and (not has_value or job.labels[key] == value)


@dataclass(frozen=True)
class Page:
    """`cursor` leads to the next page (None at the end); `changed` is where `changed_since` goes on later."""

    items: tuple[Job, ...]
    cursor: str | None
    changed: str


def list_jobs(records: Records, tenant: str, query: Query) -> Page:
    """Return one page; it can be short, even empty, and still have a cursor. Raises BadCursor and QueueUnavailable."""
    with available():
        return (
            _newest_first(records, tenant, query) if query.changed_since is None else _by_change(records, tenant, query)
        )


@dataclass(frozen=True)
class Members:
    """The jobs of a batch: their ids follow from its own and their number."""

    batch: str
    total: int

    def ids(self, start: int) -> list[str]:
        """Return the ids of the next chunk."""
        return [ids.numbered(ids.JOB, self.batch, n) for n in range(start, min(self.total, start + CHUNK))]


def list_batch(records: Records, tenant: str, members: Members, query: Query) -> Page:
    """Return jobs of a batch in their order there; those deleted, or not created yet, are left out.

    Of the query, state, cursor and limit count. Raises BadCursor and QueueUnavailable.
    """
    start = _decode(query.cursor) if query.cursor is not None else 0
    if not isinstance(start, int) or start < 0:
        raise BadCursor
    found: list[Job] = []
    stop = min(members.total, start + MOST_SCANNED)
    while start < stop and len(found) < query.limit:
        with available():
            wanted = _in_states(records, members.ids(start), query.state)
            jobs = [job for job in _load(records, tenant, wanted) if query.matches(job)]
        start += CHUNK
        found += jobs
    if len(found) > query.limit:
        found = found[: query.limit]
        start = found[-1].batch.index + 1 if found[-1].batch else start
    return Page(tuple(found), _encode(start) if start < members.total else None, "")


def _in_states(records: Records, job_ids: list[str], states: frozenset[State]) -> list[str]:
    """Return those jobs that are in one of the states, all of them for none; cheaper than reading the jobs."""
    if not states:
        return job_ids
    pipe = records.redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hget(f"{records.prefix}job:{job_id}", "state")
    return [job_id for job_id, state in zip(job_ids, pipe.execute(), strict=True) if state in states]


def _newest_first(records: Records, tenant: str, query: Query) -> Page:
    changed = _latest(records)
    found: list[Job] = []
    last: Job | None = None
    for scanned, job in enumerate(_newest(records, tenant, query.cursor)):
        if query.created_after is not None and job.created_at <= query.created_after:
            return Page(tuple(found), None, _encode(changed))
        last = job
        if query.matches(job):
            found.append(job)
        if len(found) == query.limit or scanned == MOST_SCANNED:
            return Page(tuple(found), _encode([job.id, _milliseconds(last)]), _encode(changed))
    return Page(tuple(found), None, _encode(changed))


def _by_change(records: Records, tenant: str, query: Query) -> Page:
    since = _decode(query.cursor or query.changed_since or "")
    if not isinstance(since, int):
        raise BadCursor
    since = since if since <= _latest(records) else 0  # the records were rebuilt and count anew
    key = f"{records.prefix}changed:{tenant}"
    entries = records.redis.zrangebyscore(key, f"({since}", "+inf", 0, query.limit, withscores=True)
    jobs = _load(records, tenant, [member for member, _ in entries])
    position = int(entries[-1][1]) if entries else since
    more = _encode(position) if len(entries) == query.limit else None
    return Page(tuple(job for job in jobs if query.matches(job)), more, _encode(position))


def _newest(records: Records, tenant: str, cursor: str | None) -> Iterator[Job]:
    key = f"{records.prefix}jobs:{tenant}"
    start = 0 if cursor is None else _start(records, key, _decode(cursor))
    while True:
        members = records.redis.zrevrange(key, start, start + CHUNK - 1)
        if not members:
            return
        yield from _load(records, tenant, members)
        start += CHUNK


def _start(records: Records, key: str, position: object) -> int:
    match position:
        case [str(job_id), int(created)]:
            rank = records.redis.zrevrank(key, job_id)
            return int(rank) + 1 if rank is not None else int(records.redis.zcount(key, created, "+inf"))
    raise BadCursor


def _load(records: Records, tenant: str, members: list[str]) -> list[Job]:
    pipe = records.redis.pipeline(transaction=False)
    for member in members:
        pipe.hgetall(f"{records.prefix}job:{member}")
    jobs, gone = [], []
    for member, row in zip(members, pipe.execute(), strict=True):
        if row.get("request"):
            jobs.append(job_from(member, row))
        else:
            gone.append(member)
    if gone:  # the record's life ended; its places in the indexes are swept here
        records.redis.zrem(f"{records.prefix}jobs:{tenant}", *gone)
        records.redis.zrem(f"{records.prefix}changed:{tenant}", *gone)
    return records.placed(jobs)


def _latest(records: Records) -> int:
    return int(records.redis.get(f"{records.prefix}seq") or 0)


def _milliseconds(job: Job) -> int:
    return round(job.created_at.timestamp() * 1000)


def _encode(position: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def _decode(cursor: str) -> object:
    try:
        return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise BadCursor(cursor) from error


def oldest_or_newest(records: Records, tenant: str, *, after: str, limit: int, oldest: bool) -> tuple[list[Job], bool]:
    """Return a tenant's jobs after a job's id, oldest or newest first, and whether more follow.

    An id that is not there any more is where the list begins. Raises QueueUnavailable.
    """
    key, found = f"{records.prefix}jobs:{tenant}", list[Job]()
    rank = records.ask("ZRANK" if oldest else "ZREVRANK", key, after) if after else None
    start = 0 if rank is None else int(rank) + 1
    while len(found) <= limit:
        chunk = records.ask("ZRANGE" if oldest else "ZREVRANGE", key, start, start + limit)
        found += [job for job in (records.find(job_id, tenant) for job_id in chunk) if job is not None]
        start += len(chunk)
        if len(chunk) <= limit:
            break
    return found[:limit], len(found) > limit
