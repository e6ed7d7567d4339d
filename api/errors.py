"""Error code -> HTTP status, title and advice: the only such table. Answers are RFC 9457 `application/problem+json`.

A code is stable and machine-readable; `retryable`, `retry_after` and `hint` tell a client what to do next.
The codes with a dot are the ones a failed job carries in `job.error`; those that an upload or a request can
already be refused with are answered with the status given here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jobs.codes import JOB_CODES

DOCS = "/v1/errors/"
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """What is known about one error code. `billed` says whether compute time spent before it counts as used.

    `fixed_by` is who can mend it; left out, the caller for a status below 500 and the operator above.
    """

    status: int
    title: str
    retryable: bool = False
    hint: str = ""
    billed: bool = False
    fixed_by: str = ""


HTTP_KINDS: Mapping[str, Kind] = {
    "malformed_json": Kind(400, "The body is not valid JSON"),
    "malformed_request": Kind(400, "The request cannot be read"),
    "bad_cursor": Kind(400, "The cursor is not one of ours", hint="use next_cursor of an earlier page unchanged"),
    "unauthorized": Kind(401, "An API key is needed", hint="send Authorization: Bearer <key>"),
    "forbidden_scope": Kind(403, "The API key lacks the scope"),
    "not_found": Kind(404, "No such resource"),
    "method_not_allowed": Kind(405, "The resource does not offer this HTTP method"),
    "not_acceptable": Kind(406, "No representation fits the Accept header"),
    "idempotency_in_progress": Kind(409, "The first request with this key still runs", retryable=True),
    "state_conflict": Kind(409, "The job's state does not allow this"),
    "hash_mismatch": Kind(409, "The content does not have the stated hash"),
    "asset_in_use": Kind(409, "A job that has not ended uses the asset"),
    "expired": Kind(410, "The media has expired"),
    "upload_too_large": Kind(413, "The body is too large"),
    "unsupported_media": Kind(415, "The content type is not supported", hint="send mp4, mov, webm, mkv, png or wav"),
    "range_not_satisfiable": Kind(416, "The range lies outside the content"),
    "validation_failed": Kind(422, "The request breaks the schema", hint="see errors[].pointer"),
    "unknown_method": Kind(422, "No such editing method", hint="GET /v1/methods lists them"),
    "model_not_allowed": Kind(422, "The model is not offered for this method"),
    "missing_asset": Kind(422, "An input names no asset of yours", hint="upload it first: POST /v1/uploads"),
    "idempotency_key_reuse": Kind(422, "The Idempotency-Key was used with another body", hint="use a new key"),
    "url_not_allowed": Kind(422, "The URL may not be fetched"),
    "policy_input": Kind(422, "The content policy refuses the input"),
    "rate_limited": Kind(429, "Too many requests", retryable=True),
    "concurrency_exceeded": Kind(429, "Too many jobs at once", retryable=True),
    "quota_exceeded": Kind(429, "The quota is used up", retryable=True),
    "queue_full": Kind(429, "The queue is full", retryable=True),
    "too_many_streams": Kind(429, "Too many event streams", retryable=True, hint="close one, or poll"),
    "internal": Kind(500, "Something broke on our side", retryable=True, hint="quote log_id when you report it"),
    "queue_unavailable": Kind(503, "The job records cannot be reached", retryable=True),
    "storage_unavailable": Kind(503, "The store cannot be reached", retryable=True),
    "no_capacity": Kind(503, "No live worker offers this method", retryable=True),
    "maintenance": Kind(503, "Closed for maintenance", retryable=True),
}
# Codes of `job.error`: what they mean is written in `jobs.codes`, here only the status a request is refused with.
JOB_STATUS: Mapping[str, int] = {
    "canceled": 409,
    "gpu.out_of_memory": 500,
    "gpu.fatal": 500,
    "worker_lost": 500,
    "model.integrity": 500,
    "model.unavailable": 503,
    "provenance.unavailable": 503,
    "provenance.failed": 500,
    "stage_timeout": 504,
    "deadline_start": 504,
    "deadline_finish": 504,
}
REFUSED_BY_CALLER = 422


def _job_kind(code: str) -> Kind:
    facts = JOB_CODES[code]
    status = JOB_STATUS.get(code, REFUSED_BY_CALLER)
    return Kind(status, facts.title, facts.retryable, facts.hint, facts.billed, facts.fixed_by)


KINDS: Mapping[str, Kind] = {code: _job_kind(code) for code in JOB_CODES} | dict(HTTP_KINDS)
BY_STATUS: Mapping[int, str] = {
    400: "malformed_request",
    401: "unauthorized",
    403: "forbidden_scope",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "upload_too_large",
    415: "unsupported_media",
    416: "range_not_satisfiable",
    422: "validation_failed",
    429: "rate_limited",
    503: "maintenance",
}
RETRY_AFTER_SECONDS = {409: 2, 429: 5, 503: 5}


class Problem(HTTPException):
    """Raise it anywhere in `api`; the handlers turn it into a problem document.

    `code` is a key of `KINDS`. `errors` are `{"pointer", "code", "message", ...}`, one for each wrong field.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        hint: str = "",
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = KINDS[code]
        super().__init__(kind.status, detail or kind.title, dict(headers or {}))
        self.code, self.errors = code, list(errors)
        self.hint = hint or kind.hint
        default = RETRY_AFTER_SECONDS.get(kind.status) if kind.retryable else None
        self.retry_after = retry_after if retry_after is not None else default


def document(problem: Problem, *, instance: str, request_id: str) -> dict[str, Any]:
    """The problem as the body of an answer."""
    kind = KINDS[problem.code]
    body: dict[str, Any] = {
        "type": DOCS + problem.code,
        "title": kind.title,
        "status": kind.status,
        "code": problem.code,
        "detail": problem.detail,
        "instance": instance,
        "retryable": kind.retryable,
        "request_id": request_id,
    }
    optional = {"retry_after": problem.retry_after, "hint": problem.hint, "errors": problem.errors}
    return body | {name: value for name, value in optional.items() if value}


def respond(
    problem: Problem, *, instance: str, request_id: str, extra: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The problem as an answer with its headers."""
    headers = dict(problem.headers or {})
    if problem.retry_after:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = document(problem, instance=instance, request_id=request_id) | dict(extra or {})
    return JSONResponse(body, problem.status_code, headers, media_type=MEDIA_TYPE)
