"""Batches in Redis: what a batch is to its tenant, and the calls that create, read, list and cancel one.

The counts are kept by the scripts that move jobs; reading a batch never reads its jobs.
"""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from jobs.batch_manifest import BatchManifest
from jobs.listing import BadCursor
from jobs.records import IdempotencyReuse, NotFound, Records
from jobs.schema import Progress, from_ms
from jobs.states import BatchState, State

FIELDS = (
    *(
        "tenant",
        "state",
        "version",
        "created",
        "finished",
        "expires",
        "total",
        "cursor",
        "ended",
        "cancel",
        "settling",
        "max_concurrent",
        "swept",
    ),
    *("labels", "metadata", "n:deleted"),
    *(f"n:{state}" for state in State),
)


class Batch(BaseModel):
    """A batch. `created` jobs of `total` exist; `counts` has every state, `deleted` the jobs that are gone since.

    `active_fraction` is the sum of the fractions done of the jobs that run; `cursor` the first job not created yet.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    tenant: str
    version: int
    state: BatchState
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    total: int
    cursor: int
    created: int
    ended: int
    counts: dict[State, int]
    deleted: int
    active_fraction: float = 0.0
    canceled: bool
    swept: int = 0
    """So many of its jobs were looked at by a cancel."""
    settling: bool
    """Its jobs are being rebuilt from the store."""
    matrix: dict[str, JsonValue] | None
    max_concurrent: int | None
    labels: dict[str, str]
    metadata: dict[str, JsonValue]

    @property
    def fraction(self) -> float:
        """Share of the work that is done, counting jobs that run by how far they are."""
        return min(1.0, (self.ended + self.active_fraction) / max(1, self.total))


class Batches:
    """The batches of all tenants. Raises QueueUnavailable when Redis cannot be reached."""

    def __init__(self, records: Records) -> None:
        """Keep batches where these records are."""
        self._records = records
        self._prefix = records.prefix

    def create(self, manifest: BatchManifest, **more: str | int) -> tuple[str, bool]:
        """Create the record of a batch without jobs. Returns its id, or an earlier one's with the same key and True.

        Raises IdempotencyReuse. `more` overrides fields of a record that existed before.
        """
        settings = self._records.settings
        fields: dict[str, str | int] = {
            "tenant": manifest.tenant,
            "total": manifest.total,
            "ttl": int(manifest.ttl_seconds * 1000),
            "keep": int(settings.record_ttl_seconds * 1000),
            "matrix": manifest.matrix.model_dump_json() if manifest.matrix else "",
            "webhook": manifest.webhook.model_dump_json() if manifest.webhook else "",
            "max_concurrent": manifest.max_concurrent or 0,
            "labels": json.dumps(manifest.labels),
            "metadata": json.dumps(manifest.metadata),
        }
        once = manifest.idempotency
        key, digest = (once.key, once.request_hash) if once else ("", "")
        life = int(settings.idempotency_ttl_seconds * 1000)
        answer, value = self._records.run("batch_create", manifest.id, json.dumps(fields | more), key, digest, life)
        if answer == "reuse":
            raise IdempotencyReuse(key)
        return str(value), answer != "created"

    def earlier(self, tenant: str, key: str, request_hash: str) -> str | None:
        """Return the batch that an earlier request with this key made. Raises IdempotencyReuse."""
        known, batch_id = self._records.ask("HMGET", f"{self._prefix}idem:{tenant}:{key}", "hash", "batch")
        if batch_id is None:
            return None
        if known != request_hash:
            raise IdempotencyReuse(key)
        return str(batch_id)

    def find(self, batch_id: str, tenant: str, *, matrix: bool = False) -> Batch | None:
        """Return the batch, or None for an id that is not this tenant's; its matrix only when asked for."""
        names = [*FIELDS, "matrix"] if matrix else FIELDS
        values = self._records.ask("HMGET", self._key(batch_id), *names)
        row: dict[str, str] = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if row.get("tenant") != tenant or "total" not in row:
            return None
        return batch_from(batch_id, row | {"active_fraction": str(self._active_fraction(batch_id))})

    def get(self, batch_id: str, tenant: str, *, matrix: bool = False) -> Batch:
        """Return the batch. Raises NotFound."""
        batch = self.find(batch_id, tenant, matrix=matrix)
        if batch is None:
            raise NotFound(batch_id)
        return batch

    def version(self, batch_id: str, tenant: str) -> int:
        """Return the version alone. Raises NotFound."""
        theirs, version = self._records.ask("HMGET", self._key(batch_id), "tenant", "version")
        if theirs != tenant:
            raise NotFound(batch_id)
        return int(version)

    def page(self, tenant: str, cursor: str | None, limit: int) -> tuple[list[Batch], str | None]:
        """Return batches, newest first, and the cursor of the next page. Raises BadCursor."""
        key = f"{self._prefix}batches:{tenant}"
        start = 0
        if cursor is not None:
            last, created = _decode(cursor)
            rank = self._records.ask("ZREVRANK", key, last)
            start = int(self._records.ask("ZCOUNT", key, created, "+inf")) if rank is None else int(rank) + 1
        ids = [str(found) for found in self._records.ask("ZREVRANGE", key, start, start + limit - 1)]
        found = [(batch_id, self.find(batch_id, tenant)) for batch_id in ids]
        for gone in (batch_id for batch_id, batch in found if batch is None):
            self._records.ask("ZREM", key, gone)
        batches = [batch for _, batch in found if batch is not None]
        more = len(ids) == limit and batches
        return batches, _encode(batches[-1]) if more else None

    def cancel(self, batch_id: str, tenant: str) -> BatchState:
        """Create no more jobs of it; canceling those that exist is `jobs.batch_work.advance`'s. Raises NotFound."""
        answer = self._records.run("batch_cancel", batch_id, tenant)
        if answer == "gone":
            raise NotFound(batch_id)
        return BatchState(answer)

    def unfinished(self) -> list[tuple[str, str]]:
        """Return tenant and id of batches whose jobs are to be created, or canceled."""
        ids = [str(found) for found in self._records.ask("SMEMBERS", f"{self._prefix}batches:todo")]
        tenants = [(self._records.ask("HGET", self._key(batch_id), "tenant"), batch_id) for batch_id in sorted(ids)]
        for batch_id in (batch_id for tenant, batch_id in tenants if tenant is None):
            self.done(batch_id)
        return [(tenant, batch_id) for tenant, batch_id in tenants if tenant is not None]

    def done(self, batch_id: str) -> None:
        """Note that nothing is to be created or canceled any more."""
        self._records.ask("SREM", f"{self._prefix}batches:todo", batch_id)

    def _active_fraction(self, batch_id: str) -> float:
        ids = self._records.ask("SMEMBERS", f"{self._key(batch_id)}:active")
        told = [self._records.ask("HGET", f"{self._prefix}job:{job_id}", "progress") for job_id in ids]
        return sum(Progress.model_validate_json(text).fraction for text in told if text)

    def _key(self, batch_id: str) -> str:
        return f"{self._prefix}batch:{batch_id}"


