"""What a job leaves to look at beside its outputs: its log, its receipt, and previews while it runs."""

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from api.content import Content, serve
from api.deps import Caller, Held
from api.errors import Problem
from api.routes.jobs import JobId
from api.routing import problems, router
from api.views import LogPage
from jobs import journal, layout
from jobs.states import State

ROUTER = router("jobs")
PreviewName = Annotated[str, Path(pattern=r"^preview-[0-9]{1,4}\.webp$", examples=["preview-10.webp"])]
After = Annotated[str, Query(pattern=r"^([0-9]{1,19}-[0-9]{1,19})?$", description="`next_cursor` of an earlier page.")]
JSON = {"schema": {"type": "object", "additionalProperties": True}}
RECEIPT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The receipt", "content": {"application/json": JSON}},
    302: {"description": "The store's own address of it"},
    304: {"description": "Unchanged"},
}
PICTURE: dict[int | str, dict[str, Any]] = RECEIPT | {
    200: {"description": "The picture", "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The range asked for", "content": {"image/webp": {"schema": {"type": "string"}}}},
}


@ROUTER.get("/v1/jobs/{job_id}/logs", response_model=LogPage, responses=problems(404))
def job_logs(
    job_id: JobId,
    held: Held,
    tenant: Caller,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=journal.MOST_LINES)] = 200,
) -> LogPage:
    """What happened to the job, oldest first: states, attempts, stages. Numbers and single words, no text of anyone."""
    job = held.records.get(job_id, tenant)
    lines = journal.read(held.records, job.id, after=after, limit=limit)
    if not lines and job.state.terminal:
        lines = journal.kept(held.store, tenant, job.id, after=after, limit=limit)
    return LogPage(data=tuple(lines), next_cursor=lines[-1].id if lines else after or None)


@ROUTER.get("/v1/jobs/{job_id}/receipt", response_class=Response, responses=problems(404, 410, 416) | RECEIPT)
def job_receipt(job_id: JobId, held: Held, tenant: Caller, request: Request) -> Response:
    """What the outputs were made from. Its `request` may be sent to `POST /v1/edits` and makes the same again."""
    job = held.records.get(job_id, tenant)
    if job.media_gone:
        raise Problem("expired")
    if job.state != State.SUCCEEDED:
        raise Problem("not_found", f"the job is {job.state}; a receipt is written when it has succeeded")
    name = f"{job.id}-receipt.json"
    return stored(held, layout.receipt(tenant, job.id, job.fence), name, "application/json", request)


@ROUTER.get("/v1/jobs/{job_id}/previews/{name}", response_class=Response, responses=problems(404, 410, 416) | PICTURE)
def job_preview(job_id: JobId, name: PreviewName, held: Held, tenant: Caller, request: Request) -> Response:
    """One preview of the attempt that runs or succeeded."""
    job = held.records.get(job_id, tenant)
    if job.media_gone:
        raise Problem("expired")
    return stored(held, layout.attempt_folder(tenant, job.id, job.fence) + name, name, "image/webp", request)


def stored(held: Held, key: str, name: str, media_type: str, request: Request) -> Response:
    """An object that the service itself has written. Raises `not_found`."""
    info = held.store.head(key)
    if info is None:
        raise Problem("not_found")
    return serve(held.store, Content(key, name, media_type, info.size_bytes, info.etag), request)
