"""Batches after Redis was lost: their records come first, then those of their jobs, then the counts are settled."""

import json
import time

from jobs import batch_manifest, ids
from jobs.batch_records import Batches
from jobs.deliveries import TOLD_SECONDS
from jobs.records import Records
from jobs.states import BatchState
from jobs.store import ObjectMissing, Store


def revive(records: Records, store: Store, newest_ms: float) -> list[str]:
    """Give every batch in the store that is not younger than `newest_ms` its record again.

    Returns the ids that wait for `settle`, those of an earlier recovery that did not come to its end among them.
    """
    waiting = []
    for tenant, batch_id in batch_manifest.each(store):
        if not ids.valid(batch_id, ids.BATCH) or ids.created_ms(batch_id) > newest_ms:
            continue
        if Batches(records).find(batch_id, tenant) is None:
            _revive(records, store, tenant, batch_id)
        if records.ask("HGET", f"{records.prefix}batch:{batch_id}", "settling"):
            waiting.append(batch_id)
    return waiting


def settle(records: Records, waiting: list[str]) -> None:
    """Count what is missing, now that every job in the store has its record again."""
    for batch_id in waiting:
        records.run("batch_settle", batch_id)


def _revive(records: Records, store: Store, tenant: str, batch_id: str) -> None:
    row = batch_manifest.read_ending(store, tenant, batch_id)
    if row is not None:
        if int(row["expires"]) + int(row["keep"]) > time.time() * 1000:
            records.run("batch_restore", batch_id, json.dumps(row), int((time.time() - TOLD_SECONDS) * 1000))
        return
    try:
        accepted = batch_manifest.read(store, tenant, batch_id)
    except ObjectMissing:  # removed since it was listed
        return
    canceled = batch_manifest.marked(store, tenant, batch_id, "canceled")
    whole = batch_manifest.marked(store, tenant, batch_id, "created")
    state = BatchState.CANCELING if canceled else BatchState.RUNNING if whole else BatchState.ACCEPTED
    Batches(records).create(
        accepted,
        created=ids.created_ms(batch_id),
        state=state,
        cursor=accepted.total if whole else 0,
        settling=1,
        **({"cancel": 1} if canceled else {}),
    )
