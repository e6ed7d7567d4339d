"""Rebuild records from the store: after Redis was lost, and for manifests whose record was never written."""

import time
from dataclasses import dataclass

from jobs import batch_recovery, ids, manifest
from jobs.deliveries import TOLD_SECONDS
from jobs.manifest import Manifest
from jobs.queue import Bell
from jobs.records import BatchCanceled, IdempotencyReuse, Records
from jobs.states import State
from jobs.store import ObjectMissing, Store
from jobs.submission import create_from, ring

EPOCH = "epoch"


@dataclass
class Recovered:
    """How many jobs were queued again, restored as ended, or swept because another job took their place."""

    queued: int = 0
    restored: int = 0
    swept: int = 0


def forgotten(records: Records) -> bool:
    """True until `recover` has run on this Redis: it is new, or it was wiped. Raises QueueUnavailable."""
    return not records.ask("EXISTS", records.prefix + EPOCH)


def remember(records: Records) -> None:
    """Note that Redis agrees with the store from here on. Raises QueueUnavailable."""
    records.ask("SET", records.prefix + EPOCH, int(time.time() * 1000), "NX")


def recover(records: Records, store: Store, bell: Bell, *, older_than_seconds: float = 0.0) -> Recovered:
    """Give every manifest in the store its record again. Safe at any time, also while the service runs.

    Manifests younger than `older_than_seconds` may belong to a request under way and are left alone. Raises
    QueueUnavailable and StoreUnavailable; repeating continues.
    """
    done = Recovered()
    newest = (time.time() - older_than_seconds) * 1000
    batches = batch_recovery.revive(records, store, newest)
    for tenant, job_id, _ in manifest.each(store):
        if not ids.valid(job_id, ids.JOB) or ids.created_ms(job_id) > newest or records.known(job_id):
            continue
        _revive(records, store, bell, (tenant, job_id), done)
    batch_recovery.settle(records, batches)
    remember(records)
    return done


def _revive(records: Records, store: Store, bell: Bell, job: tuple[str, str], done: Recovered) -> None:
    try:
        accepted = manifest.read(store, *job)
    except ObjectMissing:  # deleted since it was listed
        return
    row = manifest.read_ending(store, *job)
    if row is not None:
        done.restored += _restore(records, accepted, row)
    elif _queue_again(records, bell, accepted):
        done.queued += 1
    else:
        manifest.remove(store, *job)
        done.swept += 1


def _restore(records: Records, accepted: Manifest, row: dict[str, str]) -> bool:
    if int(row["expires"]) + int(row["keep"]) <= time.time() * 1000:
        return False
    whole = {name: int(float(row[name])) for name in ("created", "expires", "keep")}
    return records.restore(accepted.id, row | whole, accepted.idempotency, time.time() - TOLD_SECONDS)


def _queue_again(records: Records, bell: Bell, accepted: Manifest) -> bool:
    # Fences of the lost record are small numbers; starting at the clock keeps its old owners and outputs apart.
    born: dict[str, int | str] = {"created": ids.created_ms(accepted.id), "fence": int(time.time())}
    try:
        created = create_from(accepted, records, born=born)
    except (IdempotencyReuse, BatchCanceled):
        return False
    if created.job.id != accepted.id:
        return False
    if created.job.state == State.QUEUED:
        ring(created.job, records, bell)
    return True
