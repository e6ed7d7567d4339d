"""How bodies are read: strict JSON. NaN, repeated names and endless nesting are errors."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from api.idempotency import answer_once
from api.rates import count


def _refuse_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise json.JSONDecodeError("a name is repeated in one object", "", 0)
    return found


def strict_json(body: bytes) -> Any:
    """Parse a body. Raises `json.JSONDecodeError` for everything that is not plain, finite, sane JSON."""
    try:
        return json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_no_repeats)
    except RecursionError:
        raise json.JSONDecodeError("nested too deep", "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("not UTF-8", "", 0) from None


class StrictRequest(Request):
    """A request whose JSON is read by `strict_json`."""

    async def json(self) -> Any:
        """The parsed body."""
        return strict_json(await self.body())


class StrictRoute(APIRoute):
    """A route that reads its body strictly, and answers a repeated POST with its first answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, given a `StrictRequest`."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            await count(request)
            return await answer_once(StrictRequest(request.scope, request.receive), handler)

        return strict


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented refusals of a route, for its `responses`; 401, 403, 422, 429 and 503 are everywhere."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    every = sorted({401, 403, 422, 429, 503, *statuses})
    return {status: {"description": "Problem", "content": content} for status in every}


def router(tag: str) -> APIRouter:
    """A router of strict routes."""
    return APIRouter(route_class=StrictRoute, tags=[tag])
