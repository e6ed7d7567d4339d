"""Batches: many jobs with one request, followed, read and canceled as one."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api import batches
from api.batch_views import BatchPage, BatchProgress, BatchView, MatrixView
from api.deps import Caller, Held
from api.errors import Problem
from api.examples import BATCH_LINES, BATCHES
from api.idempotency import REPLAYED, IdempotencyKey, idempotency
from api.present import etag, job_view, known_version, wait_seconds
from api.routes.jobs import IfNoneMatch, Prefer, Wait
from api.routing import problems, router
from api.views import EtaView, JobPage
from api.watch import changed
from jobs import batch_work
from jobs.batch_records import Batch, Batches
from jobs.listing import Members, list_batch
from jobs.listing import Query as JobQuery
from jobs.states import State

ROUTER = router("batches")
BatchId = Annotated[str, Path(description="Id of a batch.", examples=["bat_01k9v3x7q8f4d2m6n0c5b1a7gh"])]
RUNNING_SECONDS = (1, 10)
EARLIEST_FRACTION = 0.02
NDJSON = "application/x-ndjson"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A matrix, or a list of bodies of `POST /v1/edits`, one a line; at most 10,000 jobs.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/BatchMatrix"},
                "examples": BATCHES,
            },
            NDJSON: {"schema": {"type": "string"}, "examples": BATCH_LINES},
        },
    }
}


def remaining_seconds(batch: Batch) -> float | None:
    """Time to go, from the share done and the time since its creation."""
    if batch.fraction < EARLIEST_FRACTION:
        return None
    return (datetime.now(UTC) - batch.created_at).total_seconds() * (1 / batch.fraction - 1)


def batch_view(batch: Batch) -> BatchView:
    """The batch as its tenant sees it."""
    url = f"/v1/batches/{batch.id}"
    left = None if batch.state.terminal else remaining_seconds(batch)
    finish = datetime.fromtimestamp(datetime.now(UTC).timestamp() + left, UTC) if left is not None else None
    plain = {name: getattr(batch, name) for name in BatchView.model_fields if hasattr(batch, name) and name != "matrix"}
    return BatchView(
        **plain,
        progress=BatchProgress(fraction=round(batch.fraction, 4), ended=batch.ended),
        matrix=MatrixView.model_validate(batch.matrix) if batch.matrix else None,
        eta=EtaView(finish=finish, basis="progress", confidence="low") if finish else EtaView(),
        urls={"self": url, "jobs": f"{url}/jobs", "cancel": f"{url}/cancel"},
    )


def retry_after(batch: Batch) -> int | None:
    """Seconds until asking again is worth it; None once the batch has ended."""
    if batch.state.terminal:
        return None
    left, (low, high) = remaining_seconds(batch), RUNNING_SECONDS
    return low if left is None else max(low, min(high, math.ceil(left / 8)))


def label(response: Response, batch: Batch) -> None:
    """ETag and `Retry-After` on an answer that holds the batch."""
    response.headers["ETag"] = etag(batch.version)
    seconds = retry_after(batch)
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)


@ROUTER.post(
    "/v1/batches",
    status_code=202,
    response_model=BatchView,
    responses=problems(400, 413, 415, 429),
    openapi_extra=BODY,
)
async def create_batch(
    request: Request, held: Held, tenant: Caller, response: Response, key: IdempotencyKey = None
) -> BatchView:
    """Accept a batch: a matrix of clips, methods and prompts, or a list of edits.

    It is checked as a whole before anything is created. 202 means that the batch is durable; its jobs are created at
    once as far as time allows, and soon after otherwise.
    """
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", NDJSON):
        raise Problem(
            "unsupported_media", f"a batch is application/json or {NDJSON}", hint=f"set Content-Type: {NDJSON}"
        )
    read = batches.read_lines if kind == NDJSON else batches.read_matrix
    once = idempotency(key, f"POST /v1/batches {kind}", body)
    order = await run_in_threadpool(read, body)
    batch, replayed = await run_in_threadpool(batches.accept, order, held, tenant, once)
    label(response, batch)
    response.headers["Location"] = f"/v1/batches/{batch.id}"
    response.headers.update({REPLAYED: "true"} if replayed else {})
    return batch_view(batch)


@ROUTER.get("/v1/batches", response_model=BatchPage, responses=problems(400))
def list_batches(
    held: Held,
    tenant: Caller,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> BatchPage:
    """The caller's batches, newest first."""
    found, more = Batches(held.records).page(tenant, cursor, limit)
    return BatchPage(data=tuple(map(batch_view, found)), next_cursor=more)


@ROUTER.get(
    "/v1/batches/{batch_id}", response_model=BatchView, responses=problems(404) | {304: {"description": "Unchanged"}}
)
async def get_batch(
    batch_id: BatchId,
    held: Held,
    tenant: Caller,
    response: Response,
    if_none_match: IfNoneMatch = None,
    prefer: Prefer = None,
    wait: Wait = None,
) -> Any:
    """The batch with its counts. Conditional (`If-None-Match`) and held (`Prefer: wait`) reads make polling cheap."""
    found, known = Batches(held.records), known_version(if_none_match)
    seconds = wait_seconds(prefer, wait, held.api.max_wait_seconds)
    batch = await run_in_threadpool(found.get, batch_id, tenant, matrix=True)
    if seconds and known in (None, batch.version) and not batch.state.terminal:
        await changed(held.watch, found, batch_id, tenant, batch.version, seconds)
        batch = await run_in_threadpool(found.get, batch_id, tenant, matrix=True)
    response.headers.update({"Preference-Applied": f"wait={seconds:g}"} if seconds else {})
    label(response, batch)
    if batch.version == known:
        return Response(status_code=304, headers=dict(response.headers))
    return batch_view(batch)


@ROUTER.get("/v1/batches/{batch_id}/jobs", response_model=JobPage, responses=problems(400, 404))
def list_batch_jobs(
    batch_id: BatchId,
    held: Held,
    tenant: Caller,
    state: Annotated[list[State] | None, Query(description="May be repeated: any of these.")] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> JobPage:
    """The batch's jobs in its own order; `batch` in each says where in the matrix it stands."""
    batch = Batches(held.records).get(batch_id, tenant)
    query = JobQuery(state=frozenset(state or ()), cursor=cursor, limit=limit)
    page = list_batch(held.records, tenant, Members(batch.id, batch.total), query)
    return JobPage(data=tuple(map(job_view, page.items)), next_cursor=page.cursor)


@ROUTER.post(
    "/v1/batches/{batch_id}/cancel", response_model=BatchView, responses=problems(404) | {202: {"model": BatchView}}
)
def cancel_batch(batch_id: BatchId, held: Held, tenant: Caller, response: Response) -> BatchView:
    """Ask every job of the batch to stop, and create no more. Idempotent: an ended batch is answered as it is."""
    found = Batches(held.records)
    if not found.cancel(batch_id, tenant).terminal:
        batch_work.advance(
            batch_work.Engine(held.records, held.store, held.bell), tenant, batch_id, held.api.batch_seconds
        )
    batch = found.get(batch_id, tenant)
    response.status_code = 200 if batch.state.terminal else 202
    label(response, batch)
    return batch_view(batch)
