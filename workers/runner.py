"""Run jobs, one at a time: what a worker's process keeps, and the way from the doorbell to an attempt."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from jobs import presence
from jobs.connection import QueueUnavailable
from jobs.leases import Claim, Leases, Owner
from jobs.queue import Bell
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import open_store
from jobs.submission import ring
from workers.attempt import Attempt
from workers.caches import Caches
from workers.heartbeat import Heartbeat
from workers.signs import drain_file
from workers.work import load_engine

log = structlog.get_logger(__name__)


class Runner:
    """Everything that outlives a job in a worker's process: connections, caches, the engine with its warm weights."""

    def __init__(self, settings: Settings) -> None:
        """Connect, and import the engine."""
        self.settings = settings
        self.records = Records(settings)
        self.leases = Leases(self.records)
        self.store = open_store(settings)
        self.bell = Bell(settings)
        self.caches = Caches(self.records, self.store)
        self.engine = load_engine(settings.engine)
        self._work = settings.data_dir / "work" / settings.worker_id
        shutil.rmtree(self._work, ignore_errors=True)  # what a killed predecessor left

    def run(self, job_id: str, owner: Owner) -> str:
        """Answer one doorbell. Returns how it ended: a final state, `queued`, `lost`, `skipped` or `draining`."""
        if drain_file(self.settings).exists():
            return self._pass_on(job_id)
        claim = self.leases.claim(job_id, owner)
        if claim is None:
            return "skipped"
        job = claim.job
        with (
            structlog.contextvars.bound_contextvars(
                job=job.id, tenant=job.tenant, method=job.method, fence=claim.fence, attempt=job.attempt
            ),
            self._folder(claim) as folder,
            Heartbeat(self.records, claim) as heart,
        ):
            log.info("job claimed")
            self.announce(job=job.id)
            ended = Attempt(self, claim, heart, folder).run()
            log.info("job left", outcome=ended)
            self.announce(job=None)
        if ended == "queued":
            self._pass_on(job_id)
        return ended

    def announce(self, **facts: Any) -> None:
        """Change what others see of this worker; nobody waits for it."""
        with suppress(QueueUnavailable):
            presence.announce(self.records, self.settings.worker_id, **facts)

    def _pass_on(self, job_id: str) -> str:
        """Ring again, for another worker."""
        job = self.records.find(job_id)
        if job is not None:
            ring(job, self.records, self.bell)
        return "draining"

    @contextmanager
    def _folder(self, claim: Claim) -> Iterator[Path]:
        self._work.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{claim.job_id}-{claim.fence}-", dir=self._work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
