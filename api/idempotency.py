"""`Idempotency-Key`: the same request sent twice is done once and answered twice."""

import hashlib
from typing import Annotated

from fastapi import Header

from jobs.records import Idempotency

REPLAYED = "Idempotency-Replayed"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any unique text. The same key and body again are answered with the same job for 24 h.",
    ),
]


def idempotency(key: str | None, operation: str, body: str | bytes = "") -> Idempotency | None:
    """The key with the digest of what it came with; None without a key."""
    if key is None:
        return None
    whole = f"{operation}\n".encode() + (body.encode() if isinstance(body, str) else body)
    return Idempotency(key, hashlib.sha256(whole).hexdigest())
