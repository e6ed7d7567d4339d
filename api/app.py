"""The web application: `create_app()` puts routers, lifespan, middleware and error handlers together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from api import handlers, openapi
from api.deps import Services
from api.middleware import BodyLimit, RequestContext
from api.present import Advice
from api.routes import assets, edits, errors, events, health, jobs, methods, studio, uploads
from api.settings import ApiSettings
from api.streams import Streams
from api.watch import Watch
from jobs.queue import Bell
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import open_store

ROUTERS = (methods, uploads, assets, edits, jobs, events, errors, health, studio)
FORM_BYTES = 1 << 16  # what a multipart form may add around its file


def open_services(settings: Settings, api: ApiSettings) -> Services:
    """Connect to records and store; neither needs to be up yet."""
    records = Records(settings)
    return Services(
        settings=settings,
        api=api,
        records=records,
        store=open_store(settings),
        watch=Watch(records),
        advice=Advice(),
        streams=Streams(api.max_streams),
        bell=Bell(settings),
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
        services.records.redis.close()

    app = FastAPI(
        title="Refilm",
        version="1",
        summary="Edit videos by text with any published method.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in ROUTERS:
        app.include_router(module.ROUTER)
    handlers.install(app)
    openapi.install(app)
    limits = {"max_bytes": api.max_body_bytes, "max_upload_bytes": settings.max_upload_bytes + FORM_BYTES}
    app.add_middleware(BodyLimit, upload_path="/v1/uploads", **limits)
    app.add_middleware(RequestContext)
    return app
