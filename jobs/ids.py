"""Opaque ids: a prefix and a UUIDv7 (RFC 9562) in lower-case base32hex, so that ids sort by creation time."""

import base64
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
    return f"{prefix}_{base64.b32hexencode(raw).decode().rstrip('=').lower()}"


def created_ms(job_id: str) -> int:
    """Return the milliseconds since 1970 that an id was made at."""
    raw = base64.b32hexdecode(job_id.partition("_")[2].upper() + "======")
    return int.from_bytes(raw[:6], "big")


def valid(value: str, prefix: str) -> bool:
    """True when `value` has the shape of an id with this prefix; says nothing about existence."""
    return value.startswith(f"{prefix}_") and _SHAPE.fullmatch(value) is not None
