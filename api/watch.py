"""Waiting for a job to change: every waiter of a process parks on one reader of the feed of all changes."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from jobs.connection import QueueUnavailable
from jobs.feed import Feed
from jobs.records import Records

LOG = structlog.get_logger(__name__)
BLOCK_MS = 1000
PAUSE_SECONDS = 0.5


class Watch:
    """One thread reads the feed; each follower of a job gets its event set. Start it inside the event loop."""

    def __init__(self, records: Records) -> None:
        self._feed = Feed(records)
        self._followers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._read, name="changes", daemon=True)

    @property
    def closing(self) -> bool:
        """True once the process is to stop: held answers end now."""
        return self._closing.is_set()

    def start(self) -> None:
        """Begin to read, waking followers on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Wake everyone and let the reader end; it may take `BLOCK_MS` to notice, less with `join`."""
        self._closing.set()
        self._wake(None)

    def join(self) -> None:
        """Call the reader off its read and wait for its end. Blocks."""
        with contextlib.suppress(QueueUnavailable):
            self._feed.interrupt()
        self._thread.join()

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job changes. Enter it before you read the version you compare with."""
        event = asyncio.Event()
        self._followers[job_id].add(event)
        try:
            yield event
        finally:
            self._followers[job_id].discard(event)
            if not self._followers[job_id]:
                del self._followers[job_id]

    def _wake(self, job_ids: set[str] | None) -> None:
        """Set the events of these jobs; of all jobs for None. Runs on the loop."""
        for job_id, events in self._followers.items():
            if job_ids is None or job_id in job_ids:
                for event in events:
                    event.set()

    def _tell(self, job_ids: set[str] | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closes between the check and the call
                self._loop.call_soon_threadsafe(self._wake, job_ids)

    def _read(self) -> None:
        position = ""
        while not self._closing.is_set():
            try:
                position = position or self._feed.latest()
                position, changes = self._feed.read(position, block_ms=BLOCK_MS)
            except (QueueUnavailable, RedisError) as error:
                # A server that comes back empty starts its feed anew, so the position is asked again; followers
                # wake and see for themselves.
                LOG.warning("changes.unreachable", error=str(error))
                position = ""
                self._tell(None)
                self._closing.wait(PAUSE_SECONDS)
                continue
            if changes:
                self._tell({change.job_id for change in changes})


class Versions(Protocol):
    """Whatever knows versions: of jobs, of batches."""

    def version(self, job_id: str, tenant: str, /) -> int:
        """The version now. Raises NotFound."""
        ...


async def changed(watch: Watch, records: Versions, job_id: str, tenant: str, known: int, seconds: float) -> int:
    """The job's, or batch's, version once it differs from `known`, or `known` after `seconds`. Raises NotFound."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    with watch.following(job_id) as event:
        while True:
            event.clear()
            version = await asyncio.to_thread(records.version, job_id, tenant)
            left = until - loop.time()
            if version != known or left <= 0 or watch.closing:
                return version
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), left)
