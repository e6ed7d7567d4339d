"""Bring a file: in one streaming request, or announced first and sent straight to the store."""

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.deps import Caller, Held, Services
from api.errors import Problem
from api.present import asset_view
from api.receive import receive, spooled
from api.routing import problems, router, strict_json
from api.uploading import completed, keep
from api.views import AssetView, PartView, UploadView
from jobs import layout
from jobs.media import TYPES, clean_name
from jobs.quotas import admit_bytes
from jobs.uploads import Uploads

ROUTER = router("assets")
UploadId = Annotated[str, Path(description="Id of an upload.", examples=["upl_01k9v3x7q8f4d2m6n0c5b1a7gh"])]
Token = Annotated[str, Query(max_length=200, description="Part of the address that the upload was answered with.")]
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}}


class UploadRequest(BaseModel):
    """Announces a file that is sent straight to the store."""

    model_config = ConfigDict(extra="forbid")

    size_bytes: int = Field(gt=0, description="Size of the file.")
    name: str = Field(default="", max_length=1024, description="What it is called; metadata only.")
    media_type: str = Field(default="video/mp4", description="What it is; the content itself is looked at too.")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Its digest, checked when it is there.")


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, a multipart form with a part called `file`, or JSON that announces a file.",
        "content": {
            "application/octet-stream": BINARY,
            "video/mp4": BINARY,
            "multipart/form-data": FORM,
            "application/json": {"schema": UploadRequest.model_json_schema()},
        },
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


async def announced(request: Request) -> UploadRequest:
    """The JSON body. Raises as every other body does."""
    try:
        return UploadRequest.model_validate(strict_json(await request.body()))
    except json.JSONDecodeError as error:
        raise Problem("malformed_json", error.msg) from None
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(found) from None


def begin(held: Services, tenant: str, wanted: UploadRequest) -> UploadView:
    """Announce the file: where to send it, and until when. Raises `upload_too_large`, `unsupported_media`."""
    most = held.settings.max_upload_bytes
    if wanted.size_bytes > most:
        raise Problem("upload_too_large", f"at most {most} bytes are accepted")
    if wanted.media_type not in TYPES:
        raise Problem("unsupported_media", f"{wanted.media_type!r} is not one of {', '.join(TYPES)}")
    admit_bytes(held.records, held.store, tenant, wanted.size_bytes)
    upload, ticket, token = Uploads(held.store, held.settings).begin(
        tenant,
        name=clean_name(wanted.name),
        media_type=wanted.media_type,
        size_bytes=wanted.size_bytes,
        sha256=wanted.sha256,
    )
    self_url = f"/v1/uploads/{upload.id}"
    return UploadView(
        id=upload.id,
        name=upload.name,
        media_type=upload.media_type,
        size_bytes=upload.size_bytes,
        expires_at=upload.expires_at,
        method=ticket.method if ticket else "PUT",
        url=(ticket.url or None) if ticket else f"{self_url}/content?tenant={tenant}&token={token}",
        fields=dict(ticket.fields) if ticket else {},
        parts=tuple(PartView(**asdict(part)) for part in ticket.parts) if ticket else (),
        urls={"complete": f"{self_url}/complete"},
    )


@ROUTER.post(
    "/v1/uploads",
    status_code=201,
    response_model=AssetView | UploadView,
    responses=problems(400, 413, 415),
    openapi_extra=BODY,
)
async def upload(request: Request, held: Held, tenant: Caller, response: Response) -> AssetView | UploadView:
    """Take in one file and answer with its asset, or, for JSON, answer where to send the file.

    The same content again is the same asset. A file is checked before it becomes an asset, whichever way it came.
    """
    more = int(request.headers.get("content-length") or 0)
    await run_in_threadpool(admit_bytes, held.records, held.store, tenant, more)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        begun = await run_in_threadpool(begin, held, tenant, await announced(request))
        response.headers["Location"] = begun.urls["complete"]
        return begun
    with spooled(held.settings.data_dir / "incoming") as spool:
        await receive(request, spool)
        facts = {"name": spool.name, "media_type": spool.media_type, "digest": spool.digest.hexdigest()}
        asset = await run_in_threadpool(lambda: keep(held, tenant, spool.path, **facts))
    response.headers["Location"] = f"/v1/assets/{asset.id}"
    return asset_view(asset)


@ROUTER.put(
    "/v1/uploads/{upload_id}/content",
    status_code=204,
    response_class=Response,
    responses=problems(400, 409, 413, 415),
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}},
)
async def put_content(
    upload_id: UploadId,
    request: Request,
    held: Held,
    token: Token = "",
    tenant: Annotated[str, Query(max_length=64)] = "",
) -> None:
    """Send an announced file. The address is the key: it is good for this file alone, until the upload expires."""
    uploads = Uploads(held.store, held.settings)
    try:
        found = await run_in_threadpool(uploads.opened, tenant, upload_id, token)
    except ValueError:
        found = None
    if found is None:
        raise Problem("unauthorized", "the address is not one that an upload was answered with")
    with spooled(held.settings.data_dir / "incoming") as spool:
        await receive(request, spool)
        if spool.size_bytes != found.size_bytes:
            raise Problem("hash_mismatch", f"{spool.size_bytes} bytes came, {found.size_bytes} were announced")
        key = layout.upload_file(tenant, upload_id)
        await run_in_threadpool(lambda: held.store.put_file(key, spool.path, media_type=found.media_type))


@ROUTER.post("/v1/uploads/{upload_id}/complete", response_model=AssetView, responses=problems(400, 404, 409, 413, 415))
def complete(upload_id: UploadId, held: Held, tenant: Caller) -> AssetView:
    """Check the file that was sent, and answer with the asset it became. Repeating it is harmless."""
    return asset_view(completed(held, tenant, upload_id))
