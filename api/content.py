"""Bytes of the store over HTTP: ranges, validators and a file name for the browser."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from api.errors import Problem
from jobs.store import ObjectMissing, Store

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
PRESIGNED_SECONDS = 900
CACHE = "private, max-age=3600, immutable"


@dataclass(frozen=True)
class Content:
    """One object as it is offered: `name` is only what a browser saves it as."""

    key: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open byte range of a `Range` header; None for the whole. Raises `range_not_satisfiable`.

    Several ranges at once, and units that are not bytes, are answered with the whole, as RFC 9110 allows.
    """
    match = RANGE.fullmatch((header or "").strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size or start >= end:
        raise Problem("range_not_satisfiable", f"{size} bytes are there", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def disposition(name: str) -> str:
    """`Content-Disposition` for any name, RFC 6266."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name) or "file"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def headers_of(content: Content) -> dict[str, str]:
    """What every answer about the object says."""
    return {
        "ETag": f'"{content.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE,
        "Content-Disposition": disposition(content.name),
    }


def serve(store: Store, content: Content, request: Request) -> Response:
    """The bytes, a part of them, 304, or a redirect to the store's own web server. Raises `expired`."""
    headers = headers_of(content)
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    url = store.presign(
        content.key, expires_seconds=PRESIGNED_SECONDS, filename=content.name, media_type=content.media_type
    )
    if url is not None:
        return RedirectResponse(url, 302, {"Cache-Control": "no-store"})
    return stream(store, content, wanted(request.headers, headers["ETag"], content.size_bytes), headers)


def wanted(given: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """The range asked for, unless `If-Range` names other bytes."""
    return span(given.get("range"), size) if given.get("if-range", etag) == etag else None


def stream(store: Store, content: Content, part: tuple[int, int] | None, headers: dict[str, str]) -> Response:
    """200 with the whole, or 206 with the part."""
    start, end = part or (0, content.size_bytes)
    headers = headers | {"Content-Length": str(end - start)}
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size_bytes}"
    try:
        chunks = store.read(content.key, start, end)
    except ObjectMissing:
        raise Problem("expired") from None
    return StreamingResponse(chunks, 206 if part else 200, headers, media_type=content.media_type)
