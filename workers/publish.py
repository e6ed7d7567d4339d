"""Upload an attempt's outputs. They lie under the attempt's fence, so that a lost worker never touches the winner's."""

import json
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from jobs import layout
from jobs.assets import digest_of
from jobs.connection import QueueUnavailable
from jobs.leases import Claim
from jobs.manifest import InputFile
from jobs.schema import Output
from jobs.store import Store, StoreUnavailable
from workers.receipts import receipt
from workers.work import Made, MadeFile

T = TypeVar("T")
log = structlog.get_logger(__name__)


def persist(action: Callable[[], T], *, seconds: float, give_up: Callable[[], bool], alive: Callable[[], None]) -> T:
    """Repeat an action while store or Redis are away, with growing pauses; raise its last error when time is up."""
    end, pause = time.monotonic() + seconds, 0.2
    while True:
        try:
            return action()
        except (StoreUnavailable, QueueUnavailable) as error:
            if give_up() or time.monotonic() + pause > end:
                raise
            log.warning("waiting for store or redis", error=str(error))
        alive()
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def upload(store: Store, claim: Claim, made: Made, inputs: dict[str, InputFile]) -> tuple[Output, ...]:
    """Put the files and the receipt into the attempt's folder. Raises StoreUnavailable; repeating is safe."""
    folder = layout.attempt_folder(claim.job.tenant, claim.job_id, claim.fence)
    outputs = tuple(_upload_one(store, folder, item) for item in made.files)
    data = json.dumps(receipt(claim, made, inputs, outputs), indent=1).encode()
    store.put_bytes(layout.receipt(claim.job.tenant, claim.job_id, claim.fence), data, media_type="application/json")
    return outputs


def _upload_one(store: Store, folder: str, item: MadeFile) -> Output:
    key = folder + item.path.name
    store.put_file(key, item.path, media_type=item.media_type)
    return Output(
        name=item.path.name,
        media_type=item.media_type,
        size_bytes=item.path.stat().st_size,
        sha256=digest_of(item.path),
        width=item.width,
        height=item.height,
        frames=item.frames,
        fps=item.fps,
        duration_seconds=round(item.frames / item.fps, 6) if item.frames and item.fps else None,
        provenance="c2pa" if item.unsigned_sha256 else "none",
        unsigned_sha256=item.unsigned_sha256,
        key=key,
    )


def sweep(store: Store, claim: Claim, *, keep: bool) -> None:
    """Remove outputs: with `keep`, those of all other attempts; without, this attempt's own."""
    own = layout.attempt_folder(claim.job.tenant, claim.job_id, claim.fence)
    try:
        if not keep:
            store.delete_prefix(own)
            return
        for info in list(store.list(layout.outputs_folder(claim.job.tenant, claim.job_id))):
            if not info.key.startswith(own):
                store.delete(info.key)
    except StoreUnavailable as error:
        log.warning("outputs of other attempts stay until the job expires", error=str(error))
