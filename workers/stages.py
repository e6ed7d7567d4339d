"""The stage cache: memory, then the worker's disk, then the object store; verified on every read.

Artifacts are safetensors files under `cas/v1/<kind>/<aa>/<key>`, with a sidecar that holds their sha256. The sidecar is
written last: an artifact without one does not exist yet.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jobs import layout
from jobs.artifacts import Artifacts
from jobs.assets import digest_of
from jobs.connection import QueueUnavailable
from jobs.settings import Settings
from jobs.store import ObjectMissing, Store, StoreUnavailable
from workers import device as devices
from workers.disk import Disk
from workers.flights import Flights

PLACED = "refilm.placed"
"""Name, in an artifact's description, of the list of tensors that lay on the accelerator."""
ABANDONED_SECONDS = 60.0

Artifact = tuple[dict[str, torch.Tensor], dict[str, str]]
log = structlog.get_logger(__name__)


class Memory:
    """Artifacts in this process, least recently used first to go. Outlives jobs."""

    def __init__(self, most_bytes: int) -> None:
        """Start empty."""
        self._most = most_bytes
        self._held: OrderedDict[str, Artifact] = OrderedDict()

    def get(self, key: str) -> Artifact | None:
        """Return an artifact that nobody may write to, or None."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: str, artifact: Artifact) -> None:
        """Keep an artifact, if it is not larger than all the room there is."""
        if _size(artifact) > self._most:
            return
        self._held[key] = artifact
        self._held.move_to_end(key)
        while sum(map(_size, self._held.values())) > self._most:
            self._held.popitem(last=False)


class Stages:
    """The cache as one job sees it. With `refresh`, nothing is found but everything is written."""

    def __init__(
        self,
        store: Store,
        disk: Disk,
        memory: Memory,
        flights: Flights,
        artifacts: Artifacts,
        *,
        settings: Settings,
        tenant: str,
        waiting: Callable[[], None],
        give_up: Callable[[], bool],
        count: Callable[[str], None],
        refresh: bool = False,
    ) -> None:
        """Join the levels; `waiting` and `give_up` serve waits for other jobs, `count` takes names of counters."""
        self._store, self._disk, self._memory, self._flights = store, disk, memory, flights
        self._artifacts, self._tenant, self._settings = artifacts, tenant, settings
        self._waiting, self._give_up, self._count = waiting, give_up, count
        self._refresh = refresh

    def get(self, stage: str, key: str) -> Artifact | None:
        """Return a stage's tensors, which are the caller's own, or None: then the caller computes and puts them."""
        place = layout.artifact(stage, key)
        if self._refresh:
            return None
        while True:
            found = self._memory.get(place) or self._from_disk(place) or self._from_store(place)
            if found is not None:
                self._flights.end(key)
                self._count("cache_hits")
                self._note(lambda: self._artifacts.used(place, self._tenant))
                return self._own(found)
            if self._flights.begin(key, waiting=self._waiting, give_up=self._give_up):
                self._count("cache_misses")
                return None

    def put(self, stage: str, key: str, tensors: dict[str, torch.Tensor], meta: dict[str, str]) -> None:
        """Keep a stage's result on every level; a store that cannot be reached costs only later hits."""
        place = layout.artifact(stage, key)
        placed = [name for name, tensor in tensors.items() if devices.is_accelerated(tensor)]
        kept = {name: _private(tensor) for name, tensor in tensors.items()}
        described = meta | {PLACED: json.dumps(placed)}
        self._memory.put(place, (kept, described))
        try:
            with self._disk.scratch() as path:
                save_file(kept, path, described)
                digest = digest_of(path)
                self._to_store(place, path, digest, kept)
                self._disk.put(place, path, digest)
        except (OSError, SafetensorError) as error:  # a full disk costs later hits, not the job
            log.warning("stage cache cannot be written to the disk", error=str(error))
            self._disk.clear()
        self._flights.end(key)

    def _from_disk(self, place: str) -> Artifact | None:
        path = self._disk.get(place)
        found = _load(path) if path is not None else None
        if found is not None:
            self._memory.put(place, found)
        return found

    def _from_store(self, place: str) -> Artifact | None:
        try:
            sidecar = json.loads(self._store.get_bytes(layout.sidecar(place)))
            with self._disk.scratch() as path:
                self._store.get_file(place, path)
                if digest_of(path) != sidecar["sha256"]:
                    self._spoiled(place)
                    return None
                self._disk.put(place, path, sidecar["sha256"])
        except ObjectMissing:
            return None
        except (StoreUnavailable, ValueError, KeyError) as error:
            log.warning("stage cache cannot be read", error=str(error))
            return None
        return self._from_disk(place)

    def _spoiled(self, place: str) -> None:
        log.warning("stage cache holds a damaged artifact", key=place)
        self._count("cache_corrupt")
        self._store.delete(layout.sidecar(place))
        self._store.delete(place)

    def _to_store(self, place: str, path: Path, digest: str, tensors: dict[str, torch.Tensor]) -> None:
        facts = {
            "sha256": digest,
            "size_bytes": path.stat().st_size,
            "created": datetime.now(UTC).isoformat(),
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        }
        try:
            written = self._store.put_file(place, path, if_none_match=not self._refresh)
            if not written and not self._abandoned(place):
                self._count("cache_races")
                return
            if not written:
                self._store.put_file(place, path)
            self._store.put_bytes(layout.sidecar(place), json.dumps(facts).encode(), media_type="application/json")
            self._note(lambda: self._artifacts.written(place, self._tenant, path.stat().st_size))
        except StoreUnavailable as error:
            log.warning("stage cache cannot be written", error=str(error))

    @staticmethod
    def _note(entry: Callable[[], None]) -> None:
        """Keep the store's account; without it, the artifact is taken up later."""
        with suppress(QueueUnavailable):
            entry()

    def _abandoned(self, place: str) -> bool:
        """True when a writer died between artifact and sidecar, long enough ago not to be still at it."""
        info = self._store.head(place)
        if info is None or self._store.head(layout.sidecar(place)) is not None:
            return False
        return (datetime.now(UTC) - info.modified).total_seconds() > ABANDONED_SECONDS

    def _own(self, artifact: Artifact) -> Artifact:
        tensors, meta = artifact
        placed = json.loads(meta.get(PLACED, "[]"))
        device = devices.choose(self._settings.device) if placed else None
        own = {name: tensor.to(device) if name in placed else tensor.clone() for name, tensor in tensors.items()}
        return own, {name: value for name, value in meta.items() if name != PLACED}


def _private(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _size(artifact: Artifact) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in artifact[0].values())


def _load(path: Path) -> Artifact | None:
    try:
        with safe_open(path, "pt") as source:
            meta: Any = source.metadata()
            names = source.keys()
            return {name: source.get_tensor(name) for name in names}, dict(meta or {})
    except (OSError, SafetensorError):
        return None
