"""What every request passes: an id, a bound on its body, security headers. Plain ASGI, so streams stay streams."""

import uuid
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api import compat
from api.errors import Problem
from jobs import traces
from jobs.origin import REQUEST_ID, came_from

LOG = structlog.get_logger(__name__)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class RequestContext:
    """Adopts or makes `X-Request-Id`, echoes `traceparent` and sets the security headers unless a route did.

    What nobody caught becomes a 500 with a log id; the traceback goes to the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP passes untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        asked = headers.get("traceparent", "")
        trace = traces.of_request() or asked
        echoed = {"X-Request-Id": request_id, "traceparent": asked or trace}

        started = False

        async def labelled(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in (SECURITY_HEADERS | echoed | state.get("headers", {})).items():
                    if value:
                        out.setdefault(name, value)
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            with came_from(request_id, trace) as origin, bound_contextvars(**origin.fields()):
                await self.app(scope, receive, labelled)
        except Exception as error:
            log_id = uuid.uuid4().hex
            LOG.error("request.crashed", log_id=log_id, path=scope["path"], exc_info=error)
            if started:
                raise
            crashed = compat.answer(
                Problem("internal"), path=scope["path"], request_id=request_id, extra={"log_id": log_id}
            )
            await crashed(scope, receive, labelled)


def below(path: str, name: str) -> bool:
    """Whether the path is this one, or below it where that is meant."""
    return path.startswith(name) if name.endswith("/") else path == name


class BodyLimit:
    """Refuses a body above its bound: at once by `Content-Length`, else at the byte that exceeds it."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, paths: Mapping[str, int]) -> None:
        """`paths` are those with a bound of their own; one that ends in `/` stands for all below it."""
        self.app, self.max_bytes, self.paths = app, max_bytes, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP passes untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next((most for name, most in self.paths.items() if below(scope["path"], name)), self.max_bytes)
        problem = Problem("upload_too_large", f"at most {limit} bytes are accepted here")
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdigit() or int(stated) > limit:
            response = compat.answer(problem, path=scope["path"], request_id=scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise problem
            return message

        await self.app(scope, counted, send)
