"""The Python client; `api.async_client.AsyncClient` is the same for asyncio, and both speak through `api.calls`.

    with Client("http://127.0.0.1:7860") as client:
        clip = client.upload("clip.mp4")
        job = client.edit(method="tokenflow", video=clip.id, prompt="a red car")
        for job in client.watch(job.id): ...
        client.download(job, "out.mp4")

It follows `Retry-After` with jitter, repeats what is safe to repeat, and parks on the server instead of polling fast.
"""

import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from api import calls, transfer
from api.batch_client import Batches
from api.estimate_views import EstimateView
from api.usage_views import UsageView
from api.views import AssetView, JobPage, JobView, LogPage, MethodList, MethodView, UploadView
from jobs.assets import digest_of

T = TypeVar("T")
DEFAULT_SERVER = "http://127.0.0.1:7860"
TRIES = 5
PATIENT_TRIES = 12
"""While an earlier try with the same key counts as running: at 5 s a time well beyond the hold of one that died."""
WAIT_SECONDS = 20
CHUNK_BYTES = 1 << 20


class RefilmError(Exception):
    """The server's refusal: a problem document as an exception. `code` is stable, `status` is 0 without an answer."""

    def __init__(self, code: str, detail: str, *, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.status = code, detail, status
        self.problem = dict(problem or {})


def check(response: httpx.Response, *, absent: bool = False) -> httpx.Response:
    """The response itself, or a `RefilmError` from its problem document; with `absent`, 404 is an answer too."""
    if response.status_code < 400 or (absent and response.status_code == 404):
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    wrong = "; ".join(
        f"{e.get('pointer', e.get('name', ''))} {e.get('message', '')}" for e in problem.get("errors", [])
    )
    detail = ": ".join(filter(None, [problem.get("detail") or response.reason_phrase, wrong]))
    raise RefilmError(problem.get("code", "unknown"), detail, status=response.status_code, problem=problem)


def pause(attempt: int, response: httpx.Response | None) -> float:
    """Seconds before the next try: the server's advice, else doubling, with jitter."""
    advice = response.headers.get("retry-after", "") if response is not None else ""
    seconds = float(advice) if advice.isdigit() else min(0.2 * 2**attempt, 5.0)
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret


def under_way(response: httpx.Response) -> bool:
    """Whether an earlier try of the same request, whose answer was lost, still runs."""
    return response.status_code == 409 and b'"idempotency_in_progress"' in response.content


def worth_repeating(call: calls.Call[T], response: httpx.Response | None, attempt: int) -> bool:
    """Whether to send it again: a lost connection, 429, 503, or a first try under way, for calls that may run twice."""
    if response is not None and under_way(response):
        return call.repeatable and attempt + 1 < PATIENT_TRIES
    lost = response is None or response.status_code in (429, 503)
    return lost and call.repeatable and attempt + 1 < TRIES


def upload_headers(path: Path, size: int) -> dict[str, str]:
    """Name and size of a file that is sent as the raw body."""
    return {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Refilm-Filename": quote(path.name),
    }


def announced(path: Path) -> calls.Call[UploadView]:
    """The call that announces a file which is sent past the API. Reads the file."""
    return calls.announce(path.name, path.stat().st_size, transfer.media_type(path), digest_of(path))


def unreachable(server: str, error: Exception) -> RefilmError:
    """No answer at all."""
    return RefilmError("unreachable", f"no answer from {server}: {error or type(error).__name__}")


class Client:
    """Blocking client. `api_key` is needed unless the server is a loopback embedded one."""

    def __init__(self, server: str = DEFAULT_SERVER, api_key: str | None = None, **options: Any) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=server, headers=headers, **options)
        self.batches = Batches(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, call: calls.Call[T]) -> T:
        """Send one call, again when that is safe and can help."""
        for attempt in range(PATIENT_TRIES):
            response, lost = None, None
            try:
                response = self._http.request(call.verb, call.path, **call.arguments())
            except httpx.TransportError as error:
                lost = error
            if not worth_repeating(call, response, attempt):
                break
            time.sleep(pause(attempt, response))
        if response is None:
            raise unreachable(str(self._http.base_url), lost or OSError("no answer"))
        return call.parse(check(response, absent=call.absent))

    def upload(self, path: str | Path) -> AssetView:
        """Bring a file, sending it only when the server does not have it; the asset it became."""
        file = Path(path)
        known = self.send(calls.asset_from_hash(digest_of(file)))
        if known is not None:
            return known
        if file.stat().st_size >= transfer.DIRECT_BYTES:
            return self._send_direct(file)
        headers = upload_headers(file, file.stat().st_size)
        try:
            with file.open("rb") as content:
                chunks = iter(lambda: content.read(CHUNK_BYTES), b"")
                response = self._http.post("/v1/uploads", content=chunks, headers=headers, timeout=600)
        except httpx.TransportError as error:
            raise unreachable(str(self._http.base_url), error) from error
        return AssetView.model_validate(check(response).json())

    def _send_direct(self, file: Path) -> AssetView:
        begun = self.send(announced(file))
        try:
            transfer.send(begun, file, str(self._http.base_url))
        except transfer.TransferFailed as error:
            raise RefilmError("upload_failed", str(error), status=error.status) from error
        return self.send(calls.complete(begun))

    def edit(self, *, idempotency_key: str | None = None, wait: float | None = None, **request: Any) -> JobView:
        """Create a job; the keywords are those of `api.calls.edit_body`."""
        return self.send(calls.create(calls.edit_body(**request), idempotency_key=idempotency_key, wait=wait))

    def estimate(self, **request: Any) -> EstimateView:
        """What an edit would take; the keywords are those of `edit`. Nothing is created."""
        return self.send(calls.estimate(calls.edit_body(**request)))

    def job(self, job_id: str) -> JobView:
        """The job now."""
        found = self.send(calls.job(job_id))
        return found if found is not None else self.job(job_id)

    def watch(self, job_id: str) -> Iterator[JobView]:
        """The job now and after every change, until it has ended. Parks on the server between changes."""
        job = self.job(job_id)
        yield job
        while not job.ended:
            changed = self.send(calls.job(job_id, wait=WAIT_SECONDS, version=job.version))
            if changed is not None:
                job = changed
                yield job

    def jobs(self, **query: str | int | None) -> JobPage:
        """One page of jobs: `state, method, batch_id, changed_since, cursor, limit`."""
        return self.send(calls.jobs(**query))

    def cancel(self, job_id: str) -> JobView:
        """Ask a job to stop."""
        return self.send(calls.cancel(job_id))

    def retry(self, job_id: str) -> JobView:
        """Run a failed or canceled job once more."""
        return self.send(calls.retry(job_id))

    def logs(self, job_id: str, after: str = "") -> LogPage:
        """What happened to a job, oldest line first."""
        return self.send(calls.logs(job_id, after))

    def receipt(self, job_id: str) -> dict[str, Any]:
        """What a succeeded job's outputs were made from."""
        return self.send(calls.receipt(job_id))

    def delete(self, job_id: str) -> None:
        """Delete an ended job and its outputs."""
        self.send(calls.delete(job_id))

    def usage(self) -> UsageView:
        """What the caller uses, and what it may."""
        return self.send(calls.usage())

    def methods(self) -> MethodList:
        """Every method."""
        return self.send(calls.methods())

    def method(self, method_id: str) -> MethodView:
        """One method with its schemas."""
        return self.send(calls.method(method_id))

    def download(self, job: JobView, path: str | Path) -> Path:
        """Write the job's first output to `path`, whole or not at all."""
        target, part = Path(path), Path(f"{path}.part")
        with self._http.stream("GET", job.outputs[0].url, follow_redirects=True, timeout=600) as response:
            if response.status_code >= 400:
                response.read()
            check(response)
            with part.open("wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
        return part.replace(target)
