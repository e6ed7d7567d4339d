"""Addresses by which a file goes straight into the bucket, past the API: for one object of one size and type."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.store import Store, StoreUnavailable

if TYPE_CHECKING:
    from jobs.store_s3 import S3Store

MOST_PARTS = 1000


@dataclass(frozen=True)
class Part:
    """The bytes from `start` up to and without `end`, to be sent with PUT to `url`."""

    number: int
    url: str
    start: int
    end: int


@dataclass(frozen=True)
class Ticket:
    """How to send a file: a form with `fields` by POST, or `parts` by PUT. `multipart` is the store's name of it."""

    method: Literal["POST", "PUT"]
    url: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    parts: tuple[Part, ...] = ()
    multipart: str = ""


def _bucket(store: Store) -> "S3Store | None":
    from jobs.store_s3 import S3Store  # boto3 takes a moment, and a local store needs none

    return store if isinstance(store, S3Store) else None


def ticket(store: Store, key: str, *, size_bytes: int, media_type: str, part_bytes: int, seconds: int) -> Ticket | None:
    """How to send an object of this size and type, or None when the store has no web server of its own.

    Up to `part_bytes` it is a POST with a policy that lets nothing else in; beyond, a multipart upload.
    """
    bucket = _bucket(store)
    if bucket is None:
        return None
    if size_bytes <= part_bytes:
        url, fields = bucket.presign_post(key, size_bytes=size_bytes, media_type=media_type, expires_seconds=seconds)
        return Ticket("POST", url, tuple(sorted(fields.items())))
    step = max(part_bytes, math.ceil(size_bytes / MOST_PARTS))
    multipart = bucket.begin_parts(key, media_type=media_type)
    parts = tuple(
        Part(number, bucket.presign_part(key, multipart, number, seconds), start, min(start + step, size_bytes))
        for number, start in enumerate(range(0, size_bytes, step), start=1)
    )
    return Ticket("PUT", parts=parts, multipart=multipart)


def assemble(store: Store, key: str, multipart: str) -> bool:
    """Make the parts that came one object. False when there are none."""
    bucket = _bucket(store)
    if bucket is None:
        raise StoreUnavailable("parts need a bucket")
    return bucket.end_parts(key, multipart)


def abandon(store: Store, prefix: str, old: Callable[[str], bool]) -> int:
    """Free the parts of objects below a prefix that were never finished and whose key is old; returns how many."""
    bucket = _bucket(store)
    return bucket.drop_parts(prefix, old) if bucket is not None else 0
