"""The feed of all changes: whoever waits for any job reads it, and its own process can end the wait at once."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.connection import available
from jobs.states import State

if TYPE_CHECKING:
    from jobs.records import Records

StreamEntry = tuple[str, dict[str, str]]
SIGN_SECONDS = 60


@dataclass(frozen=True)
class Change:
    """One entry of the feed: enough to wake whoever waits for the job."""

    job_id: str
    tenant: str
    version: int
    state: State


class Feed:
    """One reader's view of the feed. Raises QueueUnavailable."""

    def __init__(self, records: "Records") -> None:
        """Name the reader; nothing is sent yet."""
        self._records = records
        self._stream = f"{records.prefix}changes"
        self._sign = f"{records.prefix}wake:{secrets.token_hex(8)}"

    def latest(self) -> str:
        """Return the newest position."""
        newest = self._records.ask("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return str(newest[0][0]) if newest else "0"

    def read(self, after: str, *, block_ms: int = 1000, count: int = 1000) -> tuple[str, list[Change]]:
        """Return the position and the changes of all jobs after it, none when time is up. Start with `latest()`."""
        names = ("STREAMS", self._stream, self._sign, after, "0")
        answer = self._records.ask("XREAD", "COUNT", count, "BLOCK", block_ms, *names)
        found = []
        for entry, row in entries(answer, self._stream):
            after = entry
            found.append(Change(row["job"], row["tenant"], int(row["version"]), State(row["state"])))
        return after, found

    def interrupt(self) -> None:
        """End a `read` that waits in another thread; for a minute none waits any more."""
        with available(), self._records.redis.pipeline() as both:
            both.xadd(self._sign, {"end": "1"})
            both.expire(self._sign, SIGN_SECONDS)
            both.execute()


def entries(answer: Any, stream: str) -> Iterator[StreamEntry]:
    """Return the entries of one stream of an XREAD's answer, in either protocol's shape."""
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    for name, found in pairs:
        if name == stream:
            yield from found
