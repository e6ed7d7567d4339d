"""What an edit would take, before it is sent."""

from typing import Annotated

from fastapi import Body

from api.deps import Caller, Held
from api.estimate_views import EstimateView, QueueEstimate, StageEstimate, WorkView
from api.examples import EDITS
from api.present import expected_eta
from api.routes.edits import check_request
from api.routing import problems, router
from jobs import ids, routing
from jobs.assets import Assets
from jobs.forecast import expect
from jobs.manifest import Manifest
from jobs.request import BROKER_PRIORITY, JobRequest
from jobs.submission import input_files
from jobs.workload import CACHED, workload

ROUTER = router("edits")


@ROUTER.post("/v1/estimates", response_model=EstimateView, responses=problems(400, 413))
def estimate(request: Annotated[JobRequest, Body(openapi_examples=EDITS)], held: Held, tenant: Caller) -> EstimateView:
    """What this edit would take if it were sent now, from how long jobs like it took. Nothing is created."""
    check_request(request, held, tenant)
    inputs = input_files(Assets(held.store), tenant, request)
    pool = routing.pool_for(request, held.records)
    clip = inputs["video"].clip if "video" in inputs else None
    found = expect(
        held.records, Manifest(id=ids.new(ids.JOB), tenant=tenant, pool=pool, request=request, inputs=inputs)
    )
    position = 1 + held.records.outlook.before(pool, BROKER_PRIORITY[request.priority])
    place = held.records.outlook.place(pool, position, "")
    stages = (
        StageEstimate(
            name=name, seconds=seconds, cache=("hit" if name in found.hits else "miss") if name in CACHED else None
        )
        for name, seconds in found.stages.items()
    )
    return EstimateView(
        method=request.method,
        model=request.model or held.settings.checkpoint,
        pool=pool,
        work=WorkView.model_validate(workload(request, clip).model_dump()) if clip else None,
        seconds=found.seconds,
        p90_seconds=found.p90,
        gpu_seconds=found.compute,
        samples=found.samples,
        stages=tuple(stages),
        queue=QueueEstimate(
            position=position,
            ahead_gpu_seconds=place.ahead_gpu_seconds,
            wait_seconds=place.wait_seconds,
            workers=held.records.outlook.workers(pool),
        ),
        eta=expected_eta(found, place.wait_seconds),
    )
