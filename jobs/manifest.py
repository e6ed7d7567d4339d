"""What the store keeps about a job: the manifest before the record exists, and the record after the job has ended.

Together they rebuild everything when Redis is lost: a job with an ending is restored, one without is queued again.
"""

import json
from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from jobs import layout
from jobs.batch import BatchPlace
from jobs.forecast import Forecast, expect
from jobs.origin import Origin
from jobs.records import Idempotency, Records
from jobs.request import JobRequest
from jobs.rows import SCHEMA_VERSION
from jobs.schema import Asset
from jobs.store import ObjectInfo, ObjectMissing, Store
from jobs.workload import ClipFacts


class InputFile(BaseModel):
    """An input as accepted: where its bytes are does not depend on the asset's metadata any more."""

    model_config = ConfigDict(frozen=True)

    asset: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    clip: ClipFacts = ClipFacts()

    @classmethod
    def of(cls, asset: Asset) -> Self:
        """Keep what is known of an asset."""
        return cls(
            asset=asset.id,
            name=asset.name,
            media_type=asset.media_type,
            size_bytes=asset.size_bytes,
            sha256=asset.sha256,
            clip=ClipFacts.model_validate(asset.facts),
        )


class Manifest(BaseModel):
    """The accepted request with everything needed to run it."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    id: str
    tenant: str
    pool: str
    retry_of: str = ""
    batch: BatchPlace | None = None
    group_limit: int = 0
    idempotency_key: str = ""
    request_hash: str = ""
    request_id: str = ""
    traceparent: str = ""
    request: JobRequest
    inputs: dict[str, InputFile]
    forecast: Forecast | None = None

    @property
    def pending(self) -> dict[str, str]:
        """Addresses of inputs that are not fetched yet, by input name."""
        return {name: url for name, url in self.request.urls().items() if name not in self.inputs}

    @property
    def idempotency(self) -> Idempotency | None:
        """The caller's key, if there was one."""
        return Idempotency(self.idempotency_key, self.request_hash) if self.idempotency_key else None

    @property
    def born(self) -> dict[str, int | str]:
        """What the record holds beside the request: for the scripts that count and take turns, and for readers."""
        fields: dict[str, int | str] = {**Origin(self.request_id, self.traceparent).fields()}
        if self.batch is not None:
            fields |= {"batch": self.batch.id, "group": self.batch.id}
            fields |= {"group_limit": self.group_limit, "place": self.batch.model_dump_json()}
        if self.forecast is not None:
            fields["forecast"] = self.forecast.model_dump_json(exclude_defaults=True)
            fields |= {"expected": int(self.forecast.seconds * 1000)} if self.forecast.seconds is not None else {}
        return fields

    def foreseen(self, records: Records) -> Self:
        """The same with what is expected of it. Raises QueueUnavailable."""
        return self.model_copy(update={"forecast": expect(records, self)})


def write(store: Store, manifest: Manifest) -> bool:
    """Write the manifest; False when this id has one already."""
    key = layout.manifest(manifest.tenant, manifest.id)
    data = manifest.model_dump_json().encode()
    return store.put_bytes(key, data, if_none_match=True, media_type="application/json")


def complete(store: Store, manifest: Manifest, fetched: dict[str, InputFile]) -> None:
    """Write down where fetched inputs lie; from here on the job needs their addresses no more."""
    whole = manifest.model_copy(update={"inputs": manifest.inputs | fetched})
    key = layout.manifest(manifest.tenant, manifest.id)
    store.put_bytes(key, whole.model_dump_json().encode(), media_type="application/json")


def read(store: Store, tenant: str, job_id: str) -> Manifest:
    """Return the manifest. Raises ObjectMissing."""
    return Manifest.model_validate_json(store.get_bytes(layout.manifest(tenant, job_id)))


def each(store: Store, prefix: str = "jobs/") -> Iterator[tuple[str, str, ObjectInfo]]:
    """Yield tenant, job id and facts of every manifest below the prefix, oldest job first within a tenant."""
    for info in store.list(prefix):
        parts = info.key.split("/")
        if len(parts) == 4 and parts[3] == "manifest.json":
            yield parts[1], parts[2], info


def write_ending(store: Store, tenant: str, job_id: str, row: dict[str, str]) -> None:
    """Keep the hash of an ended job, as Redis has it."""
    store.put_bytes(layout.ending(tenant, job_id), json.dumps(row).encode(), media_type="application/json")


def read_ending(store: Store, tenant: str, job_id: str) -> dict[str, Any] | None:
    """Return the hash of an ended job, or None when the job had not ended."""
    try:
        row: dict[str, Any] = json.loads(store.get_bytes(layout.ending(tenant, job_id)))
    except ObjectMissing:
        return None
    return row


def remove(store: Store, tenant: str, job_id: str) -> None:
    """Remove everything the store has of a job; the manifest goes first, so that nothing brings the job back."""
    store.delete(layout.manifest(tenant, job_id))
    store.delete_prefix(layout.job_folder(tenant, job_id))
    store.delete_prefix(layout.outputs_folder(tenant, job_id))
