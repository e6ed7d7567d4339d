"""Bring a file: one streaming request."""

from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from api.deps import Caller, Held, Services
from api.present import asset_view
from api.receive import Spool, receive, spooled
from api.routing import problems, router
from api.views import AssetView
from jobs.assets import Assets
from jobs.media import limits_of, probe
from jobs.schema import Asset

ROUTER = router("assets")
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, or a multipart form with a part called `file`.",
        "content": {"application/octet-stream": BINARY, "video/mp4": BINARY, "multipart/form-data": FORM},
    },
    "parameters": [
        {
            "name": "Refilm-Filename",
            "in": "header",
            "required": False,
            "description": "What the file is called, percent-encoded; metadata only.",
            "schema": {"type": "string", "maxLength": 1024},
        }
    ],
}


def keep(held: Services, tenant: str, spool: Spool) -> Asset:
    """Probe the file and put it into the store, unless it is there. Raises MediaRefused; nothing is left then."""
    assets, digest = Assets(held.store), spool.digest.hexdigest()
    known = assets.by_digest(tenant, digest)
    if known is not None:
        return known
    facts = probe(spool.path, limits_of(held.settings))
    return assets.add(tenant, spool.path, name=spool.name, media_type=spool.media_type, sha256=digest, facts=facts)


@ROUTER.post(
    "/v1/uploads",
    status_code=201,
    response_model=AssetView,
    responses=problems(400, 413, 415),
    openapi_extra=BODY,
)
async def upload(request: Request, held: Held, tenant: Caller, response: Response) -> AssetView:
    """Take in one file, check it, and answer with the asset it became; the same content again is the same asset."""
    with spooled(held.settings.data_dir / "incoming") as spool:
        await receive(request, spool)
        asset = await run_in_threadpool(keep, held, tenant, spool)
    response.headers["Location"] = f"/v1/assets/{asset.id}"
    return asset_view(asset)
