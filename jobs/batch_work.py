"""The work on a batch: accept it, create its jobs, cancel them.

Accepting writes the manifest and the record, nothing else; `advance` then creates the jobs in chunks. Whoever finds an
unfinished batch advances it: the request that brought it, and the scheduler when that request did not come to an end.
Ids of jobs follow from the batch and their number, so doing a chunk twice does it once.
"""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jobs import batch_manifest, ids, manifest
from jobs.assets import Assets
from jobs.batch_manifest import BatchManifest
from jobs.batch_records import Batch, Batches
from jobs.locks import Lock
from jobs.manifest import Manifest
from jobs.queue import Bell
from jobs.records import Records
from jobs.rows import creation_fields
from jobs.schema import Asset
from jobs.states import BatchState
from jobs.store import Store

CHUNK = 200
WRITERS = 8
LOCK_SECONDS = 60.0
TENDED = 50


@dataclass(frozen=True)
class Engine:
    """What is needed to create jobs."""

    records: Records
    store: Store
    bell: Bell


def assets_of(store: Store, tenant: str, asset_ids: set[str]) -> dict[str, Asset | None]:
    """Return what is known of many assets, None for those the tenant does not have. Raises StoreUnavailable."""
    assets, names = Assets(store), sorted(asset_ids)
    with ThreadPoolExecutor(WRITERS) as pool:
        return dict(zip(names, pool.map(lambda asset: assets.find(tenant, asset), names), strict=True))


def accept(engine: Engine, accepted: BatchManifest, lines: bytes | None) -> tuple[str, bool]:
    """Make a batch durable. Returns its id, or an earlier one's with the same key and True.

    Raises IdempotencyReuse, QueueUnavailable and StoreUnavailable; then nothing is left.
    """
    engine.records.ping()
    batch_manifest.write(engine.store, accepted, lines)
    try:
        batch_id, replayed = Batches(engine.records).create(accepted)
    except Exception:
        batch_manifest.remove(engine.store, accepted.tenant, accepted.id)
        raise
    if replayed:
        batch_manifest.remove(engine.store, accepted.tenant, accepted.id)
    return batch_id, replayed


def advance(engine: Engine, tenant: str, batch_id: str, seconds: float) -> bool:
    """Create or cancel jobs of a batch for about so long. True when there is nothing left to do.

    Only one process at a time does this for a batch; to the others there is nothing done, and False.
    """
    lock = Lock(engine.records, f"batch:{batch_id}", secrets.token_hex(8), LOCK_SECONDS)
    if not lock.take():
        return False
    try:
        return _advance(engine, tenant, batch_id, lock, time.monotonic() + seconds)
    finally:
        lock.free()


def _advance(engine: Engine, tenant: str, batch_id: str, lock: Lock, until: float) -> bool:
    batches = Batches(engine.records)
    batch = batches.find(batch_id, tenant)
    if batch is not None and not batch.canceled and not batch.state.terminal:
        if batch.settling or not _create_jobs(engine, batch, lock, until):
            return False
        batch = batches.find(batch_id, tenant)
    if batch is not None and batch.canceled and not batch.state.terminal:
        batch_manifest.mark(engine.store, tenant, batch_id, "canceled")
        if not _cancel_jobs(engine, batch, lock, until):
            return False
    batches.done(batch_id)
    return True


def _create_jobs(engine: Engine, batch: Batch, lock: Lock, until: float) -> bool:
    """Create jobs until all exist, no more are wanted, or time is up. False only for the last."""
    accepted = batch_manifest.read(engine.store, batch.tenant, batch.id)
    plan, cursor = batch_manifest.plan_of(engine.store, accepted), batch.cursor
    with ThreadPoolExecutor(WRITERS) as pool:
        while cursor < batch.total:
            end = min(batch.total, cursor + CHUNK)
            jobs = [accepted.job(plan, index, engine.records) for index in range(cursor, end)]
            list(pool.map(lambda job: manifest.write(engine.store, job), jobs))
            _register(engine, jobs)
            cursor = end
            if cursor == batch.total:
                batch_manifest.mark(engine.store, batch.tenant, batch.id, "created")
            if engine.records.run("batch_created", batch.id, cursor) == BatchState.CANCELING:
                return True
            if not lock.keep() or (time.monotonic() > until and cursor < batch.total):
                return False
    return True


def _register(engine: Engine, jobs: list[Manifest]) -> None:
    """Create the records of a chunk and ring for those that are new; the reconciler rings where a bell failed."""
    records = engine.records
    calls = [("create", (job.id, _fields(job, records), "", "", 0, int(not job.pending), "")) for job in jobs]
    answers = dict(zip((job.id for job in jobs), records.run.many(calls), strict=True))
    for job in jobs:
        if answers[job.id][0] == "canceled":
            manifest.remove(engine.store, job.tenant, job.id)
    new = [job for job in jobs if answers[job.id][0] == "created" and not job.pending]
    rang = [job.id for job in new if engine.bell.ring(job.id, pool=job.pool, priority=job.request.priority)]
    records.run.many([("rung", (job_id,)) for job_id in rang])


def _fields(job: Manifest, records: Records) -> str:
    return creation_fields(
        job.request, job.tenant, records.settings, pool=job.pool, retry_of=job.retry_of, born=job.born
    )


def _cancel_jobs(engine: Engine, batch: Batch, lock: Lock, until: float) -> bool:
    """Cancel the jobs that exist, from where an earlier try stopped. False when time is up before all are seen to.

    To jobs that have ended, or were never created, nothing happens.
    """
    records, key = engine.records, f"{engine.records.prefix}batch:{batch.id}"
    for start in range(batch.swept, batch.total, CHUNK):
        numbers = range(start, min(batch.total, start + CHUNK))
        calls = [("cancel", (ids.numbered(ids.JOB, batch.id, index), batch.tenant)) for index in numbers]
        records.run.many(calls)
        records.ask("HSET", key, "swept", numbers.stop)
        if numbers.stop < batch.total and (time.monotonic() > until or not lock.keep()):
            return False
    return True


def tend(engine: Engine, seconds: float) -> None:
    """One round of everything that is due: unfinished batches, endings to be written, lives that are over."""
    unfinished = Batches(engine.records).unfinished()
    for tenant, batch_id in unfinished:
        advance(engine, tenant, batch_id, seconds / len(unfinished))
    ask, prefix = engine.records.ask, engine.records.prefix
    for batch_id in ask("ZRANGE", f"{prefix}batches:archive", 0, TENDED - 1):
        row = ask("HGETALL", f"{prefix}batch:{batch_id}")
        if row:
            batch_manifest.write_ending(engine.store, row["tenant"], batch_id, row)
        ask("ZREM", f"{prefix}batches:archive", batch_id)
    over = ask("ZRANGEBYSCORE", f"{prefix}batches:expiry", "-inf", int(time.time() * 1000), "LIMIT", 0, TENDED)
    for member in over:
        batch_manifest.remove(engine.store, *member.split("/"))
        ask("ZREM", f"{prefix}batches:expiry", member)
