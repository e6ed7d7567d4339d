"""Operations: is the process alive, can it serve, what has it counted."""

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST

from api import metrics as metrics_of
from api.deps import Held, Operator
from api.routing import problems, router
from api.views import Health

ROUTER = router("operations")


@ROUTER.get("/healthz/live", response_model=Health)
async def live() -> Health:
    """The process answers."""
    return Health(status="ok")


@ROUTER.get("/healthz/ready", response_model=Health, responses=problems())
async def ready(held: Held) -> Health:
    """The records and the store answer too; else 503."""
    await run_in_threadpool(held.records.ping)
    await run_in_threadpool(held.store.head, "ready")
    return Health(status="ok")


@ROUTER.get("/metrics", response_class=Response, responses=problems() | {200: {"content": {"text/plain": {}}}})
async def metrics(held: Held, caller: Operator) -> Response:
    """The service's metrics in the Prometheus text format."""
    return Response(await run_in_threadpool(metrics_of.text, held.records), media_type=CONTENT_TYPE_LATEST)
