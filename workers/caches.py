"""What a worker's process keeps between jobs for the stage cache, and the cache as one attempt sees it."""

import contextlib
from typing import TYPE_CHECKING, Any

from jobs.artifacts import Artifacts
from jobs.connection import QueueUnavailable
from jobs.leases import Claim
from jobs.records import Records
from jobs.store import Store
from workers.disk import Disk
from workers.flights import Flights
from workers.handover import Handover
from workers.heartbeat import Heartbeat
from workers.work import StageCache

if TYPE_CHECKING:
    from workers.stages import Memory


class NoCache:
    """Keeps nothing: every stage is computed."""

    def get(self, stage: str, key: str) -> None:
        """Find nothing."""

    def put(self, stage: str, key: str, tensors: dict[str, Any], meta: dict[str, str]) -> None:
        """Keep nothing."""


class Caches:
    """Memory and disk outlive jobs; store and flights are shared with all workers."""

    def __init__(self, records: Records, store: Store) -> None:
        """Open the levels in the settings' data folder."""
        settings = records.settings
        self._records, self._store = records, store
        self._artifacts = Artifacts(records)
        self._memory: Memory | None = None
        self._disk = Disk(settings.data_dir / "cache", settings.cache_disk_bytes)

    def open(self, claim: Claim, heart: Heartbeat) -> tuple[StageCache, Flights]:
        """Return the cache for one attempt, and the flights that must be ended with it."""
        mode = claim.job.request.cache.inversion
        flights = Flights(self._records, f"{claim.job_id}/{claim.fence}")
        if mode == "off":
            return NoCache(), flights
        from workers.stages import Memory, Stages  # imports torch, which a process without such a job never needs

        self._memory = self._memory or Memory(self._records.settings.cache_memory_bytes)
        heart.also.append(flights.keep)
        stages = Stages(
            self._store,
            self._disk,
            self._memory,
            flights,
            self._artifacts,
            tenant=claim.job.tenant,
            settings=self._records.settings,
            waiting=heart.alive,
            give_up=heart.stop_wanted,
            count=self._count,
            refresh=mode == "refresh",
        )
        return stages, flights

    def make_room(self) -> None:
        """Give the disk back: everything there is also in the store, or can be made again."""
        self._disk.clear()

    def handover(self, claim: Claim, heart: Heartbeat) -> Handover:
        """Return what keeps the states of unfinished stages for this attempt."""
        own = claim.job.request.cache.inversion in {"off", "refresh"}
        seconds = self._records.settings.step_state_seconds
        return Handover(self._store, self._disk, heart, every_seconds=seconds, scope=claim.job_id if own else "")

    def _count(self, name: str) -> None:
        with contextlib.suppress(QueueUnavailable):
            self._records.count(name)
