"""`Idempotency-Key` on every POST: the first answer is kept for 24 h, and a repeat gets it again.

One mechanism for all routes (`api.routing` calls `answer_once`). Refusals are not kept: nothing was done, and the same
request may succeed later. Routes that make something durable note the key there as well (`idempotency`), so that not
even a crash between the deed and the keeping of its answer lets a repeat do it twice.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import admitted, services
from api.errors import Problem
from jobs.answers import Answer, Answers, InProgress
from jobs.connection import QueueUnavailable
from jobs.records import Idempotency

REPLAYED = "Idempotency-Replayed"
DESCRIPTION = "Any unique text. The same key with the same request is answered with the first answer, for 24 h."
PATTERN = r"^[\x21-\x7e]+$"
LONGEST = 255
HOLD_SECONDS = 15.0
"""A first request says that it still runs; after so long without a word it counts as lost with its process."""
RENEW_SECONDS = 5.0
RETRY_SECONDS = 5
"""Advice to whoever repeats too early: after four times the hold of a first request that died is over."""
KEPT_HEADERS = ("content-type", "location", "etag", "link", "retry-after", "preference-applied")
STREAMED = ("/v1/uploads",)
"""Bodies that are not read twice: their length and name stand for them; the content is addressed by its digest."""
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST, pattern=PATTERN, description=DESCRIPTION),
]


def idempotency(key: str | None, operation: str, body: str | bytes = "") -> Idempotency | None:
    """The key with the digest of what it came with; None without a key."""
    if key is None:
        return None
    whole = f"{operation}\n".encode() + (body.encode() if isinstance(body, str) else body)
    return Idempotency(key, hashlib.sha256(whole).hexdigest())


def checked(key: str) -> str:
    """The key. Raises `validation_failed`."""
    if len(key) > LONGEST or re.fullmatch(PATTERN, key) is None:
        wrong = {"in": "header", "name": "Idempotency-Key", "code": "wrong_format"}
        message = f"must be 1 to {LONGEST} visible ASCII characters"
        raise Problem("validation_failed", errors=[wrong | {"message": message}])
    return key


async def fingerprint(request: Request, scopes: Iterable[str]) -> str:
    """The digest of everything that makes this request another one; what the caller may do is part of it."""
    headers, kind = request.headers, request.headers.get("content-type", "")
    digest = hashlib.sha256(
        f"{request.method} {request.url.path}?{request.url.query}\n{kind}\n{sorted(scopes)}\n".encode()
    )
    if request.url.path in STREAMED and not kind.startswith("application/json"):
        digest.update(f"{headers.get('content-length')}\n{headers.get('refilm-filename')}".encode())
    else:
        digest.update(await request.body())
    return digest.hexdigest()


async def answer_once(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer the request, or repeat the answer that an earlier one with the same key got."""
    key = request.headers.get("idempotency-key")
    if request.method != "POST" or key is None:
        return await handler(request)
    answers = Answers(services(request).records)
    access = await run_in_threadpool(admitted, request)
    tenant, once = access.tenant, Idempotency(checked(key), await fingerprint(request, access.scopes))
    try:
        begun = await run_in_threadpool(answers.begin, tenant, once, HOLD_SECONDS)
    except InProgress:
        raise Problem("idempotency_in_progress", retry_after=RETRY_SECONDS) from None
    if isinstance(begun, Answer):
        return Response(begun.body, begun.status, dict(begun.headers) | {REPLAYED: "true"})
    kept: Any = None
    renewal = asyncio.create_task(renew(answers, tenant, once, begun))
    try:
        response = await handler(request)
        kept = answer_of(response)
    finally:
        renewal.cancel()
        if kept is None:
            await run_in_threadpool(answers.drop, tenant, once, begun)
    with suppress(QueueUnavailable):  # what was asked for is done; a repeat hears `in progress` until the hold ends
        await run_in_threadpool(answers.keep, tenant, once, begun, kept) if kept else None
    return response


async def renew(answers: Answers, tenant: str, once: Idempotency, token: str) -> None:
    """Keep the hold on a key for as long as this task lives."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        with suppress(QueueUnavailable):
            await run_in_threadpool(answers.hold, tenant, once, token, HOLD_SECONDS)


def answer_of(response: Response) -> Answer | None:
    """What is kept of an answer; nothing of a refusal or a stream."""
    body = getattr(response, "body", None)
    if response.status_code >= 400 or not isinstance(body, bytes):
        return None
    headers = tuple((name, value) for name, value in response.headers.items() if name in KEPT_HEADERS)
    return Answer(response.status_code, headers, body.decode())
