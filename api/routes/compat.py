"""`/openai/v1/videos`: the OpenAI Videos API, so that its clients work with a server of one's own.

`edits` is what this service does. `POST /openai/v1/videos` with a video as `input_reference` is the same; without one
it is refused, because no method here makes a video from text alone.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from api.compat import VideoDeleted, VideoList, VideoView, edit_of, video_view, wrong
from api.content import Content, serve
from api.deps import Caller, Held, Services
from api.errors import Problem
from api.idempotency import IdempotencyKey, idempotency
from api.present import retry_after
from api.receive import BUFFER_BYTES, spooled
from api.routes.edits import check_request
from api.routing import router
from api.uploading import keep
from jobs import ids, submission
from jobs.assets import Assets
from jobs.listing import oldest_or_newest
from jobs.media import clean_name
from jobs.schema import Asset, Job
from jobs.states import State

ROUTER = router("compat")
BASE = "/openai/v1/videos"
POLL = "openai-poll-after-ms"
KNOWN = {"prompt", "model", "seconds", "size", "video", "input_reference", "seed", "params"}
KNOWN |= {"source_prompt", "negative_prompt"}
Fields = dict[str, Any]


async def fields_of(request: Request) -> Fields:
    """The request's fields, from JSON or a form; `video[id]` of a form is `{"id": …}`. Raises `validation_failed`."""
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            found = await request.json()
        except json.JSONDecodeError as error:
            raise Problem("malformed_json", error.msg) from None
        if not isinstance(found, dict):
            raise Problem("malformed_json", "the body is not an object")
    else:
        found = {}
        for name, value in (await request.form()).multi_items():
            outer, bracket, inner = name.partition("[")
            inside = found.get(outer, {})
            found[outer] = (
                {**(inside if isinstance(inside, dict) else {}), inner.rstrip("]"): value} if bracket else value
            )
    unknown = sorted(set(found) - KNOWN)
    if unknown:
        raise wrong(unknown[0], f"unknown parameter: {unknown[0]!r}")
    if not isinstance(found.get("prompt"), str) or not found["prompt"]:
        raise wrong("prompt", "prompt is missing")
    return found


async def taken(held: Services, tenant: str, given: UploadFile) -> Asset:
    """The asset of a file in a form, checked like every upload."""
    with spooled(held.settings.data_dir / "incoming") as spool:
        spool.name = clean_name(given.filename or "")
        while chunk := await given.read(BUFFER_BYTES):
            spool.write(chunk)
            await run_in_threadpool(spool.flush)
        await run_in_threadpool(spool.finish)
        facts = {"name": spool.name, "media_type": spool.media_type, "digest": spool.digest.hexdigest()}
        return await run_in_threadpool(lambda: keep(held, tenant, spool.path, **facts))


def named(held: Services, tenant: str, reference: Mapping[str, Any]) -> Asset:
    """The asset behind `{"id": …}` or `{"file_id": …}`: an asset, or the result of a video. Raises a `Problem`."""
    name = str(reference.get("id") or reference.get("file_id") or "")
    asset = Assets(held.store).find(tenant, name)
    if asset is not None:
        return asset
    job = held.records.find(name, tenant) if ids.valid(name, ids.JOB) else None
    if job is None:
        raise Problem("not_found", f"there is no video or asset {name!r} of yours")
    if job.state != State.SUCCEEDED or job.media_gone or not job.outputs:
        raise Problem("state_conflict", f"{name} has no result to edit: it is {job.state}")
    output = job.outputs[0]
    with spooled(held.settings.data_dir / "incoming") as spool:
        for chunk in held.store.read(output.key):
            spool.file.write(chunk)
        spool.file.flush()
        facts = {"name": output.name, "media_type": output.media_type, "digest": output.sha256}
        return keep(held, tenant, spool.path, **facts)


