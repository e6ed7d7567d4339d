"""Object store: one interface, two implementations. Keys are made by the service, never by a caller.

`jobs.store_local` keeps objects as files in a folder, `jobs.store_s3` in a bucket; the same tests run on both.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from jobs.settings import Settings
from jobs.store_errors import Told, tell_nobody

CHUNK_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=\-]*(?:/[A-Za-z0-9][A-Za-z0-9._=\-]*)*")


class StoreError(Exception):
    """StoreError › ObjectMissing · BadKey · StoreUnavailable (the only one worth a retry)."""


class ObjectMissing(StoreError):
    """There is no object under this key."""


class BadKey(StoreError, ValueError):
    """The key or prefix is not one the service makes: empty parts, dots in front, anything beyond `A-Za-z0-9._=-/`."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is full, or refuses access."""


@dataclass(frozen=True)
class ObjectInfo:
    """What is known of an object without reading it. `etag` changes with the content."""

    key: str
    size_bytes: int
    modified: datetime
    etag: str


class Store(Protocol):
    """Keys are checked with `check_key` by every method. All methods may raise StoreUnavailable."""

    def put_bytes(
        self, key: str, data: bytes, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """Write an object whole. With `if_none_match`, False and no change when the key is taken."""
        ...

    def put_file(
        self, key: str, path: Path, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """Write a file's content; like `put_bytes`, without holding it in memory."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Return an object's content. Raises ObjectMissing."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Write an object's content to `path`, complete or not at all. Raises ObjectMissing."""
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to and without `end` in chunks. Raises ObjectMissing before the first."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of the object, or None."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix (which ends in `/`, or is empty) in key order."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything below a prefix that ends in `/`; returns how many."""
        ...

    def presign(self, key: str, *, expires_seconds: int, filename: str, media_type: str) -> str | None:
        """Return a URL that anyone may read for so long, or None when the store has no web server of its own."""
        ...


def check_key(key: str) -> str:
    """Return the key. Raises BadKey unless it is a plain relative path without tricks."""
    if len(key) > 512 or _KEY.fullmatch(key) is None:
        raise BadKey(repr(key[:80]))
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix. Raises BadKey unless it is empty or a key followed by `/`."""
    if prefix and not (prefix.endswith("/") and check_key(prefix[:-1])):
        raise BadKey(repr(prefix[:80]))
    return prefix


def open_store(settings: Settings, told: Told = tell_nobody) -> Store:
    """Open the store of the settings; a bucket's failures are `told`. Raises ValueError for an unknown scheme."""
    url = urlsplit(settings.store_url)
    if url.scheme == "file":
        from jobs.store_local import LocalStore

        return LocalStore(Path(url2pathname(url.path)))
    if url.scheme == "s3":
        from jobs.store_s3 import S3Store

        return S3Store(url.netloc, url.path.strip("/"), settings, told)
    raise ValueError(f"unknown store {url.scheme!r}: use file:///folder or s3://bucket/prefix")
