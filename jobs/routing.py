"""Where a job waits and whose bell rings for it: its pool, and sometimes one worker that has its weights in memory.

The worker that answers a bell takes whichever job has its turn, so a bell in the wrong place costs time, never order.
"""

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from jobs.presence import Worker
from jobs.records import Records
from jobs.request import JobRequest
from jobs.schema import Job
from jobs.settings import Settings

DEFAULT_POOL = "default"
USUAL_LOAD_SECONDS = 20.0
"""How long weights take to read when nobody has measured it."""
HOLD_SECONDS = 2.0
"""How much longer than expected a job is kept for the worker it was rung for."""
MEMORY = 0.3


class Choice(NamedTuple):
    """Ring for this worker alone; everyone else hears of the job after `hold_seconds`."""

    worker: str
    hold_seconds: float


def pool_for(request: JobRequest, records: Records) -> str:
    """Return the pool a request waits in. Raises QueueUnavailable."""
    routed = routed_pool(request, records.settings)
    if routed is not None:
        return routed
    served = [pool for worker in records.roster.live() for pool in worker.pools]
    if not served or DEFAULT_POOL in served:
        return DEFAULT_POOL
    return max(sorted(set(served)), key=served.count)


def routed_pool(request: JobRequest, settings: Settings) -> str | None:
    """Return the pool of the first route that fits, or None."""
    names = (request.method, f"model:{request.model or settings.checkpoint}")
    for route in settings.routes:
        pattern, _, pool = route.partition("=")
        if any(fnmatchcase(name, pattern) for name in names):
            return pool
    return None


def choose(job: Job, records: Records) -> Choice | None:
    """Return the worker to ring for, or None: then everyone's bell rings.

    One worker alone is worth waiting for when it holds the job's weights, others that are idle do not, and it will be
    free before they could have read them.
    """
    model = job.model or records.settings.checkpoint
    serving = [worker for worker in records.roster.live() if job.pool in worker.pools]
    warm = [worker for worker in serving if model in worker.warm]
    cold_and_idle = [worker for worker in serving if model not in worker.warm and worker.job is None]
    if not warm or not cold_and_idle:
        return None
    wait, worker = min((_free_in(records, worker), worker.id) for worker in warm)
    return Choice(worker, wait + HOLD_SECONDS) if wait <= load_seconds(records, model) else None


def _free_in(records: Records, worker: Worker) -> float:
    """Seconds until the worker ends its job, from the fraction done; a job that has just begun tells nothing."""
    job = records.find(worker.job) if worker.job else None
    if job is None or job.state.terminal:
        return 0.0
    started = job.attempts[-1].started_at if job.attempts else None
    if started is None or job.progress.fraction <= 0:
        return float("inf")
    return (datetime.now(UTC) - started).total_seconds() * (1 / job.progress.fraction - 1)


def load_seconds(records: Records, model: str) -> float:
    """Return how long the model's weights usually take to read. Raises QueueUnavailable."""
    return float(records.ask("HGET", f"{records.prefix}loads", model) or USUAL_LOAD_SECONDS)


def note_load(records: Records, model: str, seconds: float) -> None:
    """Remember how long reading the weights took. Raises QueueUnavailable."""
    known = records.ask("HGET", f"{records.prefix}loads", model)
    mean = seconds if known is None else MEMORY * seconds + (1 - MEMORY) * float(known)
    records.ask("HSET", f"{records.prefix}loads", model, round(mean, 3))
