"""Brings inputs that are named by their address: `python -m workers.fetcher`. Several may run.

It stands alone, because it downloads from wherever a tenant wants: it holds no weights, serves nobody, and its network
leads to the internet, to Redis and to the store, nowhere else. A job is `accepted` until its files are in the store;
workers only ever read the store.
"""

import asyncio
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from jobs import manifest
from jobs.addresses import Rule, rule
from jobs.assets import Assets
from jobs.connection import UNREACHABLE, QueueUnavailable
from jobs.fetches import HOLD_SECONDS, Fetches
from jobs.log import configure
from jobs.manifest import InputFile, Manifest
from jobs.media import MediaRefused, limits_of, probe
from jobs.queue import Bell
from jobs.records import Records
from jobs.schema import Job, JobError
from jobs.settings import Settings
from jobs.states import State
from jobs.store import ObjectMissing, StoreUnavailable, open_store
from jobs.store_errors import counted_by
from jobs.submission import ring
from workers.download import Bounds, DownloadFailed, download

AT_ONCE = 4
POLL_SECONDS = 0.5
WAITS = (5.0, 30.0)
"""Seconds before the second and the third try."""
TROUBLE = (QueueUnavailable, StoreUnavailable, *UNREACHABLE)
log = structlog.get_logger(__name__)


class Fetcher:
    """One replica. A job is held while it is worked on, and found by another replica when this one dies."""

    def __init__(self, settings: Settings, only: Rule | None = None) -> None:
        """Connect when first needed. `only` overrides which addresses may be called."""
        self._settings = settings
        self._records, self._bell = Records(settings), Bell(settings)
        self._store = open_store(settings, counted_by(self._records))
        self._fetches, self._assets = Fetches(self._records), Assets(self._store)
        self._rule = only or rule(settings.fetch_ports, loopback=settings.egress_loopback)
        self._bounds = Bounds(settings.max_upload_bytes, settings.fetch_timeout_seconds)
        self._folder = settings.data_dir / "fetch"

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until asked to stop; what is under way then is given back."""
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed predecessor left
        working: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            for job_id in await asyncio.to_thread(self._due, AT_ONCE - len(working)):
                task = asyncio.create_task(self.one(job_id))
                working.add(task)
                task.add_done_callback(working.discard)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        self._records.redis.close()

    def _due(self, most: int) -> list[str]:
        try:
            return self._fetches.take(most)
        except TROUBLE as error:
            log.warning("the fetcher waits", error=type(error).__name__)
            return []

    async def one(self, job_id: str) -> None:
        """Bring the files of one accepted job, as long as it is wanted."""
        work = asyncio.create_task(self._bring(job_id))
        try:
            while not (await asyncio.wait({work}, timeout=HOLD_SECONDS / 3))[0]:
                if not await asyncio.to_thread(self._fetches.hold, job_id):
                    work.cancel()  # it was canceled, or its deadline has passed
            await work
        except asyncio.CancelledError:
            await self._drop(job_id, work)
        except TROUBLE as error:
            await self._drop(job_id, work)
            log.warning("a fetch waits", job=job_id, error=type(error).__name__)
        except Exception as error:  # counted as a try; the hold ends, and it is tried again
            log.error("a fetch stumbled", job=job_id, exc_info=error)

    async def _drop(self, job_id: str, work: "asyncio.Task[None]") -> None:
        """Stop, and let another try begin; this one does not count."""
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        with suppress(*TROUBLE):
            await asyncio.to_thread(self._fetches.give_back, job_id)

    async def _bring(self, job_id: str) -> None:
        job = await asyncio.to_thread(self._records.find, job_id)
        if job is None or job.state != State.ACCEPTED:
            await asyncio.to_thread(self._fetches.forget, job_id)
            return
        tries = await asyncio.to_thread(self._fetches.begin, job_id)
        try:
            if tries > len(WAITS) + 1:
                raise DownloadFailed("input.fetch_failed", "fetching it has ended the fetcher every time")
            accepted = await asyncio.to_thread(manifest.read, self._store, job.tenant, job_id)
            fetched = {name: await self._fetch(accepted, name, url) for name, url in accepted.pending.items()}
        except ObjectMissing:
            await asyncio.to_thread(self._end, job, "input.fetch_failed", "the job was deleted from the store")
        except DownloadFailed as failed:
            await self._failed(job, failed, tries)
        except MediaRefused as refused:
            await asyncio.to_thread(self._end, job, refused.code, refused.detail)
        else:
            await asyncio.to_thread(self._admit, job, accepted, fetched)

    async def _fetch(self, accepted: Manifest, name: str, url: str) -> InputFile:
        self._folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "file"
            got = await download(url, path, self._rule, self._bounds)
            facts = await asyncio.to_thread(probe, path, limits_of(self._settings))
            if name == "video" and facts["kind"] != "video":
                raise DownloadFailed("input.not_video", f"it is of kind {facts['kind']}")
            asset = await asyncio.to_thread(
                self._assets.add,
                accepted.tenant,
                path,
                name=got.name,
                media_type=got.media_type,
                sha256=got.sha256,
                facts=facts,
            )
        return InputFile.of(asset)

    async def _failed(self, job: Job, failed: DownloadFailed, tries: int) -> None:
        if failed.passing and tries <= len(WAITS):
            log.info("a fetch is tried again", job=job.id, code=failed.code)
            await asyncio.to_thread(self._fetches.later, job.id, WAITS[tries - 1])
            return
        await asyncio.to_thread(self._end, job, failed.code, failed.detail)

    def _end(self, job: Job, code: str, detail: str) -> None:
        log.info("a fetch has failed", job=job.id, code=code)
        self._records.admit(job.id, JobError.of(code, detail, stage="fetch"))

    def _admit(self, job: Job, accepted: Manifest, fetched: dict[str, InputFile]) -> None:
        """Write down where the files lie, then let the job into the queue."""
        if self._records.known(job.id):
            manifest.complete(self._store, accepted, fetched)
        state = self._records.admit(job.id)
        if state is None:  # it was canceled and deleted meanwhile; nothing may bring it back
            manifest.remove(self._store, job.tenant, job.id)
        elif state == State.QUEUED:
            log.info("fetched", job=job.id, files=len(fetched))
            ring(self._records.get(job.id), self._records, self._bell)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("fetcher started")
    await Fetcher(settings).serve(stop)


def main() -> None:
    """Set up the logs and serve."""
    settings = Settings()
    configure(settings)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
