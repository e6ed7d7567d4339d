"""Previews on their way to the store: the newest one only, sent by a thread, so that denoising never waits for it."""

import queue
import threading

import structlog

from jobs import layout
from jobs.connection import QueueUnavailable
from jobs.leases import Claim, Leases
from jobs.schema import Preview
from jobs.store import Store, StoreUnavailable
from workers.diary import Diary
from workers.work import MadeFile

MEDIA_TYPE = "image/webp"
LINGER_SECONDS = 2.0
log = structlog.get_logger(__name__)
Shown = tuple[bytes, MadeFile, int, int]


class Previews:
    """Sends the previews of one attempt. Use as a context manager; the thread ends with it."""

    def __init__(self, store: Store, leases: Leases, claim: Claim, diary: Diary) -> None:
        """Prepare; the thread starts with the first preview."""
        self._store, self._leases, self._claim, self._diary = store, leases, claim, diary
        self._taken: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Previews":
        """Nothing to do yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Send what was taken last, but let nothing wait long for it; a late preview is refused by its fence."""
        self._taken.put(None)
        if self._thread is not None:
            self._thread.join(LINGER_SECONDS)

    def show(self, file: MadeFile, step: int, steps: int) -> None:
        """Take one preview. The file is read now and may be removed afterwards."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="previews", daemon=True)
            self._thread.start()
        self._taken.put((file.path.read_bytes(), file, step, steps))

    def _send_all(self) -> None:
        over = False
        while not over:
            waiting = [self._taken.get()]
            while not self._taken.empty():
                waiting.append(self._taken.get())
            over = None in waiting
            newest = [item for item in waiting if item is not None][-1:]
            for item in newest:
                self._try(*item)

    def _try(self, data: bytes, file: MadeFile, step: int, steps: int) -> None:
        try:
            self._send(data, file, step, steps)
        except (StoreUnavailable, QueueUnavailable) as error:
            log.warning("a preview is lost", error=str(error))

    def _send(self, data: bytes, file: MadeFile, step: int, steps: int) -> None:
        job = self._claim.job
        preview = Preview(
            name=f"preview-{step}.webp",
            step=step,
            steps=steps,
            attempt=job.attempt,
            width=file.width or 0,
            height=file.height or 0,
            frames=file.frames or 0,
            fps=file.fps or 0.0,
            fence=self._claim.fence,
        )
        key = layout.attempt_folder(job.tenant, job.id, self._claim.fence) + preview.name
        self._store.put_bytes(key, data, media_type=MEDIA_TYPE)
        if self._leases.show(self._claim, preview) == "ok":
            self._diary.write("preview", stage="edit", step=step, steps=steps, size_bytes=len(data))
        else:
            self._store.delete(key)  # the job ended, or is someone else's
