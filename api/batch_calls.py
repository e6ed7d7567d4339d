"""Requests about batches, as values for both clients; see `api.calls`."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

from api.batch_views import BatchPage, BatchView
from api.calls import Call
from api.views import JobPage

Entry = str | Mapping[str, Any]


def matrix_body(
    videos: Sequence[Entry], prompts: Sequence[Entry], methods: Sequence[Entry], **options: Any
) -> dict[str, Any]:
    """The body of a matrix. A text stands for an asset id, a target prompt, a method's id; `options` are shared."""
    body: dict[str, Any] = {
        "videos": [{"video": {"asset": video}} if isinstance(video, str) else dict(video) for video in videos],
        "prompts": [{"target": prompt} if isinstance(prompt, str) else dict(prompt) for prompt in prompts],
        "methods": [{"method": method} if isinstance(method, str) else dict(method) for method in methods],
    }
    return body | {name: value for name, value in options.items() if value is not None}


def create_matrix(body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Call[BatchView]:
    """POST /v1/batches with a matrix. Without a key of the caller's own one is made, so a repeat is safe."""
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    return Call("POST", "/v1/batches", _batch, body=body, headers=headers, hold_seconds=90)


def create_list(edits: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> Call[BatchView]:
    """POST /v1/batches with bodies of `POST /v1/edits`."""
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex, "Content-Type": "application/x-ndjson"}
    content = "".join(json.dumps(edit) + "\n" for edit in edits).encode()
    return Call("POST", "/v1/batches", _batch, content=content, headers=headers, hold_seconds=90)


def batch(batch_id: str, *, wait: float | None = None, version: int | None = None) -> Call[BatchView | None]:
    """GET /v1/batches/{id}; `None` when nothing changed since `version`."""
    headers = {}
    if version is not None:
        headers["If-None-Match"] = f'W/"{version}"'
    if wait:
        headers["Prefer"] = f"wait={int(wait)}"
    return Call("GET", f"/v1/batches/{batch_id}", _changed, headers=headers, hold_seconds=wait or 0)


def batches(*, cursor: str | None = None, limit: int = 50) -> Call[BatchPage]:
    """GET /v1/batches."""
    query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
    return Call("GET", "/v1/batches", lambda response: BatchPage.model_validate(response.json()), query=query)


def batch_jobs(batch_id: str, *, cursor: str | None = None, limit: int = 200) -> Call[JobPage]:
    """GET /v1/batches/{id}/jobs: one page, in the batch's order."""
    query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
    path = f"/v1/batches/{batch_id}/jobs"
    return Call("GET", path, lambda response: JobPage.model_validate(response.json()), query=query)


def cancel_batch(batch_id: str) -> Call[BatchView]:
    """POST /v1/batches/{id}/cancel."""
    return Call("POST", f"/v1/batches/{batch_id}/cancel", _batch, hold_seconds=60)


def _batch(response: httpx.Response) -> BatchView:
    return BatchView.model_validate(response.json())


def _changed(response: httpx.Response) -> BatchView | None:
    return None if response.status_code == 304 else _batch(response)
