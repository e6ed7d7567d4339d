"""What an attempt tells its tenant: lines that the heartbeat takes along, so that the engine never waits for Redis."""

import threading
from collections import deque
from contextlib import suppress
from typing import Any

import structlog

from jobs.connection import QueueUnavailable
from jobs.journal import Fact, Level, draft
from jobs.leases import Claim, Leases

MOST_WAITING = 200
log = structlog.get_logger(__name__)


class Diary:
    """Lines by `jobs.journal`; written to the service's own log at once, to the job's with the next beat."""

    def __init__(self, leases: Leases, claim: Claim) -> None:
        """Write about this claim; nothing is sent yet."""
        self._leases, self._claim = leases, claim
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._sending = threading.Lock()

    def write(self, event: str, *, level: Level = "info", stage: str | None = None, **facts: Fact) -> None:
        """Tell something. Raises ValueError for what does not belong into a tenant's log."""
        line = draft(event, level=level, stage=stage, **facts)
        getattr(log, level)(event, stage=stage, **line["facts"])
        self._waiting.append(line)

    def flush(self) -> None:
        """Send what waits. Raises QueueUnavailable; then it waits on."""
        with self._sending:
            lines = list(self._waiting)
            if not lines:
                return
            self._leases.write(self._claim, lines)
            for _ in lines:
                self._waiting.popleft()

    def close(self) -> None:
        """Send what waits if that is possible: the attempt ends now."""
        with suppress(QueueUnavailable):
            self.flush()
