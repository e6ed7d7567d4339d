"""Files that tenants bring. Bytes lie under their digest, once per tenant; metadata beside them in the store."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256 as hasher
from pathlib import Path

from pydantic import JsonValue

from jobs import ids, layout
from jobs.schema import Asset
from jobs.store import CHUNK_BYTES, ObjectMissing, Store


class Assets:
    """The assets of all tenants, each visible to its own tenant only."""

    def __init__(self, store: Store) -> None:
        """Keep assets in this store."""
        self._store = store

    def add(
        self,
        tenant: str,
        path: Path,
        *,
        name: str,
        media_type: str,
        sha256: str = "",
        facts: dict[str, JsonValue] | None = None,
    ) -> Asset:
        """Keep a file; the same content again gives the same asset. `name` is metadata only, never a path.

        `sha256` saves a second reading where the caller has hashed already; `facts` are what a probe found.
        """
        digest = sha256 or digest_of(path)
        known = self.by_digest(tenant, digest)
        if known is not None:
            return known
        asset = Asset(
            id=ids.new(ids.ASSET),
            name=name,
            media_type=media_type,
            size_bytes=path.stat().st_size,
            sha256=digest,
            created_at=datetime.now(UTC),
            facts=facts or {},
            tenant=tenant,
        )
        data = asset.model_dump_json().encode()
        self._store.put_file(layout.asset_blob(tenant, digest), path, if_none_match=True, media_type=media_type)
        self._store.put_bytes(layout.asset_meta(tenant, asset.id), data, media_type="application/json")
        if not self._store.put_bytes(layout.asset_by_digest(tenant, digest), data, if_none_match=True):
            self._store.delete(layout.asset_meta(tenant, asset.id))  # an upload of the same content was faster
            return self.by_digest(tenant, digest) or asset
        return asset

    def find(self, tenant: str, asset_id: str) -> Asset | None:
        """Return the asset, or None for an id that is not this tenant's."""
        if not ids.valid(asset_id, ids.ASSET):
            return None
        return self._load(tenant, layout.asset_meta(tenant, asset_id))

    def by_digest(self, tenant: str, sha256: str) -> Asset | None:
        """Return the tenant's asset with this content, or None."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            return None
        return self._load(tenant, layout.asset_by_digest(tenant, sha256))

    def read(self, asset: Asset, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the asset's bytes."""
        return self._store.read(layout.asset_blob(asset.tenant, asset.sha256), start, end)

    def delete(self, asset: Asset) -> None:
        """Forget the asset and its bytes."""
        self._store.delete(layout.asset_by_digest(asset.tenant, asset.sha256))
        self._store.delete(layout.asset_meta(asset.tenant, asset.id))
        self._store.delete(layout.asset_blob(asset.tenant, asset.sha256))

    def _load(self, tenant: str, key: str) -> Asset | None:
        try:
            data = self._store.get_bytes(key)
        except ObjectMissing:
            return None
        return Asset.model_validate(json.loads(data) | {"tenant": tenant})


def digest_of(path: Path) -> str:
    """Return the file's sha256 in hex."""
    digest = hasher()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
