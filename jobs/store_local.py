"""The object store in a local folder. Writes are atomic: a temporary file, then a link or a rename."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from jobs.store import CHUNK_BYTES, ObjectInfo, ObjectMissing, StoreUnavailable, check_key, check_prefix

_SCRATCH = ".scratch"


class LocalStore:
    """Objects are the files below `root`; the folder can be copied, or moved to S3, as it is."""

    def __init__(self, root: Path) -> None:
        """Use this folder, created when it is not there."""
        self._root = root.resolve()
        self._scratch = self._root / _SCRATCH
        self._scratch.mkdir(parents=True, exist_ok=True)

    def put_bytes(
        self, key: str, data: bytes, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """See Store."""
        target = self._path(key)
        with self._temporary() as temporary:
            temporary.write_bytes(data)
            return self._settle(temporary, target, if_none_match)

    def put_file(
        self, key: str, path: Path, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """See Store."""
        target = self._path(key)
        with self._temporary() as temporary:
            shutil.copyfile(path, temporary)
            return self._settle(temporary, target, if_none_match)

    def get_bytes(self, key: str) -> bytes:
        """See Store."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissing(key) from error

    def get_file(self, key: str, path: Path) -> None:
        """See Store."""
        chunks, part = self.read(key), path.with_name(path.name + ".part")
        try:
            with part.open("wb") as sink:
                sink.writelines(chunks)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See Store."""
        try:
            source = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissing(key) from error
        return _chunks(source, start, end)

    def head(self, key: str) -> ObjectInfo | None:
        """See Store."""
        path = self._path(key)
        return self._info(path) if path.is_file() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store."""
        folder = self._root / check_prefix(prefix)
        files = [path for path in folder.rglob("*") if path.is_file() and _SCRATCH not in path.parts]
        for path in sorted(files, key=lambda path: path.relative_to(self._root).as_posix()):
            with contextlib.suppress(FileNotFoundError):
                yield self._info(path)

    def delete(self, key: str) -> None:
        """See Store."""
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            path.unlink()
        for folder in path.parents:
            if folder == self._root or not folder.is_relative_to(self._root):
                return
            try:
                folder.rmdir()
            except OSError:  # not empty, or someone was faster
                return

    def delete_prefix(self, prefix: str) -> int:
        """See Store."""
        keys = [info.key for info in self.list(check_prefix(prefix))]
        for key in keys:
            self.delete(key)
        return len(keys)

    def presign(self, key: str, *, expires_seconds: int, filename: str, media_type: str) -> str | None:
        """See Store: a folder has no web server."""
        check_key(key)
        return None

    def _path(self, key: str) -> Path:
        path = self._root / check_key(key)
        if not path.resolve().is_relative_to(self._root):  # a link planted in the folder must not lead out of it
            raise StoreUnavailable("the store's folder leads outside itself")
        return path

    def _info(self, path: Path) -> ObjectInfo:
        stat = path.stat()
        key = path.relative_to(self._root).as_posix()
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
        return ObjectInfo(key, stat.st_size, modified, f"{stat.st_mtime_ns:x}-{stat.st_ino:x}-{stat.st_size:x}")

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        try:
            descriptor, name = tempfile.mkstemp(dir=self._scratch)
        except OSError as error:
            raise StoreUnavailable(str(error)) from error
        os.close(descriptor)
        try:
            yield Path(name)
        except OSError as error:
            raise StoreUnavailable(str(error)) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _settle(self, temporary: Path, target: Path, if_none_match: bool) -> bool:
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not if_none_match:
                    temporary.replace(target)
                else:
                    os.link(temporary, target)
            except FileExistsError:
                return False
            except FileNotFoundError:  # a delete removed the empty folder between the two lines
                continue
            return True


def _chunks(source: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    with source:
        source.seek(start)
        left = end - start if end is not None else None
        while left is None or left > 0:
            chunk = source.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk
