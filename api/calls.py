"""Every request of the API as a value: shared by the synchronous and the asynchronous client."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from api.estimate_views import EstimateView
from api.usage_views import UsageView
from api.views import AssetView, JobPage, JobView, LogPage, MethodList, MethodView, UploadView

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read. `repeatable` calls are sent again after a lost connection;
    to `absent` ones 404 is an answer; those that may lead to the store itself `follow` redirects.
    """

    verb: str
    path: str
    parse: Callable[[httpx.Response], T]
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    absent: bool = False
    follows: bool = False
    hold_seconds: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `httpx.Client.request`; a held answer gets time on top of the usual."""
        timeout = httpx.Timeout(30.0, read=30.0 + self.hold_seconds)
        given: dict[str, Any] = {"params": dict(self.query), "headers": dict(self.headers), "timeout": timeout}
        given["follow_redirects"] = self.follows
        if self.content is not None:
            return given | {"content": self.content}
        return given | ({"json": dict(self.body)} if self.body is not None else {})


def _job(response: httpx.Response) -> JobView:
    return JobView.model_validate(response.json())


def _changed_job(response: httpx.Response) -> JobView | None:
    return None if response.status_code == 304 else _job(response)


def _known_asset(response: httpx.Response) -> AssetView | None:
    return None if response.status_code == 404 else AssetView.model_validate(response.json())


def create(body: Mapping[str, Any], *, idempotency_key: str | None = None, wait: float | None = None) -> Call[JobView]:
    """POST /v1/edits. Without a key of the caller's own one is made, so a repeat after a lost answer is safe."""
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    if wait:
        headers["Prefer"] = f"wait={int(wait)}"
    return Call("POST", "/v1/edits", _job, body=body, headers=headers, hold_seconds=wait or 0)


def job(job_id: str, *, wait: float | None = None, version: int | None = None) -> Call[JobView | None]:
    """GET /v1/jobs/{id}; `None` when nothing changed since `version`."""
    headers = {}
    if version is not None:
        headers["If-None-Match"] = f'W/"{version}"'
    if wait:
        headers["Prefer"] = f"wait={int(wait)}"
    return Call("GET", f"/v1/jobs/{job_id}", _changed_job, headers=headers, hold_seconds=wait or 0)


def jobs(**query: str | int | None) -> Call[JobPage]:
    """GET /v1/jobs: `state, method, batch_id, changed_since, cursor, limit`."""
    given = {name: value for name, value in query.items() if value is not None}
    return Call("GET", "/v1/jobs", lambda response: JobPage.model_validate(response.json()), query=given)


def cancel(job_id: str) -> Call[JobView]:
    """POST /v1/jobs/{id}/cancel."""
    return Call("POST", f"/v1/jobs/{job_id}/cancel", _job)


def retry(job_id: str) -> Call[JobView]:
    """POST /v1/jobs/{id}/retry."""
    return Call("POST", f"/v1/jobs/{job_id}/retry", _job, headers={"Idempotency-Key": uuid.uuid4().hex})


def logs(job_id: str, after: str = "") -> Call[LogPage]:
    """GET /v1/jobs/{id}/logs."""
    return Call("GET", f"/v1/jobs/{job_id}/logs", lambda r: LogPage.model_validate(r.json()), query={"after": after})


def receipt(job_id: str) -> Call[dict[str, Any]]:
    """GET /v1/jobs/{id}/receipt."""
    return Call("GET", f"/v1/jobs/{job_id}/receipt", lambda response: dict(response.json()), follows=True)


def delete(job_id: str) -> Call[None]:
    """DELETE /v1/jobs/{id}."""
    return Call("DELETE", f"/v1/jobs/{job_id}", lambda _: None)


def asset(asset_id: str) -> Call[AssetView]:
    """GET /v1/assets/{id}."""
    return Call("GET", f"/v1/assets/{asset_id}", lambda response: AssetView.model_validate(response.json()))


def asset_from_hash(sha256: str) -> Call[AssetView | None]:
    """POST /v1/assets/from-hash; `None` when the server does not have this content of ours."""
    return Call("POST", "/v1/assets/from-hash", _known_asset, body={"sha256": sha256}, absent=True)


def announce(name: str, size_bytes: int, media_type: str, sha256: str) -> Call[UploadView]:
    """POST /v1/uploads: where to send a file past the API."""
    body = {"name": name, "size_bytes": size_bytes, "media_type": media_type, "sha256": sha256}
    return Call("POST", "/v1/uploads", lambda response: UploadView.model_validate(response.json()), body=body)


def complete(upload: UploadView) -> Call[AssetView]:
    """POST /v1/uploads/{id}/complete; the answer may wait for the file to be looked through."""
    path = upload.urls["complete"]
    return Call("POST", path, lambda r: AssetView.model_validate(r.json()), hold_seconds=300)


def estimate(body: Mapping[str, Any]) -> Call[EstimateView]:
    """POST /v1/estimates, with the body of an edit."""
    return Call("POST", "/v1/estimates", lambda response: EstimateView.model_validate(response.json()), body=body)


def usage() -> Call[UsageView]:
    """GET /v1/usage."""
    return Call("GET", "/v1/usage", lambda response: UsageView.model_validate(response.json()))


def methods() -> Call[MethodList]:
    """GET /v1/methods."""
    return Call("GET", "/v1/methods", lambda response: MethodList.model_validate(response.json()))


def method(method_id: str) -> Call[MethodView]:
    """GET /v1/methods/{id}."""
    return Call("GET", f"/v1/methods/{method_id}", lambda response: MethodView.model_validate(response.json()))


def _file(given: str) -> dict[str, str]:
    return {"url": given} if "://" in given else {"asset": given}


def _references(given: str | Sequence[str]) -> dict[str, str] | list[dict[str, str]]:
    return _file(given) if isinstance(given, str) else [_file(one) for one in given]


def edit_body(
    *,
    method: str,
    video: str,
    prompt: str,
    source_prompt: str = "",
    negative_prompt: str = "",
    params: Mapping[str, Any] | None = None,
    files: Mapping[str, str | Sequence[str]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The body of POST /v1/edits; `options` go to the top level.

    `video` and the values of `files` are asset ids, or https addresses that the server
    fetches; an input that takes several files gets a list of them.
    """
    assets: dict[str, Any] = {"video": _file(video)}
    if files:
        assets["files"] = {name: _references(given) for name, given in files.items()}
    words = {"target": prompt, "source": source_prompt, "negative": negative_prompt}
    body: dict[str, Any] = {
        "method": method,
        "input": assets,
        "prompt": {name: text for name, text in words.items() if text},
        "params": dict(params or {}),
    }
    return body | {name: value for name, value in options.items() if value is not None}


def edit_again(receipt: Mapping[str, Any], assets: Mapping[str, str]) -> dict[str, Any]:
    """The body of POST /v1/edits that makes a receipt's outputs again; `assets` are ids by input name."""
    body: dict[str, Any] = json.loads(json.dumps(receipt["request"]))
    body["input"]["video"] = {"asset": assets["video"]}
    for name, given in body["input"].get("files", {}).items():
        many = [{"asset": assets[f"{name}/{number}"]} for number in range(len(given))]
        body["input"]["files"][name] = many if isinstance(given, list) else {"asset": assets[name]}
    return body
