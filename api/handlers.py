"""Exceptions -> problem documents: our own, those of `jobs`, and the router's (404, 405).

What nobody foresaw is caught by `api.middleware`, outside of everything.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from api import compat
from api.errors import BY_STATUS, Problem
from jobs.connection import QueueUnavailable
from jobs.listing import BadCursor
from jobs.media import MediaRefused
from jobs.quotas import QuotaExceeded
from jobs.records import IdempotencyReuse, NotFound, QueueFull, StateConflict
from jobs.store import ObjectMissing, StoreUnavailable
from jobs.submission import MissingAsset

LOG = structlog.get_logger(__name__)
KNOWN = (
    NotFound,
    ObjectMissing,
    StateConflict,
    IdempotencyReuse,
    QueueFull,
    QuotaExceeded,
    MissingAsset,
    BadCursor,
    MediaRefused,
    StoreUnavailable,
    QueueUnavailable,
    RedisError,
)
SHOWN_CONTEXT = ("ge", "le", "gt", "lt", "min_length", "max_length", "expected", "pattern", "multiple_of")


def install(app: FastAPI) -> None:
    """Register every handler on the application."""
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    for kind in KNOWN:
        app.add_exception_handler(kind, on_known)


def answer(request: Request, problem: Problem, extra: Mapping[str, Any] | None = None) -> JSONResponse:
    """The problem as the answer to this request."""
    request_id = getattr(request.state, "request_id", "")
    return compat.answer(problem, path=request.url.path, request_id=request_id, extra=extra)


def on_http(request: Request, exc: Exception) -> JSONResponse:
    """Ours as they are; Starlette's own by status."""
    if isinstance(exc, Problem):
        return answer(request, exc)
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = exc.headers if isinstance(exc, HTTPException) else None
    detail = str(exc.detail) if isinstance(exc, HTTPException) and status != 404 else ""
    return answer(request, Problem(BY_STATUS.get(status, "internal"), detail, headers=headers))


def pointer(location: Iterable[str | int], *, root: str = "#") -> str:
    """A JSON pointer fragment, RFC 6901: `#/params/seed`."""
    return root + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def field_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """One pydantic error as one entry of `errors`; the caller's value is not repeated."""
    location = list(error["loc"])
    where, rest = (str(location[0]), location[1:]) if location else ("body", [])
    entry: dict[str, Any] = {"code": str(error["type"]), "message": str(error["msg"])}
    entry |= {"pointer": pointer(rest)} if where == "body" else {"in": where, "name": ".".join(map(str, rest))}
    shown = {name: value for name, value in error.get("ctx", {}).items() if name in SHOWN_CONTEXT}
    return entry | {name: value if isinstance(value, int | float) else str(value) for name, value in shown.items()}


def on_invalid(request: Request, exc: Exception) -> JSONResponse:
    """A body, query or header that breaks its schema."""
    found = list(exc.errors()) if isinstance(exc, RequestValidationError) else []
    for error in found:
        if error["type"] == "json_invalid":
            return answer(request, Problem("malformed_json", str(error.get("ctx", {}).get("error", ""))))
        if error["loc"][:2] == ("query", "cursor"):
            return answer(request, Problem("bad_cursor"))
    return answer(request, Problem("validation_failed", errors=[field_error(error) for error in found]))


def problem_of(exc: Exception) -> Problem:
    """The problem document of an exception of `jobs`."""
    match exc:
        case NotFound() | ObjectMissing():
            return Problem("not_found")
        case StateConflict():
            return Problem("state_conflict", f"the job is {exc.state}")
        case IdempotencyReuse():
            return Problem("idempotency_key_reuse")
        case QuotaExceeded():
            code = "concurrency_exceeded" if exc.name == "jobs" else "quota_exceeded"
            return Problem(code, str(exc), retry_after=exc.retry_after)
        case QueueFull():
            return Problem("queue_full", f"{exc.ahead} jobs are ahead")
        case MissingAsset():
            return Problem("missing_asset", errors=[missing(*item) for item in exc.inputs.items()])
        case BadCursor():
            return Problem("bad_cursor")
        case MediaRefused():
            return Problem(exc.code, exc.detail)
        case StoreUnavailable():
            return Problem("storage_unavailable")
    return Problem("queue_unavailable")


def missing(name: str, asset_id: str) -> dict[str, str]:
    """One input without its asset."""
    where = "#/input/video/asset" if name == "video" else f"#/input/files/{name}/asset"
    return {"pointer": where, "code": "missing_asset", "message": f"there is no asset {asset_id}"}


def on_known(request: Request, exc: Exception) -> JSONResponse:
    """An exception of `jobs`."""
    problem = problem_of(exc)
    if problem.status_code >= 500:
        LOG.warning("request.refused", code=problem.code, error=type(exc).__name__, path=request.url.path)
    return answer(request, problem)
