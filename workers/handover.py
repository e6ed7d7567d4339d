"""Unfinished stages in the store: the state of a loop at a step, for whoever goes on with the job.

Under `partial/v1/<aa>/<key>/` lie a safetensors file with a name of its own and `latest.json`, which names it and its
sha256 and is written last: a writer that dies leaves the state before. No torch is imported before there is a state.
"""

import json
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from jobs import layout
from jobs.assets import digest_of
from jobs.connection import QueueUnavailable
from jobs.store import ObjectMissing, Store, StoreUnavailable
from workers.disk import Disk
from workers.heartbeat import Heartbeat
from workers.publish import persist

if TYPE_CHECKING:
    from workers.work import Tensors

PATIENCE_SECONDS = 60.0
DRAINING_SECONDS = 2.0
SHARE = 20
"""Keeping a state may take one part in so many of the time that passes in between."""

log = structlog.get_logger(__name__)


class Handover:
    """The states of one attempt. With `scope`, only attempts at the same job find them, finished stages included."""

    def __init__(self, store: Store, disk: Disk, heart: Heartbeat, *, every_seconds: float, scope: str = "") -> None:
        """Keep states in `store`, by way of files on `disk`, when `heart` says that it is time."""
        self._store, self._disk, self._heart = store, disk, heart
        self._every, self._scope = every_seconds, scope
        self._known: dict[str, str] = {}
        self._took = 0.0
        self.keeps_results = bool(scope)

    def wanted(self) -> bool:
        """Whether the worker must stop and the job is to go on elsewhere."""
        return self._heart.verdict == "preempt"

    def due(self, seconds: float) -> bool:
        """Whether it is time again; more often while the worker shuts down, never so often that it takes long."""
        often = DRAINING_SECONDS if self._heart.draining() else self._every
        return seconds >= max(often, SHARE * self._took)

    def get(self, key: str) -> "tuple[Tensors, dict[str, str]] | None":
        """What was kept, verified, or None; a store that is away is waited for."""
        folder = self._folder(key)
        with suppress(StoreUnavailable, QueueUnavailable, ObjectMissing, ValueError, KeyError, OSError):
            return persist(
                lambda: self._read(folder),
                seconds=PATIENCE_SECONDS,
                give_up=self._heart.stop_wanted,
                alive=self._heart.alive,
            )
        return None

    def put(self, key: str, tensors: "Tensors", meta: dict[str, str]) -> None:
        """Keep a state in place of an earlier one; a store that is away costs only what can be computed again."""
        began, folder = time.monotonic(), self._folder(key)
        name = f"{secrets.token_hex(8)}.safetensors"
        try:
            with self._heart.loading():
                self._write(folder, name, tensors, meta)
        except (StoreUnavailable, OSError) as error:
            log.warning("the state of a stage cannot be kept", error=str(error))
            return
        self._took = time.monotonic() - began
        self._heart.allow(handover_seconds=self._took)
        log.info("state kept", step=meta.get("step"), steps=meta.get("steps"), seconds=round(self._took, 3))

    def drop(self, key: str) -> None:
        """Forget what was kept or found under a key; with a scope, only at the end of the job."""
        if not self.keeps_results:
            self._forget(self._folder(key))

    def forget(self) -> None:
        """The job has ended: nobody will go on with it."""
        for folder in list(self._known):
            self._forget(folder)

    def _forget(self, folder: str) -> None:
        if self._known.pop(folder, None) is None:
            return
        try:
            self._store.delete_prefix(folder)
        except StoreUnavailable as error:
            log.warning("the state of a stage is left for the sweep", error=str(error))

    def _folder(self, key: str) -> str:
        return layout.partial(f"{key}-{self._scope}" if self._scope else key)

    def _read(self, folder: str) -> "tuple[Tensors, dict[str, str]] | None":
        from safetensors import SafetensorError, safe_open

        latest: Any = json.loads(self._store.get_bytes(f"{folder}latest.json"))
        with self._disk.scratch() as path:
            self._store.get_file(folder + latest["object"], path)
            self._known[folder] = latest["object"]
            if digest_of(path) != latest["sha256"]:
                raise ValueError("a kept state is damaged")
            try:
                with safe_open(path, "pt") as source:
                    names: Any = source.keys()
                    tensors = {name: source.get_tensor(name) for name in names}
                    log.info("state found", step=latest["step"])
                    return tensors, dict(source.metadata() or {})
            except SafetensorError as error:
                raise ValueError("a kept state cannot be read") from error

    def _write(self, folder: str, name: str, tensors: "Tensors", meta: dict[str, str]) -> None:
        import torch
        from safetensors.torch import save_file

        private = {
            key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for key, tensor in tensors.items()
        }
        with self._disk.scratch() as path:
            save_file(private, path, meta)
            latest = {"object": name, "sha256": digest_of(path), "step": meta.get("step")}
            self._store.put_file(folder + name, path)
        self._store.put_bytes(f"{folder}latest.json", json.dumps(latest).encode(), media_type="application/json")
        before, self._known[folder] = self._known.get(folder), name
        if before is not None:
            self._store.delete(folder + before)
