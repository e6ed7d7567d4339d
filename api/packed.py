"""Answers that seldom change: compressed once, and sent so to whoever can read them."""

import gzip
from collections.abc import Mapping
from functools import lru_cache

from fastapi import Request, Response

LEAST_BYTES = 1000
MOST_KEPT = 256


@lru_cache(maxsize=MOST_KEPT)
def _squeezed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def answer(request: Request, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """`body` as it is, or gzipped for a client that accepts it; small ones are not worth it."""
    sent = dict(headers or {}) | {"Vary": "Accept-Encoding"}
    if len(body) < LEAST_BYTES or "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(body, 200, sent, media_type)
    return Response(_squeezed(body), 200, sent | {"Content-Encoding": "gzip"}, media_type)
