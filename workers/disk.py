"""Artifacts on the worker's own disk, least recently used first to go. Several workers may share the folder."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs.assets import digest_of


class Disk:
    """Files by store key; beside each the sha256 it must have. A file that does not match is removed, not returned."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Use this folder, created when it is not there."""
        self._folder = folder
        self._most = most_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Path | None:
        """Return the file of a key, verified, or None."""
        path = self._folder / key
        try:
            expected = json.loads(self._sidecar(path).read_text())["sha256"]
            os.utime(path)
            if digest_of(path) == expected:
                return path
        except (OSError, ValueError, KeyError):
            return None
        self.drop(key)
        return None

    def put(self, key: str, source: Path, sha256: str) -> Path:
        """Move a file in and make room; returns where it is now. The newest file always stays."""
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        source.replace(path)
        sidecar = self._sidecar(path)
        part = sidecar.with_name(f"{sidecar.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"sha256": sha256}))
        part.replace(sidecar)
        self._make_room(path)
        return path

    def drop(self, key: str) -> None:
        """Remove a key's file."""
        path = self._folder / key
        path.unlink(missing_ok=True)
        self._sidecar(path).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything."""
        for path in self._folder.glob("*"):
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a path for a new file on the same file system; what is left there is removed."""
        folder = Path(tempfile.mkdtemp(prefix="new-", dir=self._folder))
        try:
            yield folder / "artifact.safetensors"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, newest: Path) -> None:
        known = []
        for path in self._folder.rglob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another worker makes room too
                stat = path.stat()
                known.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= self._most:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                self._sidecar(path).unlink(missing_ok=True)
                total -= size

    @staticmethod
    def _sidecar(path: Path) -> Path:
        return path.with_suffix(".json")
