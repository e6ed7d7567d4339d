"""Notices a job that no longer makes progress, which a heartbeat thread alone cannot: it beats while the GPU hangs."""

import contextlib
import time
from collections.abc import Iterator

SMOOTHING = 0.3


class Watchdog:
    """Knows how long the next sign of life may take: from the usual step, or long where no steps are reported."""

    def __init__(self, stall_seconds: float, unstepped_seconds: float) -> None:
        """Start the clock with the long allowance, until the first step tells more."""
        self._stall = stall_seconds
        self._unstepped = unstepped_seconds
        self._usual: float | None = None
        self._stepping = False
        self._loading = False
        self._last = time.monotonic()

    def tick(self, step: int = 0, steps: int = 0) -> None:
        """Take a sign of life; with `steps`, one of a loop that has not ended."""
        now = time.monotonic()
        if self._stepping and step > 0:
            spent = now - self._last
            self._usual = spent if self._usual is None else SMOOTHING * spent + (1 - SMOOTHING) * self._usual
        self._stepping = 0 < step < steps
        self._last = now

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Allow the long time while weights are read."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False
            self.tick()

    @property
    def usual_seconds(self) -> float:
        """What a step has taken lately; 0 when there was none."""
        return self._usual or 0.0

    def stalled(self) -> bool:
        """True when the next sign of life is overdue."""
        allowed = self._unstepped
        if self._stepping and not self._loading:
            allowed = max(self._stall, 10 * (self._usual or 0.0))
        return time.monotonic() - self._last > allowed
