"""What lies before jobs: time to go of those that run, work ahead of those that wait. What ends is learnt from."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.history import sample_of
from jobs.rows import job_from
from jobs.schema import Job, Place, Progress

if TYPE_CHECKING:
    from jobs.records import Records


def remaining_seconds(job: Job) -> float | None:
    """Time to go of a running job: at first what was expected, then more and more what its own pace tells."""
    done, forecast = job.progress.fraction, job.forecast
    began = job.attempts[-1].started_at if job.attempts else job.started_at
    if began is None:
        return None
    passed = (datetime.now(UTC) - began).total_seconds()
    expected = forecast.seconds if forecast else None
    if expected is None:
        return max(0.0, passed * (1 / done - 1)) if done >= 0.02 else None
    return (1 - done) * (passed + (1 - done) * expected)


def learn(records: "Records", job: Job, progress: Progress, device: str | None) -> None:
    """Remember how long a job that succeeded took, what it left in the cache, and how wrong its forecast was."""
    forecast, history = job.forecast, records.history
    if forecast is None or not forecast.kind:
        return
    if any(stage.resumed_frame_evals for stage in progress.stages):
        return  # an earlier attempt did a part, in seconds that are not told
    began = job.attempts[-1].started_at if job.attempts else job.started_at
    sample = sample_of(progress, began, datetime.now(UTC), forecast.units)
    about = (job.method, job.model or records.settings.checkpoint, device or "unknown")
    history.note(about, forecast.kind, sample)
    done = {stage.name for stage in progress.stages if stage.state == "done"}
    history.store(digest for stage, digest in forecast.prints.items() if stage in done)
    if forecast.seconds is not None:
        records.count("eta_jobs")
        records.count("eta_error_ms", int(abs(sample.total - forecast.seconds) * 1000))


class Pool(NamedTuple):
    """Mean seconds of the jobs that wait (None when unknown), seconds to go of those that run, and the workers."""

    mean: float | None
    running: float
    workers: int
    idle: int


class Outlook:
    """What lies before a job that waits, pool by pool; remembered for a second. Raises QueueUnavailable."""

    def __init__(self, records: "Records") -> None:
        """Look at nothing yet."""
        self._records = records
        self._seen: dict[str, tuple[float, Pool]] = {}

    def workers(self, pool: str) -> int:
        """Return how many live workers serve the pool."""
        return self._pool(pool).workers

    def before(self, pool: str, priority: int) -> int:
        """Return how many jobs of this broker priority or a higher one wait in the pool."""
        last = f"({(priority + 1) * 10**13}"
        return int(self._records.ask("ZCOUNT", f"{self._records.prefix}q:pos:{pool}", "-inf", last))

    def places(self, jobs: Sequence[Job], found: Sequence[Any]) -> dict[str, Place]:
        """Return places by job id; `found` holds for each job its position and the reason that holds it back."""
        told = zip(jobs, found[::2], found[1::2], strict=True)
        return {job.id: self.place(job.pool, int(position), reason) for job, position, reason in told}

    def place(self, pool: str, position: int, reason: str) -> Place:
        """Return the place of a waiting job: the work ahead of it, and the time until it starts if it may."""
        ahead, wait = self.ahead(pool, position)
        return Place(
            position=position,
            reason=reason or None,
            ahead_gpu_seconds=None if ahead is None else round(ahead, 3),
            wait_seconds=None if wait is None or reason else round(wait, 3),
        )

    def ahead(self, pool: str, position: int) -> tuple[float | None, float | None]:
        """Return compute seconds of the jobs ahead, and seconds until the job at this position starts."""
        pool_now = self._pool(pool)
        if pool_now.mean is None:
            return None, None
        ahead = max(0, position - 1) * pool_now.mean
        if not pool_now.workers:
            return ahead, None
        return ahead, 0.0 if position <= pool_now.idle else (ahead + pool_now.running) / pool_now.workers

    def _pool(self, pool: str) -> Pool:
        until, seen = self._seen.get(pool, (0.0, Pool(None, 0.0, 0, 0)))
        if time.monotonic() >= until:
            seen = self._look(pool)
            self._seen[pool] = (time.monotonic() + 1.0, seen)
        return seen

    def _look(self, pool: str) -> Pool:
        records = self._records
        workers = [worker for worker in records.roster.live() if pool in worker.pools]
        jobs = [job for job in map(self._running, (worker.job for worker in workers)) if job]
        known, ms = map(
            int, (value or 0 for value in records.ask("HMGET", f"{records.prefix}q:work:{pool}", "jobs", "ms"))
        )
        waiting = int(records.ask("ZCARD", f"{records.prefix}q:pos:{pool}"))
        mean = ms / known / 1000 if known else None if waiting else 0.0
        return Pool(mean, sum(remaining_seconds(job) or 0.0 for job in jobs), len(workers), len(workers) - len(jobs))

    def _running(self, job_id: str | None) -> Job | None:
        row = self._records.ask("HGETALL", f"{self._records.prefix}job:{job_id}") if job_id else {}
        job = job_from(job_id or "", row) if row.get("request") else None
        return job if job is not None and job.state.owned else None
