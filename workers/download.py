"""One file from an address that a tenant named, under every bound there is: hops, bytes, seconds, kinds.

Nothing is decompressed, so a small answer cannot grow; nothing is believed of what the server says about it.
"""

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import httpx

from jobs.addresses import Rule, Unresolved, UrlRefused, check
from jobs.media import HEAD_BYTES, MediaRefused, clean_name, sniff
from workers import egress

REDIRECTS = 3
READ_SECONDS = 30.0
BUSY = (408, 425, 429)


class DownloadFailed(Exception):
    """The file did not come. `passing` says that another try may help."""

    def __init__(self, code: str, detail: str, *, passing: bool = False) -> None:
        super().__init__(detail)
        self.code, self.detail, self.passing = code, detail, passing


@dataclass(frozen=True)
class Bounds:
    """What one download may cost."""

    max_bytes: int
    max_seconds: float


@dataclass(frozen=True)
class Downloaded:
    """What came: its kind by its first bytes, its digest, and the last part of its address as a name."""

    media_type: str
    sha256: str
    size_bytes: int
    name: str


async def download(url: str, path: Path, rule: Rule, bounds: Bounds, tls: ssl.SSLContext | None = None) -> Downloaded:
    """Write the file to `path`. Raises DownloadFailed; what had come by then is the caller's to remove."""
    try:
        async with asyncio.timeout(bounds.max_seconds), egress.client(rule, READ_SECONDS, tls) as client:
            return await _follow(client, httpx.URL(url), path, rule, bounds)
    except UrlRefused as refused:
        raise DownloadFailed("url_not_allowed", str(refused)) from None
    except MediaRefused as refused:
        raise DownloadFailed("input.not_video", refused.detail) from None
    except TimeoutError:
        raise DownloadFailed("input.fetch_failed", f"it took more than {bounds.max_seconds:g} s") from None
    except Unresolved as error:
        raise DownloadFailed("input.fetch_failed", str(error), passing=True) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadFailed("input.fetch_failed", _told(error), passing=True) from None


async def _follow(client: httpx.AsyncClient, url: httpx.URL, path: Path, rule: Rule, bounds: Bounds) -> Downloaded:
    for _ in range(REDIRECTS + 1):
        async with client.stream("GET", check(url, rule)) as answer:
            if answer.next_request is None:
                return await _take(answer, path, bounds, clean_name(unquote(url.path)))
            url = answer.next_request.url
    raise DownloadFailed("input.fetch_failed", f"more than {REDIRECTS} redirects")


async def _take(answer: httpx.Response, path: Path, bounds: Bounds, name: str) -> Downloaded:
    if answer.status_code != 200:
        passing = answer.status_code >= 500 or answer.status_code in BUSY
        raise DownloadFailed("input.fetch_failed", f"the server answered {answer.status_code}", passing=passing)
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadFailed("input.fetch_failed", "the server compresses what was asked for plain")
    stated = answer.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > bounds.max_bytes:
        raise _too_large(bounds)
    digest, size, head, kind = hashlib.sha256(), 0, b"", ""
    with path.open("wb") as file:
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            if size > bounds.max_bytes:
                raise _too_large(bounds)
            head += chunk[: HEAD_BYTES - len(head)]
            kind = kind or (sniff(head) if len(head) == HEAD_BYTES else "")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return Downloaded(kind or sniff(head), digest.hexdigest(), size, name)


def _too_large(bounds: Bounds) -> DownloadFailed:
    return DownloadFailed("input.too_large", f"more than {bounds.max_bytes} bytes")


def _told(error: Exception) -> str:
    """What went wrong, without the address: it can hold a secret."""
    return f"the connection failed ({type(error).__name__})"