async def begin(request: Request, held: Services, tenant: str, key: str | None, name: str) -> Job:
    """Create the job of either route; the source is the field of this name."""
    fields = await fields_of(request)
    given = fields.get(name) or fields.get("video") or fields.get("input_reference")
    if isinstance(given, UploadFile):
        clip = await taken(held, tenant, given)
    elif isinstance(given, dict):
        clip = await run_in_threadpool(named, held, tenant, given)
    else:
        raise wrong(name, f"{name} is missing: this server edits videos, so send the one to edit")
    source = str(given.get("id")) if isinstance(given, dict) and ids.valid(str(given.get("id")), ids.JOB) else ""
    try:
        wanted = edit_of(fields, clip, held.api.openai_method, source)
    except ValidationError as error:
        first = error.errors()[0]
        raise wrong(".".join(map(str, first["loc"])), str(first["msg"])) from None
    await run_in_threadpool(check_request, wanted, held, tenant)
    once = idempotency(key, f"POST {request.url.path}", wanted.model_dump_json())
    created = await run_in_threadpool(
        lambda: submission.submit(
            wanted, tenant, records=held.records, store=held.store, bell=held.bell, idempotency=once
        )
    )
    return created.job


async def made(request: Request, held: Services, tenant: str, key: str | None, name: str) -> Job:
    """The same; the files of a form are closed whatever happens."""
    try:
        return await begin(request, held, tenant, key, name)
    finally:
        await request.close()


def shown(job: Job, response: Response) -> VideoView:
    """The video, with the advice when to ask again."""
    seconds = retry_after(job)
    if seconds is not None:
        response.headers[POLL] = str(1000 * seconds)
    return video_view(job)


def found(held: Services, tenant: str, video_id: str) -> Job:
    """The tenant's job. Raises `not_found`."""
    job = held.records.find(video_id, tenant) if ids.valid(video_id, ids.JOB) else None
    if job is None:
        raise Problem("not_found", f"there is no video {video_id!r}")
    return job


@ROUTER.post(BASE, include_in_schema=False)
async def create(
    request: Request, held: Held, tenant: Caller, response: Response, key: IdempotencyKey = None
) -> VideoView:
    """Edit the video that is given as `input_reference`."""
    return shown(await made(request, held, tenant, key, "input_reference"), response)


@ROUTER.post(f"{BASE}/edits", include_in_schema=False)
async def edit(
    request: Request, held: Held, tenant: Caller, response: Response, key: IdempotencyKey = None
) -> VideoView:
    """Edit a video: a file, or `{"id": …}` of a completed video or of an asset."""
    return shown(await made(request, held, tenant, key, "video"), response)


@ROUTER.get(BASE, include_in_schema=False)
def list_videos(
    held: Held,
    tenant: Caller,
    after: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The caller's videos, newest first unless `order` says otherwise."""
    jobs, more = oldest_or_newest(held.records, tenant, after=after, limit=limit, oldest=order == "asc")
    data = tuple(map(video_view, jobs))
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=first, last_id=last, has_more=more)


@ROUTER.get(f"{BASE}/{{video_id}}", include_in_schema=False)
def get_video(video_id: str, held: Held, tenant: Caller, response: Response) -> VideoView:
    """One video."""
    return shown(found(held, tenant, video_id), response)


@ROUTER.get(f"{BASE}/{{video_id}}/content", include_in_schema=False, response_class=Response)
def get_content(video_id: str, held: Held, tenant: Caller, request: Request, variant: str = "video") -> Response:
    """The video's bytes."""
    job = found(held, tenant, video_id)
    if variant != "video":
        raise wrong("variant", "only the variant `video` is made")
    if job.media_gone:
        raise Problem("expired")
    if not job.outputs:
        raise Problem("not_found", f"the video has no content: it is {job.state}")
    file = job.outputs[0]
    content = Content(file.key, f"{job.id}-{file.name}", file.media_type, file.size_bytes, file.sha256)
    return serve(held.store, content, request)


@ROUTER.delete(f"{BASE}/{{video_id}}", include_in_schema=False)
async def delete_video(video_id: str, held: Held, tenant: Caller) -> VideoDeleted:
    """Delete a video; one that is being made has to end first."""
    job = await asyncio.to_thread(found, held, tenant, video_id)
    await asyncio.to_thread(lambda: submission.delete(job, records=held.records, store=held.store))
    return VideoDeleted(id=video_id)
