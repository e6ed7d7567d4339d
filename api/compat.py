"""The OpenAI Videos API on our jobs: what a video object is, and what a request of theirs asks of a method of ours."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from api.errors import KINDS, Problem, respond
from api.views import View
from jobs import catalogue
from jobs.request import JobRequest
from jobs.schema import Asset, Job
from jobs.states import State

PREFIX = "/openai/"
STATUS = {
    **dict.fromkeys((State.ACCEPTED, State.QUEUED), "queued"),
    **dict.fromkeys((State.RUNNING, State.FINALIZING, State.CANCELING), "in_progress"),
    **dict.fromkeys((State.FAILED, State.CANCELED, State.EXPIRED), "failed"),
    State.SUCCEEDED: "completed",
}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
NOTE = "openai"
"""Name in a job's metadata under which is kept what only the OpenAI form of it shows."""


class VideoError(View):
    """Why there is no video."""

    code: str
    message: str


class VideoView(View):
    """OpenAI's `Video`."""

    id: str
    object: str = "video"
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    model: str
    status: str
    progress: int
    prompt: str | None = None
    seconds: str
    size: str
    error: VideoError | None = None
    remixed_from_video_id: str | None = None


class VideoList(View):
    """A page of videos."""

    object: str = "list"
    data: tuple[VideoView, ...]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class VideoDeleted(View):
    """What is answered when a video was deleted."""

    id: str
    object: str = "video.deleted"
    deleted: bool = True


def refuse(problem: Problem, request_id: str, extra: Mapping[str, Any]) -> JSONResponse:
    """A problem in OpenAI's envelope, which has no field for what is `extra`: the message tells it."""
    status, kind = problem.status_code, KINDS[problem.code]
    first: Mapping[str, Any] = problem.errors[0] if problem.errors else {}
    more = ", ".join(f"{name} {value}" for name, value in extra.items())
    words = [problem.detail, str(first.get("message", "")), problem.hint, more]
    error = {
        "message": ": ".join(filter(None, words)),
        "type": TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": str(first["pointer"]).removeprefix("#/") if "pointer" in first else None,
        "code": problem.code,
    }
    headers = dict(problem.headers or {}) | ({"Retry-After": str(problem.retry_after)} if problem.retry_after else {})
    headers |= {"x-request-id": request_id, "x-should-retry": "true" if kind.retryable else "false"}
    return JSONResponse({"error": error}, status, headers)


def answer(problem: Problem, *, path: str, request_id: str, extra: Mapping[str, Any] | None = None) -> JSONResponse:
    """A problem in the form of the routes it was met at: OpenAI's envelope below `PREFIX`, else a problem document."""
    if path.startswith(PREFIX):
        return refuse(problem, request_id, extra or {})
    return respond(problem, instance=path, request_id=request_id, extra=extra)


def wrong(param: str, message: str) -> Problem:
    """A refusal that names the parameter."""
    return Problem("validation_failed", message, errors=[{"pointer": f"#/{param}", "code": "invalid", "message": ""}])


def video_view(job: Job) -> VideoView:
    """The job as a video object."""
    output = job.outputs[0] if job.outputs else None
    noted = job.metadata.get(NOTE)
    note: Mapping[str, Any] = noted if isinstance(noted, dict) else {}
    size = f"{output.width}x{output.height}" if output and output.width else str(note.get("size", ""))
    seconds = output.duration_seconds if output and output.duration_seconds else note.get("seconds")
    failed = VideoError(code=job.error.code, message=job.error.detail or job.error.title) if job.error else None
    if failed is None and STATUS[job.state] == "failed":
        failed = VideoError(code=job.state.value, message=f"the job is {job.state.value}")
    return VideoView(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        expires_at=int(job.expires_at.timestamp()) if job.expires_at else None,
        model=f"{job.method}@{job.model}" if job.model else job.method,
        status=STATUS[job.state],
        progress=100 if job.state == State.SUCCEEDED else int(100 * job.progress.fraction),
        prompt=job.request.prompt.target or None,
        seconds=f"{seconds:g}" if isinstance(seconds, int | float) else "",
        size=size,
        error=failed,
        remixed_from_video_id=str(note["source"]) if "source" in note else None,
    )


def wanted_params(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The method's parameters: `params`, an object or its JSON, with `size` and `seed`. Raises `validation_failed`."""
    given = fields.get("params") or {}
    try:
        params = dict(json.loads(given) if isinstance(given, str) else given)
        seed = {"seed": int(fields["seed"])} if "seed" in fields else {}
    except (ValueError, TypeError):
        raise wrong("params", "params is a JSON object, seed a whole number") from None
    return params | seed | ({"size": str(fields["size"])} if "size" in fields else {})


def edit_of(fields: Mapping[str, Any], clip: Asset, default: str, source: str) -> JobRequest:
    """The request of ours that a request of theirs means. `source` is the video it was made from, if there is one."""
    method, _, model = str(fields.get("model") or default).partition("@")
    if method not in catalogue.load().methods:
        raise Problem("unknown_method", f"there is no model {method!r}; use an editing method, or method@checkpoint")
    try:
        seconds = float(fields["seconds"]) if "seconds" in fields else None
    except (ValueError, TypeError):
        raise wrong("seconds", "seconds is a number") from None
    facts = clip.facts
    note: dict[str, Any] = {
        "size": f"{facts.get('width')}x{facts.get('height')}",
        "seconds": facts.get("duration_seconds"),
    }
    body: dict[str, Any] = {
        "method": method,
        "model": model or None,
        "input": {"video": {"asset": clip.id}, "trim": {"end": seconds} if seconds else None},
        "prompt": {
            "target": fields["prompt"],
            "source": fields.get("source_prompt", ""),
            "negative": fields.get("negative_prompt", ""),
        },
        "params": wanted_params(fields),
        "metadata": {NOTE: note | ({"source": source} if source else {})},
    }
    return JobRequest.model_validate(body)
