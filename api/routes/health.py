"""Operations: is the process alive, can it serve, what has it counted."""

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from api.deps import Held, Operator
from api.routing import problems, router
from api.views import Health
from jobs.presence import live_workers

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
    """The service's counters in the Prometheus text format."""
    registry = CollectorRegistry()
    for name, value in sorted((await run_in_threadpool(held.records.counters)).items()):
        Counter(f"rf_{name}", f"Counted since the records began: {name}.", registry=registry).inc(value)
    live = await run_in_threadpool(live_workers, held.records)
    Gauge("rf_workers", "Workers that spoke lately.", registry=registry).set(len(live))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
