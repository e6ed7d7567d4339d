"""The editing methods and their parameters, from the committed catalogue."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import Path, Request, Response

from api import packed
from api.deps import Held, Services
from api.errors import Problem
from api.routing import problems, router
from api.views import MethodList, MethodSummary, MethodTimes, MethodView
from jobs import catalogue
from jobs.connection import QueueUnavailable
from jobs.forecast import quantile

ROUTER = router("methods")
FRESH = {"Cache-Control": "no-cache"}


def links(method_id: str) -> dict[str, str]:
    """Where the method is described."""
    return {"self": f"/v1/methods/{method_id}"}


def times(held: Services, method_ids: Iterable[str]) -> dict[str, MethodTimes | None]:
    """How long the last jobs of these methods took; None of all while nobody can be asked."""
    wanted = list(method_ids)
    try:
        totals = held.records.history.totals(wanted)
    except QueueUnavailable:  # the methods are known without it
        return dict.fromkeys(wanted)
    return {
        name: MethodTimes(p50_seconds=quantile(took, 0.5) or 0, p95_seconds=quantile(took, 0.95) or 0, jobs=len(took))
        if took
        else None
        for name, took in totals.items()
    }


@ROUTER.get("/v1/methods", response_model=MethodList)
def list_methods(held: Held, request: Request) -> Response:
    """Every method."""
    found = catalogue.load().methods.values()
    took = times(held, (entry["id"] for entry in found))
    rows = tuple(MethodSummary(**entry, times=took[entry["id"]], urls=links(entry["id"])) for entry in found)
    return packed.answer(request, MethodList(data=rows).model_dump_json().encode(), "application/json", FRESH)


@ROUTER.get("/v1/methods/{method_id}", response_model=MethodView, responses=problems(404))
def get_method(method_id: Annotated[str, Path(examples=["frame_by_frame"])], held: Held, request: Request) -> Response:
    """One method with the JSON Schemas of its inputs and parameters."""
    known = catalogue.load().methods
    if method_id not in known:
        raise Problem("not_found", f"there is no method {method_id!r}")
    found = MethodView(**known[method_id], times=times(held, [method_id])[method_id], urls=links(method_id))
    return packed.answer(request, found.model_dump_json().encode(), "application/json", FRESH)
