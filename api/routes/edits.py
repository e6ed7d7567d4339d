"""Create a job: one edit of one clip."""

import asyncio
import re
from typing import Annotated, Any

from fastapi import Body, Header, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import Caller, Held, Services
from api.errors import Problem
from api.examples import EDITS
from api.idempotency import REPLAYED, IdempotencyKey, idempotency
from api.policy import check_policy
from api.present import job_view, label_job, wait_seconds
from api.routing import problems, router
from api.uploading import with_assets
from api.views import JobView
from api.watch import changed
from jobs import catalogue
from jobs.addresses import UrlRefused, check, rule
from jobs.assets import Assets
from jobs.catalogue import NoLadder
from jobs.provenance import refusal
from jobs.request import Deadline, JobRequest, WebhookRef
from jobs.schema import Asset, Job
from jobs.submission import submit
from jobs.webhooks import Endpoints

ROUTER = router("edits")
DURATION = re.compile(r"(\d{1,7})([smh]?)")
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
# Where a caller wrote what the method knows by another name.
WRITTEN_AS = {
    "#/params/prompt": "#/prompt/target",
    "#/params/source_prompt": "#/prompt/source",
    "#/params/negative_prompt": "#/prompt/negative",
    "#/params/start_seconds": "#/input/trim/start",
    "#/params/end_seconds": "#/input/trim/end",
}
Prefer = Annotated[str | None, Header(description="`wait=N`: hold the answer up to N seconds in case the job ends.")]
CancelAfter = Annotated[str | None, Header(description="Alias of `deadline.finish_within`: `90`, `90s`, `15m`, `2h`.")]
MaxQueue = Annotated[int | None, Header(alias="Refilm-Max-Queue", ge=0, description="429 when more jobs are ahead.")]


def written_pointer(pointer: str, request: JobRequest) -> str:
    """The place in the caller's body that an error about a method's field is about."""
    name = pointer.rpartition("/")[2]
    if pointer.startswith("#/input/") and name != "video":
        return f"#/input/files/{name}"
    return pointer if name in request.params else WRITTEN_AS.get(pointer, pointer)


def no_ladder(request: JobRequest) -> dict[str, Any]:
    """The error about `adherence` for a method that does not offer it, with those that do."""
    offered = sorted(name for name, entry in catalogue.load().methods.items() if entry.get("adherence"))
    message = f"{request.method} does not offer it; set its own parameters, or use one of the methods that do"
    return {"pointer": "#/adherence", "code": "not_offered", "message": message, "choices": offered}


def check_request(request: JobRequest, held: Services, tenant: str) -> None:
    """Everything that can be known before a worker is asked. Raises a `Problem`."""
    check_words(request, held, tenant)
    given = request.input.video.asset
    check_clip(Assets(held.store).find(tenant, given) if given else None)


def check_clip(clip: Asset | None) -> None:
    """That the asset to edit is a video; whether it is there is seen elsewhere. Raises a `Problem`."""
    if clip is not None and clip.facts.get("kind", "video") != "video":
        raise Problem("input.not_video", f"the asset is of kind {clip.facts['kind']}")


def check_webhook(wanted: WebhookRef | None, held: Services, tenant: str) -> None:
    """That the endpoint to be told is the tenant's. Raises a `Problem`."""
    if wanted and Endpoints(held.records, held.store).find(tenant, wanted.endpoint) is None:
        unknown = {"pointer": "#/webhook/endpoint", "code": "not_found", "message": "no endpoint of yours has this id"}
        raise Problem("validation_failed", "the webhook's endpoint is unknown", errors=[unknown])


def check_words(request: JobRequest, held: Services, tenant: str) -> None:
    """What can be known from the request alone. Raises a `Problem`."""
    known = catalogue.load()
    if request.method not in known.methods:
        raise Problem("unknown_method", f"there is no method {request.method!r}")
    if request.model is not None and request.model not in (held.settings.checkpoint, *held.settings.allowed_models):
        raise Problem("model_not_allowed", f"{request.model!r} is not offered")
    try:
        request = known.adhered(request)
    except NoLadder:
        raise Problem(
            "validation_failed", "the method has no ladder of adherence", errors=[no_ladder(request)]
        ) from None
    wrong = known.errors(request.method, request.engine_params(), set(request.files()))
    if wrong:
        errors = [error | {"pointer": written_pointer(error["pointer"], request)} for error in wrong]
        raise Problem("validation_failed", "the method does not take this", errors=errors)
    check_checkpoints(request, held)
    check_webhook(request.webhook, held, tenant)
    check_provenance(request, held)
    check_urls(request, held)
    check_uploads(request)
    check_policy(request, held.settings)


