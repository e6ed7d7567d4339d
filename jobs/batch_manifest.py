"""What the store keeps about a batch: what was asked for before any of its jobs exists, and marks of how far it came.

From the manifest and the marks everything else is rebuilt when Redis, or the process that creates the jobs, is lost.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from jobs import ids, layout, routing
from jobs.batch import BatchMatrix, Lines, Plan
from jobs.manifest import InputFile, Manifest
from jobs.records import Idempotency, Records
from jobs.request import WebhookRef
from jobs.store import ObjectMissing, Store

Mark = Literal["created", "canceled"]
"""`created`: all jobs exist, one that is missing was deleted. `canceled`: no more are to be created."""


class BatchManifest(BaseModel):
    """The accepted batch. A list of edits lies beside it as `items.ndjson`; `inputs` are its assets by id."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    id: str
    tenant: str
    total: int
    ttl_seconds: float
    idempotency_key: str = ""
    request_hash: str = ""
    matrix: BatchMatrix | None = None
    webhook: WebhookRef | None = None
    max_concurrent: int | None = None
    labels: dict[str, str] = {}
    metadata: dict[str, JsonValue] = {}
    request_id: str = ""
    traceparent: str = ""
    inputs: dict[str, InputFile]

    @property
    def idempotency(self) -> Idempotency | None:
        """The caller's key, if there was one."""
        return Idempotency(self.idempotency_key, self.request_hash) if self.idempotency_key else None

    def job(self, plan: Plan, index: int, records: Records) -> Manifest:
        """Return the manifest of one of its jobs."""
        request = plan.request(index)
        job = Manifest(
            id=ids.numbered(ids.JOB, self.id, index),
            tenant=self.tenant,
            pool=routing.pool_for(request, records),
            batch=plan.place(self.id, index),
            group_limit=self.max_concurrent or 0,
            request=request,
            request_id=self.request_id,
            traceparent=self.traceparent,
            inputs={name: self.inputs[asset] for name, asset in request.assets().items()},
        )
        return job.foreseen(records)


def write(store: Store, manifest: BatchManifest, lines: bytes | None) -> None:
    """Write the list of edits, if it is one, and then the manifest: a manifest is whole."""
    folder = layout.batch_folder(manifest.tenant, manifest.id)
    if lines is not None:
        store.put_bytes(f"{folder}items.ndjson", lines, media_type="application/x-ndjson")
    store.put_bytes(f"{folder}manifest.json", manifest.model_dump_json().encode(), media_type="application/json")


def read(store: Store, tenant: str, batch_id: str) -> BatchManifest:
    """Return the manifest. Raises ObjectMissing."""
    return BatchManifest.model_validate_json(store.get_bytes(f"{layout.batch_folder(tenant, batch_id)}manifest.json"))


def plan_of(store: Store, manifest: BatchManifest) -> Plan:
    """Return the jobs of a batch. Raises ObjectMissing."""
    if manifest.matrix is not None:
        return manifest.matrix
    return Lines(store.get_bytes(f"{layout.batch_folder(manifest.tenant, manifest.id)}items.ndjson"))


def each(store: Store, prefix: str = "batches/") -> Iterator[tuple[str, str]]:
    """Yield tenant and id of every batch in the store."""
    for info in store.list(prefix):
        parts = info.key.split("/")
        if len(parts) == 4 and parts[3] == "manifest.json":
            yield parts[1], parts[2]


def mark(store: Store, tenant: str, batch_id: str, what: Mark) -> None:
    """Note how far the batch came."""
    store.put_bytes(f"{layout.batch_folder(tenant, batch_id)}{what}", b"")


def marked(store: Store, tenant: str, batch_id: str, what: Mark) -> bool:
    """True when the batch came so far."""
    return store.head(f"{layout.batch_folder(tenant, batch_id)}{what}") is not None


def write_ending(store: Store, tenant: str, batch_id: str, row: dict[str, str]) -> None:
    """Keep the hash of an ended batch, as Redis has it."""
    store.put_bytes(f"{layout.batch_folder(tenant, batch_id)}end.json", json.dumps(row).encode())


def read_ending(store: Store, tenant: str, batch_id: str) -> dict[str, Any] | None:
    """Return the hash of an ended batch, or None when it had not ended."""
    try:
        row: dict[str, Any] = json.loads(store.get_bytes(f"{layout.batch_folder(tenant, batch_id)}end.json"))
    except ObjectMissing:
        return None
    return row


def remove(store: Store, tenant: str, batch_id: str) -> None:
    """Remove what the store has of the batch itself; its jobs have a life of their own."""
    folder = layout.batch_folder(tenant, batch_id)
    store.delete(f"{folder}manifest.json")
    store.delete_prefix(folder)
