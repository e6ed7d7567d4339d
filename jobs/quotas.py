"""What a tenant may use: jobs not yet ended, device seconds a day, bytes kept. 0 is no limit.

The settings hold for everyone, `set_quota` for one tenant. Running jobs are capped by `jobs.caps`, where nothing is
refused; here a request over a limit is. A limit is looked at before the request is done, so requests at the same
moment may exceed it together by a little.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from jobs.caps import load_of
from jobs.connection import QueueUnavailable
from jobs.layout import tenant_part
from jobs.records import Records
from jobs.store import Store

Name = Literal["jobs", "gpu_seconds", "bytes"]
DAY_SECONDS = 86400
COUNTED_SECONDS = 60
JOBS_RETRY_SECONDS = 10


class QuotaExceeded(Exception):
    """A limit stands in the way. `retry_after` is in seconds, None when only the tenant can make room."""

    def __init__(self, name: Name, used: float, limit: float, retry_after: int | None) -> None:
        """Keep which limit, and what is used of it."""
        super().__init__(f"{name}: {used:g} of {limit:g} used")
        self.name, self.used, self.limit, self.retry_after = name, used, limit, retry_after


@dataclass(frozen=True)
class Use:
    """What a tenant uses now, with its limits (0 = none). `day` is the UTC day that `gpu_seconds` belong to."""

    running: int
    running_cap: int
    queued: int
    jobs_limit: float
    gpu_seconds: float
    gpu_seconds_limit: float
    bytes: int
    bytes_limit: float
    day: datetime


def set_quota(records: Records, tenant: str, name: Name, limit: float | None) -> None:
    """Give one tenant a limit of its own; 0 lifts it, None goes back to the setting. Raises ValueError if negative."""
    if limit is None:
        records.ask("HDEL", f"{records.prefix}quotas:{name}", tenant)
    elif limit < 0:
        raise ValueError(f"a quota is 0 or more, not {limit}")
    else:
        records.ask("HSET", f"{records.prefix}quotas:{name}", tenant, limit)


def limit_of(records: Records, tenant: str, name: Name) -> float:
    """Return a tenant's limit. Raises QueueUnavailable."""
    own = records.ask("HGET", f"{records.prefix}quotas:{name}", tenant)
    settings = records.settings
    usual = {"jobs": settings.quota_jobs, "gpu_seconds": settings.quota_gpu_seconds, "bytes": settings.quota_bytes}
    return float(own if own is not None else usual[name])


def use_of(records: Records, store: Store, tenant: str) -> Use:
    """Return what a tenant uses. Raises QueueUnavailable and StoreUnavailable."""
    load, day = load_of(records, tenant), int(time.time()) // DAY_SECONDS
    return Use(
        running=load.running,
        running_cap=load.cap,
        queued=load.queued,
        jobs_limit=limit_of(records, tenant, "jobs"),
        gpu_seconds=spent(records, tenant, day),
        gpu_seconds_limit=limit_of(records, tenant, "gpu_seconds"),
        bytes=stored(records, store, tenant),
        bytes_limit=limit_of(records, tenant, "bytes"),
        day=datetime.fromtimestamp(day * DAY_SECONDS, UTC),
    )


def spent(records: Records, tenant: str, day: int) -> float:
    """Return the device seconds of jobs that ended on a day, counted from 1970 in UTC."""
    return int(records.ask("HGET", f"{records.prefix}spent:{tenant}:{day}", "gpu_ms") or 0) / 1000


def stored(records: Records, store: Store, tenant: str) -> int:
    """Return the bytes of a tenant's files and results, as they were counted at most a minute ago."""
    key = f"{records.prefix}stored:{tenant}"
    known = records.ask("GET", key)
    if known is not None:
        return int(known)
    folders = (f"assets/{tenant_part(tenant)}/blob/", f"out/{tenant_part(tenant)}/")
    total = sum(info.size_bytes for folder in folders for info in store.list(folder))
    records.ask("SET", key, total, "EX", COUNTED_SECONDS)
    return total


def admit_jobs(records: Records, tenant: str, count: int = 1) -> None:
    """See that the tenant may have so many jobs more. Raises QuotaExceeded and QueueUnavailable."""
    most = limit_of(records, tenant, "jobs")
    if most:
        load = load_of(records, tenant)
        if load.running + load.queued + count > most:
            raise QuotaExceeded("jobs", load.running + load.queued, most, JOBS_RETRY_SECONDS)
    seconds = limit_of(records, tenant, "gpu_seconds")
    if seconds:
        day, rest = divmod(int(time.time()), DAY_SECONDS)
        used = spent(records, tenant, day)
        if used >= seconds:
            raise QuotaExceeded("gpu_seconds", used, seconds, DAY_SECONDS - rest)


def admit_bytes(records: Records, store: Store, tenant: str, more: int = 0) -> None:
    """See that the tenant may bring so many bytes more; while Redis is away nobody is asked.

    Raises QuotaExceeded and StoreUnavailable.
    """
    with suppress(QueueUnavailable):
        most = limit_of(records, tenant, "bytes")
        if not most:
            return
        used = stored(records, store, tenant)
        if used + more > most:
            raise QuotaExceeded("bytes", used, most, None)
