"""Backbones kept in memory between jobs: the least recently used goes first."""

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from jobs.settings import Settings
from jobs.store import StoreError
from jobs.store_s3 import S3Store
from models.backbones import sd
from models.backbones.backbone import Backbone
from workers import device as devices

Loading = Callable[[str], AbstractContextManager[None]]


class Warm:
    """The loaded backbones of this process."""

    def __init__(self, settings: Settings) -> None:
        """Start cold."""
        self._settings = settings
        self._loaded: OrderedDict[tuple[str, str], Backbone] = OrderedDict()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """What is in memory, the most recently used last."""
        return tuple(dict.fromkeys(checkpoint for checkpoint, _ in self._loaded))

    def get(self, checkpoint: str, family: str, loading: Loading) -> tuple[Backbone, bool]:
        """Return the backbone for methods of a family, and whether it was warm. Raises WeightsUnavailable."""
        for key, held in self._loaded.items():
            if key[0] == checkpoint and held.serves(family):
                self._loaded.move_to_end(key)
                return held, True
        while len(self._loaded) >= self._settings.warm_backbones:
            self._loaded.popitem(last=False)
        devices.release()
        device = devices.choose(self._settings.device)
        with loading(checkpoint):
            dtype = devices.dtype_for(device)
            backbone = sd.load(checkpoint, family=family, device=device, dtype=dtype, fetch=self._fetch)
        self._loaded[checkpoint, backbone.denoiser] = backbone
        return backbone, False

    def _fetch(self, reference: str) -> Path:
        """Bring the files below an `s3://bucket/prefix` to the data folder. Raises OSError."""
        bucket, _, prefix = reference.removeprefix("s3://").partition("/")
        folder = self._settings.data_dir / "checkpoints" / bucket / prefix
        store = S3Store(bucket, prefix.strip("/"), self._settings)
        try:
            for info in store.list(""):
                _refresh(store, info.key, folder / info.key, info.size_bytes)
        except StoreError as error:
            raise OSError(str(error)) from error
        return folder


def _refresh(store: S3Store, key: str, path: Path, size_bytes: int) -> None:
    if path.is_file() and path.stat().st_size == size_bytes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    store.get_file(key, part)
    part.replace(path)