def check_checkpoints(request: JobRequest, held: Services) -> None:
    """Refuse networks in parameters that are not offered: a reference may be a folder. Raises `model_not_allowed`."""
    named = catalogue.load().checkpoints(request.method, request.engine_params())
    wrong = [
        {"pointer": f"#/params/{name}", "code": "model_not_allowed", "message": f"{reference!r} is not offered"}
        for name, reference in named.items()
        if reference not in held.settings.allowed_models
    ]
    if wrong:
        raise Problem("model_not_allowed", str(wrong[0]["message"]), errors=wrong)


def check_provenance(request: JobRequest, held: Services) -> None:
    """Refuse what this installation does not offer: to sign, or not to. Raises `validation_failed`."""
    refused = refusal(request.output, held.settings)
    if refused is not None:
        field, message = refused
        error = {"pointer": f"#/output/{field}", "code": "not_offered", "message": message}
        raise Problem("validation_failed", message, errors=[error])


def check_uploads(request: JobRequest) -> None:
    """Refuse uploads where they are not completed with the request. Raises `validation_failed`."""
    wrong = [
        {"pointer": f"{place(name)}/upload", "code": "not_completed", "message": "complete it, and name the asset"}
        for name in request.uploads()
    ]
    if wrong:
        raise Problem("validation_failed", "only POST /v1/edits completes uploads", errors=wrong)


def place(name: str) -> str:
    """Where an input stands in the body."""
    return "#/input/video" if name == "video" else f"#/input/files/{name}"


def check_urls(request: JobRequest, held: Services) -> None:
    """Refuse addresses that may not be called; names are looked up by the fetcher. Raises `url_not_allowed`."""
    allowed = rule(held.settings.fetch_ports, loopback=held.settings.egress_loopback)
    wrong = []
    for name, url in request.urls().items():
        try:
            check(url, allowed)
        except UrlRefused as refused:
            wrong.append({"pointer": f"{place(name)}/url", "code": "url_not_allowed", "message": str(refused)})
    if wrong:
        raise Problem("url_not_allowed", str(wrong[0]["message"]), errors=wrong)


def with_deadline(request: JobRequest, cancel_after: str | None) -> JobRequest:
    """The request with `Cancel-After` as its deadline, unless the body has one. Raises `validation_failed`."""
    if cancel_after is None or request.deadline.finish_within is not None:
        return request
    match = DURATION.fullmatch(cancel_after.strip())
    seconds = int(match[1]) * UNIT_SECONDS[match[2]] if match else 0
    if not 1 <= seconds <= 30 * 86400:
        raise Problem("validation_failed", "Cancel-After takes 1s to 30 days, as 90s, 15m or 2h")
    deadline = Deadline(start_within=request.deadline.start_within, finish_within=seconds)
    return request.model_copy(update={"deadline": deadline})


async def until_ended(held: Services, job: Job, seconds: float) -> Job:
    """The job when it has ended, or after so many seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not job.state.terminal and loop.time() < until:
        await changed(held.watch, held.records, job.id, job.tenant, job.version, until - loop.time())
        job = await run_in_threadpool(held.records.get, job.id, job.tenant)
        if held.watch.closing:
            break
    return job


@ROUTER.post("/v1/edits", status_code=202, response_model=JobView, responses=problems(400, 404, 413, 415, 429))
async def create_edit(
    request: Annotated[JobRequest, Body(openapi_examples=EDITS)],
    held: Held,
    tenant: Caller,
    response: Response,
    key: IdempotencyKey = None,
    prefer: Prefer = None,
    cancel_after: CancelAfter = None,
    max_queue: MaxQueue = None,
) -> Any:
    """Accept an edit. 202 means that the job is durable: it runs to an end whatever fails meanwhile."""
    request = with_deadline(request, cancel_after)
    once = idempotency(key, "POST /v1/edits", request.model_dump_json())
    request = await run_in_threadpool(with_assets, request, held, tenant)
    await run_in_threadpool(check_request, request, held, tenant)
    created = await run_in_threadpool(
        submit,
        request,
        tenant,
        records=held.records,
        store=held.store,
        bell=held.bell,
        idempotency=once,
        most_ahead=max_queue,
    )
    seconds = wait_seconds(prefer, None, held.api.max_wait_seconds)
    job = await until_ended(held, created.job, seconds)
    label_job(response, job)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers.update({REPLAYED: "true"} if created.replayed else {})
    response.headers.update({"Preference-Applied": f"wait={seconds:g}"} if seconds else {})
    return job_view(job)
