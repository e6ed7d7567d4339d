"""Single flight: while one job computes an artifact, others wait for it instead of computing it too."""

import time
from collections.abc import Callable

from jobs.connection import QueueUnavailable
from jobs.locks import Lock
from jobs.records import Records

LIFE_SECONDS = 30.0
POLL_SECONDS = 0.2


class Flights:
    """The artifacts that one job is computing right now. `keep` must be called more often than their life."""

    def __init__(self, records: Records, token: str) -> None:
        """Fly under this token, which tells this attempt from all others."""
        self._records = records
        self._token = token
        self._held: dict[str, Lock] = {}

    def begin(self, key: str, *, waiting: Callable[[], None], give_up: Callable[[], bool]) -> bool:
        """Return True when the caller is to compute the artifact, False when someone else has ended computing it.

        Waits while another job holds the flight, calling `waiting` now and then; `give_up` ends the wait with True, as
        does a Redis that cannot be reached: doing work twice is better than not doing it.
        """
        lock = Lock(self._records, f"cas:{key}", self._token, LIFE_SECONDS)
        try:
            if key in self._held or lock.take():
                self._held[key] = lock
                return True
            while lock.held() and not give_up():
                waiting()
                time.sleep(POLL_SECONDS)
        except QueueUnavailable:
            return True
        return give_up()

    def keep(self) -> None:
        """Keep all flights alive. Raises QueueUnavailable."""
        for lock in list(self._held.values()):
            lock.keep()

    def end(self, key: str) -> None:
        """Say that the artifact is there, or that it will not come."""
        lock = self._held.pop(key, None)
        if lock is None:
            return
        try:
            lock.free()
        except QueueUnavailable:
            return  # its life ends by itself

    def end_all(self) -> None:
        """End whatever is still in flight."""
        for key in list(self._held):
            self.end(key)
