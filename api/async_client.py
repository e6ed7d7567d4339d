"""The Python client for asyncio; see `api.client` for what it promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from api import calls, transfer
from api.batch_client import AsyncBatches
from api.client import (
    CHUNK_BYTES,
    DEFAULT_SERVER,
    PATIENT_TRIES,
    WAIT_SECONDS,
    RefilmError,
    announced,
    check,
    pause,
    unreachable,
    upload_headers,
    worth_repeating,
)
from api.estimate_views import EstimateView
from api.usage_views import UsageView
from api.views import AssetView, JobPage, JobView, LogPage, MethodList, MethodView
from jobs.assets import digest_of

T = TypeVar("T")


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """The file in pieces, read off the event loop."""
    with path.open("rb") as content:
        while chunk := await asyncio.to_thread(content.read, CHUNK_BYTES):
            yield chunk


class AsyncClient:
    """Asynchronous client. `api_key` is needed unless the server is a loopback embedded one."""

    def __init__(self, server: str = DEFAULT_SERVER, api_key: str | None = None, **options: Any) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(base_url=server, headers=headers, **options)
        self.batches = AsyncBatches(self)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, call: calls.Call[T]) -> T:
        """Send one call, again when that is safe and can help."""
        for attempt in range(PATIENT_TRIES):
            response, lost = None, None
            try:
                response = await self._http.request(call.verb, call.path, **call.arguments())
            except httpx.TransportError as error:
                lost = error
            if not worth_repeating(call, response, attempt):
                break
            await asyncio.sleep(pause(attempt, response))
        if response is None:
            raise unreachable(str(self._http.base_url), lost or OSError("no answer"))
        return call.parse(check(response, absent=call.absent))

    async def upload(self, path: str | Path) -> AssetView:
        """Bring a file, sending it only when the server does not have it; the asset it became."""
        file = Path(path)
        known = await self.send(calls.asset_from_hash(await asyncio.to_thread(digest_of, file)))
        if known is not None:
            return known
        if file.stat().st_size >= transfer.DIRECT_BYTES:
            return await self._send_direct(file)
        headers = upload_headers(file, file.stat().st_size)
        try:
            response = await self._http.post("/v1/uploads", content=_chunks(file), headers=headers, timeout=600)
        except httpx.TransportError as error:
            raise unreachable(str(self._http.base_url), error) from error
        return AssetView.model_validate(check(response).json())

    async def _send_direct(self, file: Path) -> AssetView:
        begun = await self.send(await asyncio.to_thread(announced, file))
        try:
            await asyncio.to_thread(transfer.send, begun, file, str(self._http.base_url))
        except transfer.TransferFailed as error:
            raise RefilmError("upload_failed", str(error), status=error.status) from error
        return await self.send(calls.complete(begun))

    async def edit(self, *, idempotency_key: str | None = None, wait: float | None = None, **request: Any) -> JobView:
        """Create a job; the keywords are those of `api.calls.edit_body`."""
        return await self.send(calls.create(calls.edit_body(**request), idempotency_key=idempotency_key, wait=wait))

    async def estimate(self, **request: Any) -> EstimateView:
        """What an edit would take; the keywords are those of `edit`. Nothing is created."""
        return await self.send(calls.estimate(calls.edit_body(**request)))

    async def job(self, job_id: str) -> JobView:
        """The job now."""
        found = await self.send(calls.job(job_id))
        return found if found is not None else await self.job(job_id)

    async def watch(self, job_id: str) -> AsyncIterator[JobView]:
        """The job now and after every change, until it has ended. Parks on the server between changes."""
        job = await self.job(job_id)
        yield job
        while not job.ended:
            changed = await self.send(calls.job(job_id, wait=WAIT_SECONDS, version=job.version))
            if changed is not None:
                job = changed
                yield job

    async def jobs(self, **query: str | int | None) -> JobPage:
        """One page of jobs: `state, method, batch_id, changed_since, cursor, limit`."""
        return await self.send(calls.jobs(**query))

    async def cancel(self, job_id: str) -> JobView:
        """Ask a job to stop."""
        return await self.send(calls.cancel(job_id))

    async def retry(self, job_id: str) -> JobView:
        """Run a failed or canceled job once more."""
        return await self.send(calls.retry(job_id))

    async def logs(self, job_id: str, after: str = "") -> LogPage:
        """What happened to a job, oldest line first."""
        return await self.send(calls.logs(job_id, after))

    async def receipt(self, job_id: str) -> dict[str, Any]:
        """What a succeeded job's outputs were made from."""
        return await self.send(calls.receipt(job_id))

    async def delete(self, job_id: str) -> None:
        """Delete an ended job and its outputs."""
        await self.send(calls.delete(job_id))

    async def usage(self) -> UsageView:
        """What the caller uses, and what it may."""
        return await self.send(calls.usage())

    async def methods(self) -> MethodList:
        """Every method."""
        return await self.send(calls.methods())

    async def method(self, method_id: str) -> MethodView:
        """One method with its schemas."""
        return await self.send(calls.method(method_id))

    async def download(self, job: JobView, path: str | Path) -> Path:
        """Write the job's first output to `path`, whole or not at all."""
        target, part = Path(path), Path(f"{path}.part")
        async with self._http.stream("GET", job.outputs[0].url, follow_redirects=True, timeout=600) as response:
            if response.status_code >= 400:
                await response.aread()
            check(response)
            with part.open("wb") as file:
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
        return part.replace(target)
