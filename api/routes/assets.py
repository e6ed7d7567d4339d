"""Files in the store: the ones tenants brought, and the results of jobs."""

from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.content import Content, serve
from api.deps import Caller, Held, Services
from api.errors import Problem
from api.present import asset_view
from api.routes.jobs import JobId
from api.routing import problems, router
from api.views import AssetView
from jobs import layout
from jobs.assets import Assets
from jobs.media import TYPES
from jobs.schema import Asset

ROUTER = router("assets")
AssetId = Annotated[str, Path(description="Id of an asset.", examples=["ast_01k9v3x7q8f4d2m6n0c5b1a7gh"])]
OutputName = Annotated[str, Path(description="Name of one of the job's outputs.", examples=["video.mp4"])]
MEDIA = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes", "content": MEDIA},
    206: {"description": "The range asked for", "content": MEDIA},
    302: {"description": "The store's own address of the bytes"},
    304: {"description": "Unchanged"},
}


class HashRequest(BaseModel):
    """Which content is asked for."""

    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the whole file, in hex.")


def own(held: Services, tenant: str, asset_id: str) -> Asset:
    """The tenant's asset. Raises `not_found`."""
    asset = Assets(held.store).find(tenant, asset_id)
    if asset is None:
        raise Problem("not_found")
    return asset


@ROUTER.post("/v1/assets/from-hash", response_model=AssetView, responses=problems(400, 404, 413))
def asset_from_hash(wanted: HashRequest, held: Held, tenant: Caller) -> AssetView:
    """The asset with this content, if the caller has it already: then nothing needs to be sent. 404 otherwise."""
    asset = Assets(held.store).by_digest(tenant, wanted.sha256)
    if asset is None:
        raise Problem("not_found", "no asset of yours has this content")
    return asset_view(asset)


@ROUTER.get("/v1/assets/{asset_id}", response_model=AssetView, responses=problems(404))
def get_asset(asset_id: AssetId, held: Held, tenant: Caller) -> AssetView:
    """What is known of the asset."""
    return asset_view(own(held, tenant, asset_id))


@ROUTER.delete("/v1/assets/{asset_id}", status_code=204, responses=problems(404, 409))
def delete_asset(asset_id: AssetId, held: Held, tenant: Caller) -> None:
    """Delete the file and what is known of it; refused while a job that has not ended may still read it."""
    asset = own(held, tenant, asset_id)
    users = held.records.uses(tenant, asset_id)
    if users:
        raise Problem("asset_in_use", f"{users} jobs that have not ended use it")
    Assets(held.store).delete(asset)


@ROUTER.get("/v1/assets/{asset_id}/content", response_class=Response, responses=problems(404, 410, 416) | BYTES)
def asset_content(asset_id: AssetId, held: Held, tenant: Caller, request: Request) -> Response:
    """The asset's bytes, whole or a range."""
    asset = own(held, tenant, asset_id)
    key = layout.asset_blob(tenant, asset.sha256)
    return serve(held.store, Content(key, asset.name, asset.media_type, asset.size_bytes, asset.sha256), request)


@ROUTER.get("/v1/jobs/{job_id}/outputs/{name}", response_class=Response, responses=problems(404, 410, 416) | BYTES)
def output_content(job_id: JobId, name: OutputName, held: Held, tenant: Caller, request: Request) -> Response:
    """A result's bytes, whole or a range; 410 once the media has expired."""
    job = held.records.get(job_id, tenant)
    if job.media_gone:
        raise Problem("expired")
    found = next((output for output in job.outputs if output.name == name), None)
    if found is None:
        raise Problem("not_found")
    saved_as = f"{job.method}-{job.id}-{name}"
    return serve(held.store, Content(found.key, saved_as, found.media_type, found.size_bytes, found.sha256), request)
