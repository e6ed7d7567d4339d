"""From an announced upload to an asset: what was sent is checked as if it had come through the API itself."""

import hashlib
from pathlib import Path

from api.deps import Services
from api.errors import Problem
from api.receive import spooled
from jobs import direct, layout
from jobs.assets import Assets
from jobs.media import MediaRefused, limits_of, media_type_of, probe
from jobs.request import JobRequest
from jobs.schema import Asset
from jobs.store import ObjectMissing
from jobs.uploads import Upload, Uploads


def keep(held: Services, tenant: str, path: Path, *, name: str, media_type: str, digest: str) -> Asset:
    """Probe the file and put it into the store, unless it is there. Raises MediaRefused; nothing is left then."""
    assets = Assets(held.store)
    known = assets.by_digest(tenant, digest)
    if known is not None:
        return known
    facts = probe(path, limits_of(held.settings))
    return assets.add(tenant, path, name=name, media_type=media_type, sha256=digest, facts=facts)


def completed(held: Services, tenant: str, upload_id: str) -> Asset:
    """The asset that an upload became; completing again answers the same. Raises a `Problem`.

    A file that may not be used is removed with its upload.
    """
    uploads = Uploads(held.store, held.settings)
    upload = uploads.find(tenant, upload_id)
    if upload is None:
        raise Problem("not_found", "no upload of yours has this id")
    known = Assets(held.store).find(tenant, upload.asset) if upload.asset else None
    if known is not None:
        return known
    check_arrived(held, upload)
    try:
        asset = taken(held, upload)
    except (Problem, MediaRefused):
        uploads.drop(upload)
        raise
    uploads.became(upload, asset.id)
    return asset


def check_arrived(held: Services, upload: Upload) -> None:
    """That the whole file is in the store. Raises `state_conflict` until it is, `hash_mismatch` for another size."""
    key = layout.upload_file(upload.tenant, upload.id)
    info = held.store.head(key)
    if info is None and upload.multipart and direct.assemble(held.store, key, upload.multipart):
        info = held.store.head(key)
    if info is None:
        raise Problem("state_conflict", "the file has not been sent yet", hint="send it, then complete the upload")
    if info.size_bytes != upload.size_bytes:
        Uploads(held.store, held.settings).drop(upload)
        raise Problem("hash_mismatch", f"{info.size_bytes} bytes came, {upload.size_bytes} were announced")


def taken(held: Services, upload: Upload) -> Asset:
    """The asset of a file that has arrived. Raises `hash_mismatch` and MediaRefused."""
    digest = hashlib.sha256()
    with spooled(held.settings.data_dir / "incoming") as spool:
        try:
            for chunk in held.store.read(layout.upload_file(upload.tenant, upload.id)):
                digest.update(chunk)
                spool.file.write(chunk)
        except ObjectMissing:
            raise Problem("state_conflict", "the file was sent, but is gone") from None
        spool.file.flush()
        found = digest.hexdigest()
        if upload.sha256 and upload.sha256 != found:
            raise Problem("hash_mismatch", f"the content has sha256 {found}")
        media_type = media_type_of(spool.path)
        return keep(held, upload.tenant, spool.path, name=upload.name, media_type=media_type, digest=found)


def with_assets(request: JobRequest, held: Services, tenant: str) -> JobRequest:
    """The request with every upload it names completed and replaced by its asset. Raises what `completed` does."""
    given = set(request.uploads().values())
    return request.with_assets({one: completed(held, tenant, one).id for one in given}) if given else request
