"""The editing methods and their parameters, from the committed catalogue."""

from typing import Annotated, Any

from fastapi import Path

from api.errors import Problem
from api.routing import problems, router
from api.views import MethodList, MethodSummary, MethodView
from jobs import catalogue

ROUTER = router("methods")


def links(method_id: str) -> dict[str, str]:
    """Where the method is described."""
    return {"self": f"/v1/methods/{method_id}"}


@ROUTER.get("/v1/methods", response_model=MethodList)
def list_methods() -> MethodList:
    """Every method."""
    found = catalogue.load().methods.values()
    return MethodList(data=tuple(MethodSummary(**entry, urls=links(entry["id"])) for entry in found))


@ROUTER.get("/v1/methods/{method_id}", response_model=MethodView, responses=problems(404))
def get_method(method_id: Annotated[str, Path(examples=["frame_by_frame"])]) -> Any:
    """One method with the JSON Schemas of its inputs and parameters."""
    known = catalogue.load().methods
    if method_id not in known:
        raise Problem("not_found", f"there is no method {method_id!r}")
    return MethodView(**known[method_id], urls=links(method_id))
