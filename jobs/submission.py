"""Accept a job: manifest in the store, record in Redis, then the bell. In this order, so that nothing is ever lost."""

from collections.abc import Mapping

from jobs import ids, manifest, origin, routing, traces
from jobs.assets import Assets
from jobs.connection import QueueUnavailable
from jobs.manifest import InputFile, Manifest
from jobs.queue import Bell
from jobs.quotas import admit_jobs
from jobs.records import Created, Idempotency, QueueFull, Records, StateConflict
from jobs.request import JobRequest
from jobs.schema import Asset, Job
from jobs.states import State
from jobs.store import Store

RETRIABLE = frozenset({State.FAILED, State.CANCELED, State.EXPIRED})


class MissingAsset(Exception):
    """An input names an asset that this tenant does not have. `inputs` maps input name to asset id."""

    def __init__(self, inputs: dict[str, str]) -> None:
        """Keep the inputs that were not found."""
        super().__init__(", ".join(inputs))
        self.inputs = inputs


def submit(
    request: JobRequest,
    tenant: str,
    *,
    records: Records,
    store: Store,
    bell: Bell,
    idempotency: Idempotency | None = None,
    pool: str | None = None,
    retry_of: str = "",
    most_ahead: int | None = None,
) -> Created:
    """Accept a job whose parameters were validated. When this returns, manifest and record are durable.

    Without `pool`, the routes of the settings and the workers that live decide where it waits.
    Raises MissingAsset, IdempotencyReuse, QueueFull, QueueUnavailable and StoreUnavailable; then nothing is left.
    """
    records.ping()
    earlier = records.replay(tenant, idempotency) if idempotency else None
    if earlier is not None:
        return Created(earlier, replayed=True)
    admit_jobs(records, tenant)
    inputs, came, job_id = input_files(Assets(store), tenant, request), origin.current(), ids.new(ids.JOB)
    facts = {"job_id": job_id, "tenant": tenant, "method": request.method}
    with traces.span("job", parent=came.traceparent, kind="producer", **facts) as span:
        accepted = Manifest(
            id=job_id,
            tenant=tenant,
            pool=pool or routing.pool_for(request, records),
            retry_of=retry_of,
            idempotency_key=idempotency.key if idempotency else "",
            request_hash=idempotency.request_hash if idempotency else "",
            request=request,
            inputs=inputs,
            request_id=came.request_id,
            traceparent=span.traceparent or came.traceparent,
        )
        accepted = accepted.foreseen(records)
        manifest.write(store, accepted)
        return _register(accepted, records, store, bell, most_ahead)


def _register(accepted: Manifest, records: Records, store: Store, bell: Bell, most_ahead: int | None) -> Created:
    try:
        created = create_from(accepted, records, most_ahead=most_ahead)
    except (QueueUnavailable, QueueFull):
        manifest.remove(store, accepted.tenant, accepted.id)
        raise
    if created.replayed and created.job.id != accepted.id:  # the same key raced; the other request was first
        manifest.remove(store, accepted.tenant, accepted.id)
    elif created.job.state == State.QUEUED:
        ring(created.job, records, bell)
    return created


def create_from(
    accepted: Manifest, records: Records, *, most_ahead: int | None = None, born: dict[str, int | str] | None = None
) -> Created:
    """Create the record of a manifest; for an accepted request as for one found again in the store."""
    return records.create(
        accepted.id,
        accepted.request,
        accepted.tenant,
        pool=accepted.pool,
        ready=not accepted.pending,
        idempotency=accepted.idempotency,
        retry_of=accepted.retry_of,
        most_ahead=most_ahead,
        born=accepted.born | (born or {}),
    )


def ring(job: Job, records: Records, bell: Bell) -> bool:
    """Ring for a queued job, where it is best run. A bell that fails is no error: the reconciler rings later.

    One worker alone is rung for only once each time a job is queued; if that one does not take it, everyone is.
    """
    choice = routing.choose(job, records)
    held = choice is not None and records.run("hold", job.id, choice.worker, int(choice.hold_seconds * 1000))
    worker = choice.worker if choice is not None and held else None
    rang = bell.ring(job.id, pool=job.pool, priority=job.request.priority, worker=worker)
    if rang and not held:
        records.run("rung", job.id)
    return rang


def retry(job: Job, *, records: Records, store: Store, bell: Bell, idempotency: Idempotency | None = None) -> Created:
    """Run an ended job's request again as a new job that names the old one; finished stages come from the cache.

    An ended job itself never changes. Raises StateConflict for a job that succeeded or has not ended.
    """
    if job.state not in RETRIABLE:
        raise StateConflict(job.state)
    return submit(
        job.request,
        job.tenant,
        records=records,
        store=store,
        bell=bell,
        idempotency=idempotency,
        pool=job.pool,
        retry_of=job.id,
    )


def delete(job: Job, *, records: Records, store: Store) -> None:
    """Delete an ended job with its outputs. Raises StateConflict while it has not ended, and NotFound."""
    if not job.state.terminal:
        raise StateConflict(job.state)
    manifest.remove(store, job.tenant, job.id)
    records.delete(job.id, job.tenant)


def input_files(assets: Assets, tenant: str, request: JobRequest) -> dict[str, InputFile]:
    """Return what is known of a request's assets, by input name. Raises MissingAsset and StoreUnavailable."""
    found: Mapping[str, Asset | None] = {name: assets.find(tenant, key) for name, key in request.assets().items()}
    missing = {name: request.assets()[name] for name, asset in found.items() if asset is None}
    if missing:
        raise MissingAsset(missing)
    return {name: InputFile.of(asset) for name, asset in found.items() if asset is not None}
