"""A batch as it comes in: read, checked as a whole, accepted. Every fault is told with the entry or line it is in."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.deps import Services
from api.errors import Problem
from api.handlers import field_error, missing
from api.routes.edits import check_clip, check_webhook, check_words
from api.routing import strict_json
from jobs import batch_work, ids, origin
from jobs.batch import MOST_JOBS, BatchMatrix, Lines, Plan
from jobs.batch_manifest import BatchManifest
from jobs.batch_records import Batch, Batches
from jobs.manifest import InputFile
from jobs.quotas import admit_jobs
from jobs.records import Idempotency
from jobs.request import JobRequest
from jobs.schema import Asset

MOST_ERRORS = 100
Fault = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A batch that is well-formed: its jobs, how a fault of one is told, and the lines if it is a list."""

    plan: Plan
    place: Callable[[int, Fault], Fault]
    matrix: BatchMatrix | None = None
    lines: bytes | None = None


def read_matrix(body: bytes) -> Order:
    """The order in a JSON body. Raises RequestValidationError and `malformed_json`."""
    try:
        matrix = BatchMatrix.model_validate(parsed(body))
    except ValidationError as error:
        raise RequestValidationError([fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]) from None
    return Order(
        matrix, lambda index, fault: fault | {"pointer": matrix_pointer(matrix, index, fault["pointer"])}, matrix
    )


def parsed(text: bytes, where: str = "") -> Any:
    """Strict JSON. Raises `malformed_json`."""
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        raise Problem("malformed_json", f"{where}{error.msg}") from None


def read_lines(body: bytes) -> Order:
    """The order in an NDJSON body. Raises `malformed_json` and `validation_failed` with line numbers."""
    lines = Lines(body)
    if not 1 <= lines.total <= MOST_JOBS:
        raise Problem("validation_failed", f"1 to {MOST_JOBS} lines are taken, {lines.total} came")
    numbers, faults = [], []
    for number, text in lines.numbered():
        numbers.append(number)
        try:
            JobRequest.model_validate(parsed(text, f"line {number}: "))
        except ValidationError as error:
            faults += [told(number, field_error(fault | {"loc": ("body", *fault["loc"])})) for fault in error.errors()]
        if len(faults) >= MOST_ERRORS:
            break
    refuse(faults)
    return Order(lines, lambda index, fault: told(numbers[index], fault), lines=body)


def told(line: int, fault: Fault) -> Fault:
    """The fault with its line."""
    return {"line": line} | fault


def matrix_pointer(matrix: BatchMatrix, index: int, pointer: str) -> str:
    """Where in the matrix the fault of one of its jobs was written."""
    place = matrix.place("", index)
    head, _, rest = pointer.removeprefix("#/").partition("/")
    if head == "input":
        return f"#/videos/{place.video}/{rest}"
    if head == "prompt":
        return f"#/prompts/{place.prompt}/{rest}".removesuffix("/")
    how = matrix.methods[place.method or 0]
    shared = head == "params" and rest in matrix.params and rest not in how.params
    shared = shared or (head == "adherence" and how.adherence is None)
    return pointer if shared else f"#/methods/{place.method}/{head}" + (f"/{rest}" if rest else "")


def refuse(faults: list[Fault]) -> None:
    """Raise a `Problem` if there is a fault: its own code when all have the same, else `validation_failed`."""
    if not faults:
        return
    told = [json.loads(text) for text in dict.fromkeys(json.dumps(fault) for fault in faults)][:MOST_ERRORS]
    kinds = {fault.pop("problem", "validation_failed") for fault in told}
    code = kinds.pop() if len(kinds) == 1 else "validation_failed"
    more = f"the first {MOST_ERRORS} faults are listed" if len(told) == MOST_ERRORS else ""
    raise Problem(code, more or "nothing was created", errors=told)


