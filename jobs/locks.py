"""Locks with a life in Redis: who dies loses the lock by itself. For the leader, and for work done only once."""

from jobs.records import Records


class Lock:
    """One holder's view of a lock; `token` tells holders apart. Raises QueueUnavailable."""

    def __init__(self, records: Records, name: str, token: str, life_seconds: float) -> None:
        """Describe the lock; nothing is taken yet."""
        self._records = records
        self._arguments = (name, token, int(life_seconds * 1000))
        self._key = f"{records.prefix}lock:{name}"

    def take(self) -> bool:
        """Take the lock if nobody holds it."""
        return bool(self._records.run("lock", "take", *self._arguments))

    def keep(self) -> bool:
        """Begin the lock's life anew. False when it is not held by this token any more."""
        return bool(self._records.run("lock", "keep", *self._arguments))

    def free(self) -> None:
        """Give the lock back, if it is still held."""
        self._records.run("lock", "free", *self._arguments)

    def held(self) -> bool:
        """True while anyone holds it."""
        return bool(self._records.ask("EXISTS", self._key))
