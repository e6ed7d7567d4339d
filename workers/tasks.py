"""The one Celery task, and what the worker's parent process does around it. No torch is imported in the parent."""

import gc
import threading
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, Task, signals
from kombu.exceptions import OperationalError

from jobs import presence, traces
from jobs.connection import QueueUnavailable
from jobs.leases import Owner
from jobs.log import configure
from jobs.queue import TASK, make_app, pool_of
from jobs.records import Records
from jobs.settings import Settings
from workers.signs import alive_file, drain_file, replace_wedged_child, trouble_file, unfit

if TYPE_CHECKING:
    from workers.runner import Runner

log = structlog.get_logger(__name__)
settings = Settings()
app = make_app(settings)
_ended = threading.Event()
_making = threading.Lock()


@cache
def _made() -> "Runner":
    from workers.runner import Runner  # only the child pays for torch and the methods

    made = Runner(settings)
    gc.freeze()  # the libraries stay: what collects after a job, holding the interpreter, need not look at them
    return made


def _runner() -> "Runner":
    """Return the process's runner; who asks while it is being made waits."""
    with _making:
        return _made()


def _prepare() -> None:
    """Import the engine when the process starts: many seconds that the first job then need not wait."""
    try:
        _runner()
    except Exception as error:  # a job that comes tries again and fails with it
        log.error("the engine cannot be imported", exc_info=error)


@app.task(name=TASK, bind=True)
def run(self: Task[Any, Any], job_id: str) -> str:
    """Answer a doorbell: run the job if it is there to be run."""
    owner = Owner(settings.worker_id, str(self.request.hostname), str(self.request.id))
    return _runner().run(job_id, owner, pool_of(str((self.request.delivery_info or {}).get("routing_key"))))


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure(settings)


@signals.worker_init.connect
def _begin(**_: Any) -> None:
    drain_file(settings).parent.mkdir(parents=True, exist_ok=True)
    for sign in (drain_file(settings), trouble_file(settings)):
        sign.unlink(missing_ok=True)


@signals.worker_process_init.connect
def _begin_child(**_: Any) -> None:
    traces.begin("refilm-worker")
    threading.Thread(target=_prepare, name="prepare", daemon=True).start()
    with suppress(QueueUnavailable):  # a child that was killed took its weights with it
        presence.announce(Records(settings), settings.worker_id, warm=(), job=None)


@signals.worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    traces.end()


@signals.worker_ready.connect
def _announce(sender: Any, **_: Any) -> None:
    threading.Thread(target=_speak, args=(str(sender.hostname),), name="presence", daemon=True).start()


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """Tell the child to hand its job back before the grace is over; idle or done, the worker exits at once."""
    drain_file(settings).touch()


@signals.worker_shutdown.connect
def _leave(**_: Any) -> None:
    _ended.set()
    drain_file(settings).unlink(missing_ok=True)
    alive_file(settings).unlink(missing_ok=True)
    with suppress(QueueUnavailable):  # it is forgotten by itself
        presence.leave(Records(settings), settings.worker_id)


def _speak(node: str) -> None:
    records, ears = Records(settings), Ears(app, node)
    while not _ended.is_set():
        trouble = unfit(settings)
        ears.listen(trouble is None)
        if trouble is None:
            alive_file(settings).touch()
        else:  # the probe fails, and whoever watches it starts the worker anew
            alive_file(settings).unlink(missing_ok=True)
        if replace_wedged_child(settings):
            log.error("the child did not move, it is replaced")
        draining = trouble is not None or drain_file(settings).exists()
        with suppress(QueueUnavailable):
            presence.announce(records, settings.worker_id, pools=settings.pools, draining=draining)
        _ended.wait(presence.EVERY_SECONDS)


class Ears:
    """Whether this worker hears bells. It stops to while its machine is not fit for jobs."""

    def __init__(self, app: Celery, node: str) -> None:
        """A worker begins to hear when it starts."""
        self._control, self._node, self._open = app.control, [node], True
        self._queues = [queue.name for queue in app.conf.task_queues]

    def listen(self, wanted: bool) -> None:
        """Begin or stop; when the broker cannot be reached, the next call does it."""
        if wanted == self._open:
            return
        log.warning("worker listens again" if wanted else "worker drains: its machine is not fit")
        change = self._control.add_consumer if wanted else self._control.cancel_consumer
        with suppress(OperationalError):
            for queue in self._queues:
                change(queue, destination=self._node)
            self._open = wanted
