"""What the scheduler writes to the store and takes from it: endings of jobs, outputs and records whose life ended, and
artifacts of the stage cache beyond their quotas.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from jobs import journal, layout, manifest
from jobs.artifacts import Artifacts
from jobs.records import Records
from jobs.store import Store
from jobs.sweeps import Sweeps
from jobs.uploads import Uploads

HANDS = 8
"""Requests to the store at a time."""
BUDGET_SECONDS = 2.0
"""After so long the rest waits for the next round, because lost workers must not wait for the store."""
COLLECT_SECONDS = 10.0
UPLOADS_SECONDS = 600.0
HALF_WRITTEN_SECONDS = 3600.0
"""An artifact that still has no sidecar after this time was left by a writer that died."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Retention:
    """Each call does what is due now within its budget, many at a time. Raises QueueUnavailable, StoreUnavailable."""

    def __init__(self, records: Records, store: Store) -> None:
        """Keep house in this store."""
        self._records, self._store = records, store
        self._sweeps, self._artifacts = Sweeps(records), Artifacts(records)
        self._collect_from = self._sweep_from = 0.0
        self._uploads = Uploads(store, records.settings)

    def archive(self) -> None:
        """Write the endings of jobs beside their manifests, so that they survive the loss of Redis."""
        self._drain(self._sweeps.ended_unarchived, self._archive_one)

    def retire(self) -> None:
        """Delete outputs at the end of their life, and everything else when the record's own ends."""
        self._drain(lambda: self._sweeps.lives_ended(int(time.time() * 1000)), self._retire_one)

    def collect(self) -> None:
        """Delete the artifacts that were not used for longest, where a kind or a tenant is over its quota."""
        if time.monotonic() >= self._collect_from:
            self._collect_from = time.monotonic() + COLLECT_SECONDS
            self._drain(self._artifacts.over_quota, self._evict)

    def sweep_uploads(self) -> None:
        """Remove files that were announced and never became an asset, now and then."""
        if time.monotonic() >= self._sweep_from:
            self._sweep_from = time.monotonic() + UPLOADS_SECONDS
            if swept := self._uploads.sweep():
                log.info("uploads swept", count=swept)

    def adopt(self) -> None:
        """Account for artifacts that Redis does not know, and remove what dead writers left. Reads the whole list."""
        described, found = "", []
        for info in self._store.list("cas/v1/"):
            if info.key.endswith(".json"):
                described = info.key
            elif layout.sidecar(info.key) == described:
                found.append((info.key, info.size_bytes, int(info.modified.timestamp() * 1000)))
            elif time.time() - info.modified.timestamp() > HALF_WRITTEN_SECONDS:
                self._store.delete(info.key)
            if len(found) >= 500:
                self._artifacts.adopt(found)
                found = []
        self._artifacts.adopt(found)

    def forget_partials(self) -> None:
        """Delete what was kept of unfinished stages that nobody went on with. Reads the whole list."""
        oldest = time.time() - self._records.settings.step_state_ttl_seconds
        old = [info.key for info in self._store.list(layout.PARTIALS) if info.modified.timestamp() < oldest]
        for key in old:
            self._store.delete(key)

    def _drain(self, fetch: Callable[[], Sequence[T]], handle: Callable[[T], None]) -> None:
        until = time.monotonic() + BUDGET_SECONDS
        batch = fetch()
        if not batch:
            return
        with ThreadPoolExecutor(HANDS) as hands:
            while batch:
                for _ in hands.map(handle, batch):
                    pass  # raises what went wrong
                batch = fetch() if time.monotonic() < until else ()

    def _archive_one(self, job_id: str) -> None:
        row = self._records.ask("HGETALL", f"{self._records.prefix}job:{job_id}")
        if row:
            journal.keep(self._store, self._records, row["tenant"], job_id)
            manifest.write_ending(self._store, row["tenant"], job_id, row)
        self._sweeps.archived(job_id)

    def _retire_one(self, job: tuple[str, str]) -> None:
        tenant, job_id = job
        known = self._records.find(job_id, tenant)
        if known is None or known.media_gone:
            manifest.remove(self._store, tenant, job_id)
            self._sweeps.forgotten(tenant, job_id)
            return
        self._store.delete_prefix(layout.outputs_folder(tenant, job_id))
        self._sweeps.media_gone(tenant, job_id)

    def _evict(self, place: str) -> None:
        self._store.delete(layout.sidecar(place))  # first: what has no sidecar does not exist
        self._store.delete(place)
        self._artifacts.forget(place)
        self._records.count("cache_evictions")
