"""The thread that holds a job's lease: beats, writes progress, and hears of cancels, lost leases and shutdowns.

It never lets the engine wait for Redis: the engine sets a snapshot and reads a local flag, nothing more.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import structlog

from jobs.connection import UNREACHABLE, QueueUnavailable
from jobs.leases import Claim, Leases
from jobs.records import Records
from jobs.schema import Placement, Progress
from workers.signs import busy_file, drain_file
from workers.watchdog import Watchdog

Verdict = Literal["cancel", "lost", "preempt", "stalled"]
TICK_SECONDS = 0.25
PROGRESS_SECONDS = 0.5
ABANDONED = 70
"""Exit status of a process that gives up on a job which does not stop; its parent starts a new one."""

log = structlog.get_logger(__name__)


class Heartbeat:
    """Holds one claim while the engine runs in the main thread. Use as a context manager."""

    def __init__(self, records: Records, claim: Claim) -> None:
        """Prepare to hold `claim`."""
        settings = records.settings
        self._records = records
        self._leases = Leases(records)
        self._claim = claim
        self._settings = settings
        self._drain, self._busy = drain_file(settings), busy_file(settings)
        self._parent = os.getppid()
        self._progress: Progress | None = None
        self._placement: Placement | None = None
        self._verdict: Verdict | None = None
        self._verdict_at = 0.0
        self._done = threading.Event()
        self._last_beat = time.monotonic()
        self._watchdog = Watchdog(settings.stall_seconds, settings.load_seconds)
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{claim.job_id}", daemon=True)
        self._handover_seconds = 1.0
        self.also: list[Callable[[], None]] = []
        """Called about every third of a lease, for whatever else must be kept alive."""

    @property
    def verdict(self) -> Verdict | None:
        """Why the engine must stop, or None."""
        return self._verdict

    def stop_wanted(self) -> bool:
        """True when the engine must stop at its next step; costs nothing."""
        return self._verdict is not None

    def show(self, progress: Progress) -> None:
        """Set what is written at the next occasion, at most twice a second."""
        running = next((stage for stage in progress.stages if stage.state == "running"), None)
        self._watchdog.tick((running and running.step) or 0, (running and running.steps) or 0)
        self._progress = progress

    def place(self, placement: Placement) -> None:
        """Set where the job runs; written with the next progress."""
        self._placement = placement

    def alive(self) -> None:
        """Say that the job makes progress although it reports no step."""
        self._watchdog.tick()

    def allow(self, *, handover_seconds: float) -> None:
        """Say how long it takes to keep the state of a stage: a shutdown leaves time for it."""
        self._handover_seconds = handover_seconds

    def draining(self) -> bool:
        """True while the worker shuts down."""
        return self._drain.exists()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Surround work that takes long without a sign of life."""
        with self._watchdog.loading():
            yield

    def __enter__(self) -> "Heartbeat":
        """Begin to beat."""
        self._busy.parent.mkdir(parents=True, exist_ok=True)
        self._busy.write_text(str(os.getpid()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop beating."""
        self.stop()

    def stop(self) -> None:
        """Stop beating; the caller has ended the job or given it up.

        The thread ends within a tick and is not waited for: a beat that comes late is refused by its fence.
        """
        self._done.set()
        self._busy.unlink(missing_ok=True)

    def _run(self) -> None:
        with structlog.contextvars.bound_contextvars(job=self._claim.job_id, fence=self._claim.fence):
            ears = self._listen()
            while not self._done.is_set():
                called = self._wait(ears)
                with contextlib.suppress(OSError):
                    os.utime(self._busy)
                with contextlib.suppress(QueueUnavailable):  # the lease decides whether we still own the job
                    self._once(called)
                self._enforce()
            with contextlib.suppress(*UNREACHABLE):
                if ears is not None:
                    ears.close()

    def _once(self, called: bool) -> None:
        since = time.monotonic() - self._last_beat
        news = self._progress if since >= PROGRESS_SECONDS else None
        if called or news is not None or since >= self._settings.lease_seconds / 3:
            self._beat(news)
        if self._verdict is not None:
            return
        if self._shutdown_near() or os.getppid() != self._parent:
            self._decide("preempt")
        elif self._watchdog.stalled():
            self._decide("stalled")

    def _beat(self, news: Progress | None) -> None:
        placement, self._last_beat = self._placement, time.monotonic()
        answer = self._leases.beat(self._claim, progress=news, placement=placement if news else None)
        if news is not None and self._progress is news:
            self._progress = None
        for keep in self.also:
            keep()
        if answer != "ok" and self._verdict is None:
            self._decide(answer)

    def _decide(self, verdict: Verdict) -> None:
        log.info("job must stop", reason=verdict)
        self._verdict, self._verdict_at = verdict, time.monotonic()

    def _shutdown_near(self) -> bool:
        """True when a shutdown began and what is left of its grace is needed to hand the job back."""
        return self._grace_left() < self._needed()

    def _grace_left(self) -> float:
        """Seconds until the shutdown that began kills this process; infinite when none did."""
        try:
            age = time.time() - self._drain.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        return self._settings.shutdown_grace_seconds - age

    def _needed(self) -> float:
        """Seconds to end the step that runs, keep the state and release the job; no more than most of the grace."""
        grace = self._settings.shutdown_grace_seconds
        needed = 1.0 + 1.5 * (self._watchdog.usual_seconds + self._handover_seconds)
        return min(max(needed, min(5.0, grace / 2)), 0.8 * grace)

    def _enforce(self) -> None:
        """Give up on an engine that does not stop: end the claim and this process."""
        if self._verdict is None or self._done.is_set():
            return
        waited = time.monotonic() - self._verdict_at
        patience = {"cancel": self._settings.cancel_grace_seconds, "preempt": self._needed(), "stalled": 0.0}
        if waited < patience.get(self._verdict, self._settings.cancel_grace_seconds) and self._grace_left() > 0.5:
            return
        log.warning("engine does not stop, giving up this process", reason=self._verdict)
        with contextlib.suppress(QueueUnavailable):
            self._leases.release(self._claim, "stage_timeout", hand_back=self._verdict == "preempt")
        os._exit(ABANDONED)

    def _listen(self) -> Any:
        """Subscribe to the channel that tells of cancels at once; without it, the next beat tells."""
        try:
            ears = self._records.redis.pubsub(ignore_subscribe_messages=True)
            ears.subscribe(f"{self._records.prefix}ctl:{self._settings.worker_id}")
        except UNREACHABLE:
            return None
        return ears

    def _wait(self, ears: Any) -> bool:
        """Wait for a tick; True when this job was called by name."""
        if ears is None:
            self._done.wait(TICK_SECONDS)
            return False
        try:
            message = ears.get_message(timeout=TICK_SECONDS)
        except UNREACHABLE:
            self._done.wait(TICK_SECONDS)
            return False
        return message is not None and message["data"] == self._claim.job_id
