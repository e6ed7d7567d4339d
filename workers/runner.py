"""Run jobs, one at a time: what a worker's process keeps, and the way from the doorbell to an attempt."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from jobs import presence, routing
from jobs.connection import QueueUnavailable
from jobs.leases import Claim, Leases, Owner
from jobs.origin import Origin
from jobs.queue import Bell
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import open_store
from jobs.store_errors import counted_by
from jobs.submission import ring
from jobs.sweeps import Sweeps
from workers.attempt import Attempt
from workers.caches import Caches
from workers.frugal import with_second_plan
from workers.heartbeat import Heartbeat
from workers.policy import policed
from workers.signs import drain_file, note_trouble, unfit
from workers.work import load_engine

UNFIT_PAUSE_SECONDS = 1.0
AVOID_SECONDS = 300.0
LEAST_FREE_BYTES = 32 << 20
log = structlog.get_logger(__name__)


class Runner:
    """Everything that outlives a job in a worker's process: connections, caches, the engine with its warm weights."""

    def __init__(self, settings: Settings) -> None:
        """Connect, and import the engine."""
        self.settings = settings
        self.records = Records(settings)
        self.leases = Leases(self.records)
        self._sweeps = Sweeps(self.records)
        self.store = open_store(settings, counted_by(self.records))
        self.bell = Bell(settings)
        self.caches = Caches(self.records, self.store)
        self.engine = policed(with_second_plan(load_engine(settings.engine)), settings)
        self._loaded: tuple[str, ...] = ()
        self._work = settings.data_dir / "work" / settings.worker_id
        shutil.rmtree(self._work, ignore_errors=True)  # what a killed predecessor left

    def run(self, rung_for: str, owner: Owner, pool: str = "") -> str:
        """Answer one doorbell. Returns how it ended: a final state, `queued`, `lost`, `skipped` or `draining`."""
        if drain_file(self.settings).exists():
            return self._pass_on(rung_for)
        if self._unfit():
            time.sleep(UNFIT_PAUSE_SECONDS)  # until the parent stops to listen, others should be faster
            return self._pass_on(rung_for)
        claim = self.leases.take(rung_for, owner, pool=pool, warm=self._warm())
        if claim is None:
            return "skipped"
        job = claim.job
        with (
            structlog.contextvars.bound_contextvars(
                job=job.id, tenant=job.tenant, method=job.method, fence=claim.fence, attempt=job.attempt
            ),
            structlog.contextvars.bound_contextvars(**Origin(job.request_id or "", job.traceparent or "").fields()),
            self._folder(claim) as folder,
            Heartbeat(self.records, claim) as heart,
        ):
            log.info("job claimed")
            self.announce(job=job.id)
            ended = Attempt(self, claim, heart, folder).run()
            log.info("job left", outcome=ended)
            self.announce(job=None)
        if ended == "queued":
            self._pass_on(job.id)
        self._ring_for_others()
        return ended

    def announce(self, **facts: Any) -> None:
        """Change what others see of this worker; nobody waits for it."""
        self._loaded = tuple(facts.get("warm", self._loaded))
        with suppress(QueueUnavailable):
            presence.announce(self.records, self.settings.worker_id, **facts)

    @contextmanager
    def loading(self, checkpoint: str) -> Iterator[None]:
        """Surround the reading of weights; how long it took guides where bells ring."""
        began = time.monotonic()
        yield
        with suppress(QueueUnavailable):
            routing.note_load(self.records, checkpoint, time.monotonic() - began)
            self.records.count("model_loads")

    def _unfit(self) -> bool:
        """True when this machine must take no job now; looks at the disk, where a job would not even begin."""
        if shutil.disk_usage(self.settings.data_dir).free < LEAST_FREE_BYTES:
            self.caches.make_room()
            if shutil.disk_usage(self.settings.data_dir).free < LEAST_FREE_BYTES:
                note_trouble(self.settings, "disk")
        return unfit(self.settings) is not None

    def avoid_seconds(self, pool: str) -> float:
        """How long a job that failed here by the machine's fault stays away from it: not at all if nobody else is."""
        try:
            others = [worker for worker in self.records.roster.live() if worker.id != self.settings.worker_id]
        except QueueUnavailable:
            return 0.0
        return AVOID_SECONDS if any(pool in worker.pools for worker in others) else 0.0

    def _warm(self) -> tuple[str, ...]:
        """The models in memory; the empty name stands for the default one."""
        return (*self._loaded, "") if self.settings.checkpoint in self._loaded else self._loaded

    def _ring_for_others(self) -> None:
        """Ring for jobs that waited below a cap until the last one ended; the scheduler would a moment later."""
        with suppress(QueueUnavailable):
            for job_id in self._sweeps.never_rung():
                job = self.records.find(job_id)
                if job is not None:
                    ring(job, self.records, self.bell)

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
