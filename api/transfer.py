"""Send an announced file where the server said: straight to the store in one form or in parts, or to the API itself."""

import mimetypes
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx

from api.views import UploadView
from jobs.media import TYPES

DIRECT_BYTES = 16 << 20
"""From this size on, clients announce a file instead of sending it through the API."""
CHUNK_BYTES = 1 << 20
TRIES = 4
SECONDS = 600.0


class TransferFailed(Exception):
    """The store did not take the file. `status` is 0 without an answer."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


def media_type(path: Path) -> str:
    """What the file's name says it is, if that is something the service takes; the content is looked at there."""
    guess = mimetypes.guess_type(path.name)[0] or ""
    return guess if guess in TYPES else "video/mp4"


def send(upload: UploadView, path: Path, server: str) -> None:
    """Send the file; every piece again when the connection is lost. Blocks. Raises TransferFailed."""
    with httpx.Client(base_url=server, timeout=SECONDS) as http:  # without the API's key, which is not the store's
        if upload.parts:
            for part in upload.parts:
                piece = _piece(path, part.start, part.end)
                _repeated(partial(http.put, part.url, content=piece))
        elif upload.method == "POST":
            _repeated(lambda: _post(http, upload, path))
        else:
            headers = {"Content-Length": str(upload.size_bytes), "Content-Type": "application/octet-stream"}
            _repeated(lambda: http.put(upload.url or "", content=_chunks(path), headers=headers))


def _post(http: httpx.Client, upload: UploadView, path: Path) -> httpx.Response:
    with path.open("rb") as file:
        return http.post(
            upload.url or "", data=upload.fields, files={"file": (upload.name or "file", file, upload.media_type)}
        )


def _repeated(action: Callable[[], httpx.Response]) -> None:
    failure = TransferFailed("no answer")
    for attempt in range(TRIES):
        try:
            response = action()
        except httpx.TransportError as error:
            failure = TransferFailed(str(error) or type(error).__name__)
        else:
            if response.status_code < 400:
                return
            failure = TransferFailed(f"the store answered {response.status_code}", response.status_code)
            if response.status_code < 500 and response.status_code != 429:
                break
        time.sleep(0.2 * 2**attempt)
    raise failure


def _piece(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
