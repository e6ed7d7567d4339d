"""The OpenAPI document as a product: how to authenticate, what problems look like, what the tags mean."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.idempotency import DESCRIPTION as DESCRIPTION_OF_KEY
from api.idempotency import LONGEST, PATTERN
from api.routing import problems
from api.views import ProblemView
from jobs.batch import BatchMatrix

TAGS = [
    {"name": "methods", "description": "What can be done, and the parameters it takes."},
    {"name": "assets", "description": "Files: bring them, look at them, fetch them."},
    {"name": "edits", "description": "Start a job."},
    {"name": "batches", "description": "Start and follow many jobs with one request."},
    {"name": "jobs", "description": "Follow, cancel, repeat and delete jobs."},
    {"name": "webhooks", "description": "Be told instead of asking."},
    {"name": "errors", "description": "What the codes of problem documents mean."},
    {"name": "operations", "description": "Health and counters."},
]
DESCRIPTION = """\
Upload a clip, start an edit, follow the job, fetch the result. Polling is cheap: send the ETag you have and
`Prefer: wait=20`, and honour `Retry-After`. Ids are opaque; follow the links in `urls`. Inside v1 fields are only
added: ignore the ones you do not know. Every refusal is a problem document whose `code` is stable.
"""


def add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    """Put a model that a route reads by itself, and what it is made of, beside the others."""
    whole = model.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, schema in whole.pop("$defs", {}).items():
        schemas.setdefault(name, schema)
    schemas[model.__name__] = whole


def add_idempotency(paths: dict[str, Any]) -> None:
    """Tell of `Idempotency-Key`, which every POST takes."""
    schema = {"type": "string", "minLength": 1, "maxLength": LONGEST, "pattern": PATTERN}
    header = {"name": "Idempotency-Key", "in": "header", "required": False, "description": DESCRIPTION_OF_KEY}
    for operation in (path["post"] for path in paths.values() if "post" in path):
        given = operation.setdefault("parameters", [])
        if not any(parameter["name"] == header["name"] for parameter in given):
            given.append(header | {"schema": schema})
        operation["responses"].setdefault("409", problems(409)[409])


def plain_streams(paths: dict[str, Any]) -> None:
    """Describe event streams as text: `itemSchema` came with OpenAPI 3.2, and this document is 3.1."""
    operations = (operation for path in paths.values() for operation in path.values() if isinstance(operation, dict))
    for answer in (answer for operation in operations for answer in operation.get("responses", {}).values()):
        stream = answer.get("content", {}).get("text/event-stream")
        if stream is not None and stream.pop("itemSchema", None):
            stream["schema"] = {"type": "string", "description": "Server-sent events."}


def document(app: FastAPI) -> dict[str, Any]:
    """Build the document once."""
    if app.openapi_schema is None:
        built = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
        )
        add_idempotency(built["paths"])
        plain_streams(built["paths"])
        parts = built.setdefault("components", {})
        parts.setdefault("schemas", {})["ProblemView"] = ProblemView.model_json_schema()
        add_schema(parts["schemas"], BatchMatrix)
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
        built["security"] = [{"key": []}, {}]
        app.openapi_schema = built
    return app.openapi_schema


def install(app: FastAPI) -> None:
    """Let the application answer `/openapi.json` with it."""
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
