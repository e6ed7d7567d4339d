"""How many requests a tenant may send: reads and writes from buckets of their own, told in `RateLimit` fields.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10. While Redis is away nothing is counted.
"""

from contextlib import suppress
from math import ceil

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from api.deps import admitted, services
from api.errors import Problem
from jobs.connection import QueueUnavailable

WINDOW_SECONDS = 60
UNCOUNTED = ("/healthz/", "/metrics")


async def count(request: Request) -> None:
    """Take a token for this request, and have the answer tell what is left. Raises `rate_limited`."""
    bucket = "reads" if request.method in ("GET", "HEAD") else "writes"
    limit = services(request).api.rate(bucket)
    if not limit or request.url.path.startswith(UNCOUNTED):
        return
    try:
        access = await run_in_threadpool(admitted, request)
    except HTTPException:  # whether the route needs a caller is its own affair
        return
    with suppress(QueueUnavailable):
        await run_in_threadpool(take, request, access.tenant, bucket, limit)


def take(request: Request, tenant: str, bucket: str, limit: int) -> None:
    """Count one request of the tenant. Raises `rate_limited`."""
    run = services(request).records.run
    allowed, left, full_ms, wait_ms = run("rate", tenant, bucket, limit, WINDOW_SECONDS * 1000)
    request.state.headers = {
        "RateLimit-Policy": f'"{bucket}";q={limit};w={WINDOW_SECONDS}',
        "RateLimit": f'"{bucket}";r={left};t={ceil(full_ms / 1000)}',
    }
    if not allowed:
        raise Problem(
            "rate_limited", f"{limit} {bucket} a minute are allowed", retry_after=max(1, ceil(wait_ms / 1000))
        )
