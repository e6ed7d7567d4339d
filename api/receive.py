"""An uploaded body to a temporary file, hashed on the way: raw, or one file part of a multipart form."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import Problem
from jobs.media import HEAD_BYTES, clean_name, sniff

BUFFER_BYTES = 1 << 20


@dataclass
class Spool:
    """A growing temporary file. Its first bytes decide whether it is media at all, before the rest is taken in."""

    file: IO[bytes]
    path: Path
    name: str = ""
    size_bytes: int = 0
    media_type: str = ""
    digest: Any = field(default_factory=hashlib.sha256)
    waiting: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        """Take in a piece; kept in memory until `flush`. Raises MediaRefused."""
        self.waiting += data
        if not self.media_type and len(self.waiting) >= HEAD_BYTES:
            self.media_type = sniff(bytes(self.waiting[:HEAD_BYTES]))

    def flush(self) -> None:
        """Hash and write what is in memory. Blocks."""
        self.digest.update(self.waiting)
        self.file.write(self.waiting)
        self.size_bytes += len(self.waiting)
        self.waiting.clear()

    def finish(self) -> None:
        """Everything is there. Raises MediaRefused for what is too short to be media."""
        if not self.media_type:
            self.media_type = sniff(bytes(self.waiting))
        self.flush()
        self.file.flush()


@contextmanager
def spooled(folder: Path) -> Iterator[Spool]:
    """A spool in this folder; its file is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-") as file:
        yield Spool(file, Path(file.name))


class FormFile:
    """Finds the part called `file` of a multipart form and hands its data on as it comes."""

    def __init__(self, boundary: bytes, spool: Spool) -> None:
        self._spool, self._header, self._value = spool, b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._mine = self.found = self.complete = False
        events = ("part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end")
        callbacks: Any = {f"on_{event}": getattr(self, f"_{event}") for event in events}
        self.parser = MultipartParser(boundary, callbacks)

    def take(self, chunk: bytes) -> None:
        """Parse a piece of the body. Raises `malformed_request`."""
        try:
            self.parser.write(chunk)
        except MultipartParseError as error:
            raise Problem("malformed_request", f"not a multipart form: {error}") from None

    def _part_begin(self) -> None:
        self._headers, self._mine = {}, False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._mine = options.get(b"name") == b"file"
        if self._mine and self.found:
            raise Problem("malformed_request", "the form holds two parts called `file`")
        if self._mine:
            self.found = True
            self._spool.name = clean_name(options.get(b"filename", b"").decode(errors="replace"))

    def _end(self) -> None:
        self.complete = True

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._mine:
            self._spool.write(data[start:end])


def form_boundary(request: Request) -> bytes | None:
    """The boundary of a multipart form; None for a raw body. Raises `unsupported_media` for JSON and its like."""
    message = Message()
    message["content-type"] = request.headers.get("content-type", "application/octet-stream")
    if message.get_content_type() == "multipart/form-data":
        boundary = message.get_boundary()
        if not boundary:
            raise Problem("malformed_request", "the form has no boundary")
        return boundary.encode("latin-1", "replace")
    if message.get_content_maintype() not in ("application", "video", "image", "audio") or "json" in str(message):
        raise Problem("unsupported_media", "send the file itself, or a multipart form with a part called `file`")
    return None


async def receive(request: Request, spool: Spool) -> None:
    """Read the whole body into the spool. Raises `upload_too_large`, `unsupported_media`, `malformed_request`."""
    boundary = form_boundary(request)
    form = FormFile(boundary, spool) if boundary is not None else None
    spool.name = clean_name(unquote(request.headers.get("refilm-filename", "")))
    async for chunk in request.stream():
        if form is not None:
            form.take(chunk)
        else:
            spool.write(chunk)
        if len(spool.waiting) >= BUFFER_BYTES:
            await run_in_threadpool(spool.flush)
    if form is not None and not (form.found and form.complete):
        raise Problem("malformed_request", "the form ends early, or has no part called `file`")
    await run_in_threadpool(spool.finish)
