"""The web application: `create_app()` puts routers, lifespan, middleware and error handlers together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig

from api import handlers, openapi
from api.compat import PREFIX
from api.deps import Services
from api.middleware import BodyLimit, RequestContext
from api.present import Advice
from api.routes import (
    assets,
    batches,
    compat,
    details,
    edits,
    errors,
    estimates,
    events,
    health,
    jobs,
    methods,
    studio,
    uploads,
    usage,
    webhooks,
)
from api.settings import ApiSettings
from api.streams import Streams
from api.watch import Watch
from jobs import traces
from jobs.keys import Keys
from jobs.queue import Bell
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import open_store
from jobs.store_errors import counted_by

ROUTERS = (
    assets,
    batches,
    compat,
    details,
    edits,
    errors,
    estimates,
    events,
    health,
    jobs,
    methods,
    studio,
    uploads,
    usage,
    webhooks,
)
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Prefer", "Refilm-Filename"],
    "expose_headers": ["ETag", "Location", "Retry-After", "X-Request-Id", "Idempotency-Replayed", "Link", "RateLimit"],
    "allow_credentials": False,
    "max_age": 600,
}
"""For pages of the origins that the settings name, which bring a key of their own; cookies play no part."""
TELEMETRY: TelemetryConfig = {
    "auto_configure": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope.get("path", "").startswith(("/healthz", "/metrics")),
}
"""A span for each request where `jobs.traces` is on; FastAPI's own logs of it would hold what callers wrote."""
MOST_FORM_BYTES = 512 << 20  # what is taken in as a form that is held, not streamed
FORM_BYTES = 1 << 16  # what a multipart form may add around its file


def open_services(settings: Settings, api: ApiSettings) -> Services:
    """Connect to records and store; neither needs to be up yet."""
    records = Records(settings)
    store = open_store(settings, counted_by(records))
    return Services(
        settings=settings,
        api=api,
        records=records,
        store=store,
        watch=Watch(records),
        advice=Advice(),
        streams=Streams(api.max_streams),
        bell=Bell(settings),
        keys=Keys(records, store),
    )


def create_app(settings: Settings | None = None, api: ApiSettings | None = None) -> FastAPI:
    """The application; settings come from the environment when they are not given."""
    settings, api = settings or Settings(), api or ApiSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services = await run_in_threadpool(open_services, settings, api)
        services.watch.start()
        yield
        services.watch.close()
        await run_in_threadpool(services.watch.join)
        await run_in_threadpool(traces.end)
        services.records.redis.close()

    app = FastAPI(
        title="Refilm",
        version="1",
        summary="Edit videos by text with any published method.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={**TELEMETRY, "tracer_provider": traces.begin("refilm-api")},
        generate_unique_id_function=lambda route: "_".join(map(str, (*route.tags[:1], route.name))),
    )
    for module in ROUTERS:
        app.include_router(module.ROUTER)
    handlers.install(app)
    openapi.install(app)
    upload = settings.max_upload_bytes + FORM_BYTES
    larger = {
        PREFIX: min(upload, MOST_FORM_BYTES),
        "/v1/uploads": upload,
        "/v1/uploads/": upload,
        "/v1/batches": api.max_batch_bytes,
    }
    app.add_middleware(BodyLimit, max_bytes=api.max_body_bytes, paths=larger)
    app.add_middleware(RequestContext)
    if api.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=api.cors_origins, **CORS)
    return app
