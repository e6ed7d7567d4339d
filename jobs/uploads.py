"""Files on their way in, sent past the API or in one signed PUT: what was announced, and what became of it.

Everything lies in the store below one folder an upload, so that nothing of it is lost with Redis; what was not
finished in time is swept by its age, which its id tells.
"""

import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from jobs import direct, ids, layout
from jobs.direct import Ticket
from jobs.settings import Settings
from jobs.store import ObjectMissing, Store


class Upload(BaseModel):
    """What a caller announced. `asset` is what it became; `token_digest` opens the signed PUT of a local store."""

    model_config = ConfigDict(frozen=True)

    id: str
    tenant: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str = ""
    created_at: datetime
    expires_at: datetime
    multipart: str = ""
    token_digest: str = ""
    asset: str = ""


class Uploads:
    """The uploads of all tenants. Raises StoreUnavailable."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Keep uploads in this store."""
        self._store, self._settings = store, settings

    def begin(
        self, tenant: str, *, name: str, media_type: str, size_bytes: int, sha256: str
    ) -> tuple[Upload, Ticket | None, str]:
        """Announce a file. Returns the upload, how to send it to the store, and without that the token of a PUT."""
        upload_id, now, life = ids.new(ids.UPLOAD), datetime.now(UTC), self._settings.upload_ttl_seconds
        ticket = direct.ticket(
            self._store,
            layout.upload_file(tenant, upload_id),
            size_bytes=size_bytes,
            media_type=media_type,
            part_bytes=self._settings.upload_part_bytes,
            seconds=int(life),
        )
        token = "" if ticket else secrets.token_urlsafe(32)
        upload = Upload(
            id=upload_id,
            tenant=tenant,
            name=name,
            media_type=media_type,
            size_bytes=size_bytes,
            sha256=sha256,
            created_at=now,
            expires_at=now + timedelta(seconds=life),
            multipart=ticket.multipart if ticket else "",
            token_digest=_digest(token) if token else "",
        )
        self._write(upload)
        return upload, ticket, token

    def find(self, tenant: str, upload_id: str) -> Upload | None:
        """Return the tenant's upload, or None."""
        if not ids.valid(upload_id, ids.UPLOAD):
            return None
        try:
            return Upload.model_validate_json(self._store.get_bytes(layout.upload_record(tenant, upload_id)))
        except ObjectMissing:
            return None

    def opened(self, tenant: str, upload_id: str, token: str) -> Upload | None:
        """Return the upload that this token may still write, or None."""
        upload = self.find(tenant, upload_id)
        if upload is None or not upload.token_digest or upload.expires_at <= datetime.now(UTC):
            return None
        return upload if hmac.compare_digest(upload.token_digest, _digest(token)) else None

    def became(self, upload: Upload, asset_id: str) -> None:
        """Note the asset; the file as it was sent is not needed any more."""
        self._write(upload.model_copy(update={"asset": asset_id}))
        self._store.delete(layout.upload_file(upload.tenant, upload.id))

    def drop(self, upload: Upload) -> None:
        """Forget the upload and what came of its file."""
        self._store.delete_prefix(layout.upload_folder(upload.tenant, upload.id))

    def sweep(self) -> int:
        """Remove what is past its life: records, files, and parts that were never made a file. Returns how many."""
        before = (time.time() - self._settings.upload_ttl_seconds) * 1000

        def old(key: str) -> bool:
            upload_id = key.split("/")[2]
            return ids.valid(upload_id, ids.UPLOAD) and ids.created_ms(upload_id) < before

        folders = {info.key.rpartition("/")[0] + "/" for info in self._store.list("uploads/") if old(info.key)}
        for folder in folders:
            self._store.delete_prefix(folder)
        return len(folders) + direct.abandon(self._store, "uploads/", old)

    def _write(self, upload: Upload) -> None:
        key = layout.upload_record(upload.tenant, upload.id)
        self._store.put_bytes(key, upload.model_dump_json().encode(), media_type="application/json")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
