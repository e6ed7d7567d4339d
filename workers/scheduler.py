"""Keeps jobs going when something was lost: `python -m workers.scheduler`. Several may run, one of them leads.

Reaps jobs of lost workers, ends late ones, rings again where a bell was lost, enforces cancels, writes endings to the
store, deletes what has reached the end of its life, and rebuilds the records when Redis was wiped.
"""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable

import structlog
from kombu.exceptions import ChannelError, OperationalError

from jobs.batch_work import Engine, tend
from jobs.connection import UNREACHABLE, QueueUnavailable
from jobs.locks import Lock
from jobs.log import configure
from jobs.queue import Bell
from jobs.records import Records
from jobs.recovery import forgotten, recover
from jobs.settings import Settings
from jobs.store import StoreUnavailable, open_store
from jobs.store_errors import counted_by
from jobs.submission import ring
from jobs.sweeps import Sweeps
from workers.outbox import Outbox
from workers.retention import Retention
from workers.signs import scheduler_file

TROUBLE = (QueueUnavailable, StoreUnavailable, OperationalError, ChannelError, *UNREACHABLE)
SURE_TO_RING_AGAIN = 10
log = structlog.get_logger(__name__)


class Scheduler:
    """One replica. `tick` does a round of everything that is due; each part fails alone."""

    def __init__(self, settings: Settings) -> None:
        """Connect to Redis, store and broker when they are first needed."""
        self._settings = settings
        self._records = Records(settings)
        self._sweeps = Sweeps(self._records)
        self._store = open_store(settings, counted_by(self._records))
        self._retention = Retention(self._records, self._store)
        self._bell = Bell(settings)
        self._outbox = Outbox(settings, self._records, self._store)
        token = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._leadership = Lock(self._records, "leader", token, settings.leader_ttl_seconds)
        self._reap_from = 0.0
        self._reconcile_from = 0.0
        self._comparing: threading.Thread | None = None

    def run(self, stop: threading.Event) -> None:
        """Tick until asked to stop, then give up the leadership."""
        sign = scheduler_file(self._settings)
        sign.parent.mkdir(parents=True, exist_ok=True)
        self._outbox.start()
        while not stop.wait(self._settings.scheduler_interval_seconds):
            self._outbox.lead(self.tick())
            sign.touch()
        self._outbox.stop()
        sign.unlink(missing_ok=True)
        try:
            self._leadership.free()
        except QueueUnavailable:
            return  # it ends by itself

    def tick(self) -> bool:
        """Do one round if this replica leads; returns whether it did."""
        try:
            if not (self._leadership.keep() or self._leadership.take()):
                return False
        except QueueUnavailable:
            self._give_grace()
            return False
        kept = self._retention
        first = (self._recover, self._reap, self._expire, self._ring, self._enforce)
        for part in (*first, kept.archive, kept.retire, kept.collect, kept.sweep_uploads, self._batches):
            self._attempt(part)
        return True

    def _attempt(self, part: Callable[[], None]) -> None:
        try:
            part()
        except TROUBLE as error:
            log.warning("scheduler cannot do its work", part=part.__name__, error=str(error))
            if not isinstance(error, StoreUnavailable):
                self._give_grace()

    def _give_grace(self) -> None:
        """While Redis was away nobody could beat: owners get a lease's time to say that they live."""
        self._reap_from = time.monotonic() + self._settings.lease_seconds

    def _reap(self) -> None:
        if time.monotonic() < self._reap_from:
            return
        for job_id, state in self._sweeps.reap().items():
            log.warning("worker lost", job=job_id, state=state)

    def _expire(self) -> None:
        for job_id in self._sweeps.expire_due():
            log.info("deadline missed", job=job_id)

    def _ring(self) -> None:
        due = self._sweeps.never_rung()
        wait = self._settings.ring_after_seconds
        lost = sum(max(0, count - self._bell.waiting(pool)) for pool, count in self._sweeps.startable().items())
        if lost:  # fewer messages than jobs; which ones is not known, so the next tick may have to ring for others
            due += self._sweeps.due_rings(wait, lost)
        due += self._sweeps.due_rings(SURE_TO_RING_AGAIN * wait)
        for job_id in due:
            job = self._records.find(job_id)
            if job is not None:
                ring(job, self._records, self._bell)
                self._records.count("rings_repeated")

    def _enforce(self) -> None:
        for overdue in self._sweeps.overdue_cancels():
            log.warning("cancel is not obeyed, killing the process", job=overdue.job_id, node=overdue.node)
            self._bell.kill(overdue.task, overdue.node)
            self._sweeps.end_lease(overdue.job_id, overdue.fence)

    def _batches(self) -> None:
        tend(Engine(self._records, self._store, self._bell), self._settings.scheduler_interval_seconds)

    def _recover(self) -> None:
        """Compare store and records beside the rounds: reading all manifests may take minutes."""
        if self._comparing is not None and self._comparing.is_alive():
            return
        wiped = forgotten(self._records)
        if wiped or time.monotonic() >= self._reconcile_from:
            self._reconcile_from = time.monotonic() + self._settings.reconcile_seconds
            self._comparing = threading.Thread(target=self._compare, args=(wiped,), name="compare", daemon=True)
            self._comparing.start()

    def _compare(self, wiped: bool) -> None:
        age = 0.0 if wiped else self._settings.orphan_after_seconds
        try:
            self._sweeps.relink()
            done = recover(self._records, self._store, self._bell, older_than_seconds=age)
            self._retention.adopt()
            self._retention.forget_partials()
        except TROUBLE as error:
            log.warning("store and records cannot be compared, will try again", error=str(error))
            self._reconcile_from = 0.0
            return
        if done.queued or done.restored or done.swept:
            log.warning("records rebuilt", queued=done.queued, restored=done.restored, swept=done.swept)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    configure(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("scheduler started")
    Scheduler(settings).run(stop)


if __name__ == "__main__":
    main()