def check(order: Order, held: Services, tenant: str) -> dict[str, InputFile]:
    """See that every job can be accepted; the assets they name, by id. Raises a `Problem` about all that is wrong."""
    seen: set[int] = set()
    used: dict[tuple[str, bool], tuple[int, str]] = {}
    faults: list[Fault] = []
    for index in range(order.plan.total):
        request = order.plan.request(index)
        for name, asset in request.assets().items():
            used.setdefault((asset, name == "video"), (index, name))
        key = hash(signature(request))
        if key not in seen:
            seen.add(key)
            faults += (order.place(index, fault) for fault in word_faults(request, held, tenant))
        if len(faults) > 10 * MOST_ERRORS:
            break
    refuse(faults)
    found = batch_work.assets_of(held.store, tenant, {asset for asset, _ in used})
    for (asset, is_clip), (index, name) in used.items():
        faults += (order.place(index, fault) for fault in asset_faults(found[asset], asset, name, is_clip))
    refuse(faults)
    return {asset_id: InputFile.of(asset) for asset_id, asset in found.items() if asset is not None}


def signature(request: JobRequest) -> str:
    """What `word_faults` depends on: requests that share it share their faults."""
    webhook, urls = request.webhook and request.webhook.endpoint, request.urls()
    given = [request.method, request.model, request.adherence, urls, webhook]
    return json.dumps([*given, request.engine_params(), sorted(request.files())])


def asset_faults(asset: Asset | None, asset_id: str, name: str, is_clip: bool) -> list[Fault]:
    """What is wrong with one input: not there, or not a video where a video is edited."""
    entry = missing(name, asset_id)
    if asset is None:
        return [entry | {"problem": "missing_asset"}]
    try:
        check_clip(asset if is_clip else None)
    except Problem as problem:
        return [entry | {"code": problem.code, "message": str(problem.detail), "problem": problem.code}]
    return []


def word_faults(request: JobRequest, held: Services, tenant: str) -> list[Fault]:
    """What is wrong with one request, apart from its assets."""
    try:
        check_words(request, held, tenant)
    except Problem as problem:
        where = {"unknown_method": "#/method", "model_not_allowed": "#/model"}.get(problem.code, "#")
        entries = problem.errors or [{"pointer": where, "code": problem.code, "message": problem.detail}]
        return [dict(entry) | {"problem": problem.code} for entry in entries]
    return []


def accept(order: Order, held: Services, tenant: str, once: Idempotency | None) -> tuple[Batch, bool]:
    """Check the order, make it durable, and create as many of its jobs as time allows; also whether it was before."""
    batches, engine = Batches(held.records), batch_work.Engine(held.records, held.store, held.bell)
    earlier = batches.earlier(tenant, once.key, once.request_hash) if once else None
    if earlier is not None:
        return batches.get(earlier, tenant), True
    admit_jobs(held.records, tenant, order.plan.total)
    matrix, inputs = order.matrix, check(order, held, tenant)
    check_webhook(matrix.webhook if matrix else None, held, tenant)
    came = origin.current()
    accepted = BatchManifest(
        id=ids.new(ids.BATCH),
        tenant=tenant,
        total=order.plan.total,
        ttl_seconds=(matrix.output.expires_in if matrix else None) or held.settings.media_ttl_seconds,
        idempotency_key=once.key if once else "",
        request_hash=once.request_hash if once else "",
        matrix=matrix,
        webhook=matrix.webhook if matrix else None,
        max_concurrent=matrix.max_concurrent if matrix else None,
        labels=matrix.labels if matrix else {},
        metadata=matrix.metadata if matrix else {},
        inputs=inputs,
        request_id=came.request_id,
        traceparent=came.traceparent,
    )
    batch_id, replayed = batch_work.accept(engine, accepted, order.lines)
    if not replayed:
        batch_work.advance(engine, tenant, batch_id, held.api.batch_seconds)
    return batches.get(batch_id, tenant), replayed
