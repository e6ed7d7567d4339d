"""Opaque ids: a prefix and a UUIDv7 (RFC 9562) in lower-case base32hex, so that ids sort by creation time."""

import base64
import hashlib
import re
import secrets
import time

JOB = "job"
ASSET = "ast"
UPLOAD = "upl"
BATCH = "bat"
WEBHOOK = "whe"
MESSAGE = "msg"

_SHAPE = re.compile(r"(?:job|ast|upl|bat|whe|msg)_[0-9a-v]{26}")


def new(prefix: str) -> str:
    """Return a fresh id such as `job_` followed by 26 characters.

    The bytes are those of UUIDv7: 48 bits of milliseconds, version, 12 bits of the fraction of the millisecond (so that
    ids made one after the other sort), variant, and 62 random bits.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = 0x7000 | rest * 4096 // 1_000_000
    random = bytearray(secrets.token_bytes(8))
    random[0] = 0x80 | (random[0] & 0x3F)
    raw = milliseconds.to_bytes(6, "big") + fraction.to_bytes(2, "big") + bytes(random)
    return f"{prefix}_{_text(raw)}"


def numbered(prefix: str, parent: str, index: int) -> str:
    """Return the id of a parent's child: the same arguments always give the same id, and ids sort by `index`.

    The shape and the time are those of the parent; the index takes the 14 bits after it (at most 16,383), and a digest
    stands where random bits would.
    """
    raw = _bytes(parent)[:6] + (0x7000 | index >> 2).to_bytes(2, "big")
    tail = bytearray(hashlib.sha256(f"{parent}/{index}".encode()).digest()[:8])
    tail[0] = 0x80 | (index & 0x3) << 4 | tail[0] & 0x0F
    return f"{prefix}_{_text(raw + bytes(tail))}"


def created_ms(job_id: str) -> int:
    """Return the milliseconds since 1970 that an id was made at."""
    return int.from_bytes(_bytes(job_id)[:6], "big")


def valid(value: str, prefix: str) -> bool:
    """True when `value` has the shape of an id with this prefix; says nothing about existence."""
    return value.startswith(f"{prefix}_") and _SHAPE.fullmatch(value) is not None


def _text(raw: bytes) -> str:
    return base64.b32hexencode(raw).decode().rstrip("=").lower()


def _bytes(value: str) -> bytes:
    return base64.b32hexdecode(value.partition("_")[2].upper() + "======")
