"""Server-sent events of a job, resumable on any API process with `Last-Event-ID`."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.deps import Caller, Held, Services
from api.present import job_view, preview_view
from api.routes.jobs import JobId
from api.routing import problems, router
from jobs.schema import Event, Job

ROUTER = router("jobs")
EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
RETRY_MS = 3000
RECHECK_SECONDS = 10.0
MOST_KEPT = 2000
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this event.")]


def order(event_id: str) -> tuple[int, int]:
    """A stream id as something to compare."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


async def followed(job_id: JobId, held: Held, tenant: Caller) -> AsyncIterator[Job]:
    """The job whose stream is asked for, and a place among the tenant's streams until the answer ends."""
    job = await run_in_threadpool(held.records.get, job_id, tenant)
    with held.streams.one(tenant):
        yield job


async def resumable(held: Services, job_id: str, last: str | None) -> bool:
    """Whether every event after `last` is still there."""
    if last is None or not EVENT_ID.fullmatch(last):
        return False
    first = await run_in_threadpool(held.records.first_event, job_id)
    return first is not None and order(first) <= order(last)


def told(event: Event, job_id: str) -> ServerSentEvent:
    """One event on the wire."""
    said: dict[str, Any] = dict(event.data)
    if event.type == "preview":
        said = preview_view(job_id, said).model_dump()
    data = {"id": job_id, "state": event.state, "version": event.version, **said}
    return ServerSentEvent(event=event.type, id=event.id, data=data, retry=RETRY_MS)


async def snapshot(held: Services, job: Job) -> tuple[str, ServerSentEvent]:
    """The whole job, and the stream id from which on events are news."""
    kept = await run_in_threadpool(held.records.events, job.id, "0", count=MOST_KEPT)
    seen = kept[-1].id if kept else "0"
    newest = await run_in_threadpool(held.records.get, job.id, job.tenant)
    data = job_view(newest).model_dump(mode="json")
    return seen, ServerSentEvent(event="snapshot", id=seen, data=data, retry=RETRY_MS)


async def pause(changed: asyncio.Event) -> None:
    """Until the job changes, or long enough that a look is worth it anyway."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), RECHECK_SECONDS)


def ended(held: Services, job: Job) -> bool:
    """Whether nothing more will come: the job has ended or is gone. Ends that were already seen are not sent again."""
    newest = held.records.find(job.id, job.tenant)
    return newest is None or newest.state.terminal


@ROUTER.get(
    "/v1/jobs/{job_id}/events", response_class=EventSourceResponse, responses=problems(404, 429), name="job_events"
)
async def job_events(
    held: Held, job: Annotated[Job, Depends(followed)], last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """`snapshot` first (or what was missed since `Last-Event-ID`), then `state`, `progress`, `output` … until `end`."""
    after = last_event_id or ""
    if not await resumable(held, job.id, last_event_id):
        after, first = await snapshot(held, job)
        yield first
    with held.watch.following(job.id) as changed:
        over = False
        while not over and not held.watch.closing:
            changed.clear()
            last = await run_in_threadpool(ended, held, job)  # before the read: what ended it is then in the read
            news = await run_in_threadpool(held.records.events, job.id, after)
            told_end = any(event.type == "end" for event in news)
            over = last or told_end
            for event in news:
                after = event.id
                yield told(event, job.id)
            if last and not told_end:
                yield ServerSentEvent(event="end", id=after, data={"id": job.id}, retry=RETRY_MS)
            if not over and not news:
                await pause(changed)