def batch_from(batch_id: str, row: dict[str, str]) -> Batch:
    """Build the batch of a hash."""
    counts = {state: int(row.get(f"n:{state}", 0)) for state in State}
    deleted, total = int(row.get("n:deleted", 0)), int(row["total"])
    plain: dict[str, Any] = {name: int(row.get(name) or 0) for name in ("version", "cursor", "ended", "swept")}
    texts: dict[str, Any] = {name: json.loads(row.get(name) or "{}") for name in ("labels", "metadata")}
    return Batch(
        id=batch_id,
        tenant=row["tenant"],
        state=BatchState(row["state"]),
        created_at=datetime.fromtimestamp(int(row["created"]) / 1000, UTC),
        finished_at=from_ms(int(row.get("finished") or 0)),
        expires_at=from_ms(int(row.get("expires") or 0)),
        total=total,
        created=min(total, sum(counts.values()) + deleted),
        counts=counts,
        deleted=deleted,
        active_fraction=float(row.get("active_fraction") or 0),
        canceled=row.get("cancel") == "1",
        max_concurrent=int(row.get("max_concurrent") or 0) or None,
        settling=row.get("settling") == "1",
        matrix=json.loads(row["matrix"]) if row.get("matrix") else None,
        **plain,
        **texts,
    )


def _encode(batch: Batch) -> str:
    position = json.dumps([batch.id, round(batch.created_at.timestamp() * 1000)])
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[str, int]:
    try:
        match json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))):
            case [str(batch_id), int(created)]:
                return batch_id, created
    except (binascii.Error, ValueError) as error:
        raise BadCursor(cursor) from error
    raise BadCursor(cursor)
