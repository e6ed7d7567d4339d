"""Jobs: read, wait, list, cancel, retry, delete."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Header, Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import Caller, Held, Services
from api.idempotency import REPLAYED, IdempotencyKey, idempotency
from api.present import etag, job_view, known_version, label_job, wait_seconds
from api.routing import problems, router
from api.views import JobPage, JobView
from api.watch import changed
from jobs import submission
from jobs.listing import Query as JobQuery
from jobs.listing import list_jobs
from jobs.states import State

ROUTER = router("jobs")
JobId = Annotated[str, Path(description="Id of a job.", examples=["job_01k9v3x7q8f4d2m6n0c5b1a7gh"])]
Prefer = Annotated[str | None, Header(description="`wait=N`: hold the answer up to N seconds until something changes.")]
IfNoneMatch = Annotated[str | None, Header(description="The ETag you have; 304 when it is still the newest.")]
Wait = Annotated[float | None, Query(ge=0, le=3600, description="The same as `Prefer: wait=N`.")]


async def advice(held: Services, job_id: str, tenant: str, version: int) -> int | None:
    """`Retry-After` of this version: remembered, or read with the job. None once the job has ended."""
    known, seconds = held.advice.of(job_id, version)
    return seconds if known else held.advice.remember(await run_in_threadpool(held.records.get, job_id, tenant))


@ROUTER.get("/v1/jobs/{job_id}", response_model=JobView, responses=problems(404) | {304: {"description": "Unchanged"}})
async def get_job(
    job_id: JobId,
    held: Held,
    tenant: Caller,
    response: Response,
    if_none_match: IfNoneMatch = None,
    prefer: Prefer = None,
    wait: Wait = None,
) -> Any:
    """The job. Conditional (`If-None-Match`) and held (`Prefer: wait`) reads make polling cheap."""
    known = known_version(if_none_match)
    seconds = wait_seconds(prefer, wait, held.api.max_wait_seconds)
    applied = {"Preference-Applied": f"wait={seconds:g}"} if seconds else {}
    version = await run_in_threadpool(held.records.version, job_id, tenant)
    if seconds and known in (None, version) and await advice(held, job_id, tenant, version) is not None:
        version = await changed(held.watch, held.records, job_id, tenant, version, seconds)
    if version == known:
        again = await advice(held, job_id, tenant, version)
        headers = applied | {"ETag": etag(version)} | ({"Retry-After": str(again)} if again is not None else {})
        return Response(status_code=304, headers=headers)
    job = await run_in_threadpool(held.records.get, job_id, tenant)
    held.advice.remember(job)
    label_job(response, job)
    response.headers.update(applied)
    return job_view(job)


@ROUTER.get("/v1/jobs", response_model=JobPage, responses=problems(400))
def list_all(
    held: Held,
    tenant: Caller,
    state: Annotated[list[State] | None, Query(description="May be repeated: any of these.")] = None,
    method: Annotated[str | None, Query(max_length=64)] = None,
    label: Annotated[str | None, Query(max_length=200, description="`key` or `key=value`.")] = None,
    batch_id: Annotated[str | None, Query(max_length=64, description="Only jobs of this batch.")] = None,
    created_after: datetime | None = None,
    changed_since: Annotated[
        str | None, Query(max_length=200, description="`changed_cursor` of an earlier page.")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """The caller's jobs, newest first; with `changed_since`, only what changed, in order of change."""
    if created_after is not None and created_after.tzinfo is None:
        created_after = created_after.replace(tzinfo=UTC)
    query = JobQuery(frozenset(state or ()), method, label, created_after, changed_since, cursor, limit, batch_id)
    page = list_jobs(held.records, tenant, query)
    return JobPage(data=tuple(map(job_view, page.items)), next_cursor=page.cursor, changed_cursor=page.changed)


@ROUTER.post("/v1/jobs/{job_id}/cancel", response_model=JobView, responses=problems(404) | {202: {"model": JobView}})
def cancel(job_id: JobId, held: Held, tenant: Caller, response: Response) -> JobView:
    """Ask the job to stop. Idempotent: an ended job is answered as it is."""
    job = held.records.cancel(job_id, tenant)
    response.status_code = 200 if job.state.terminal else 202
    label_job(response, job)
    return job_view(job)


@ROUTER.post("/v1/jobs/{job_id}/retry", status_code=202, response_model=JobView, responses=problems(404, 409, 429))
def retry(job_id: JobId, held: Held, tenant: Caller, response: Response, key: IdempotencyKey = None) -> JobView:
    """Run a job that failed, was canceled or expired once more, as a new job; finished stages are reused."""
    job = held.records.get(job_id, tenant)
    once = idempotency(key, f"POST /v1/jobs/{job_id}/retry")
    created = submission.retry(job, records=held.records, store=held.store, bell=held.bell, idempotency=once)
    label_job(response, created.job)
    response.headers["Location"] = f"/v1/jobs/{created.job.id}"
    response.headers.update({REPLAYED: "true"} if created.replayed else {})
    return job_view(created.job)


@ROUTER.delete("/v1/jobs/{job_id}", status_code=204, responses=problems(404, 409))
def delete(job_id: JobId, held: Held, tenant: Caller) -> None:
    """Delete an ended job: its record and its outputs."""
    submission.delete(held.records.get(job_id, tenant), records=held.records, store=held.store)
