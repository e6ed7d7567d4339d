"""The doorbell: a Celery message that carries a job id and nothing else. The record decides what happens.

Messages can be lost, doubled or late; a claim that fails makes a duplicate harmless, the reconciler rings again.
"""

from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import ChannelError, OperationalError

from jobs.request import BROKER_PRIORITY, Priority
from jobs.settings import Settings

TASK = "refilm.run"
PRIORITY_STEPS = [0, 3, 6, 9]
_FAIL_FAST = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


def shared_queue(pool: str) -> str:
    """Name of the queue that all workers of a pool read."""
    return f"e.{pool}"


def pool_of(queue: str) -> str:
    """Return the pool of a shared queue's name; empty for a worker's own queue."""
    return queue.removeprefix("e.") if queue.startswith("e.") else ""


def direct_queue(worker_id: str) -> str:
    """Name of the queue that one worker reads."""
    return f"w.{worker_id}"


def _queue(name: str) -> Queue:
    # The nameless exchange needs no binding in Redis, so a bell rings also after the broker was wiped.
    return Queue(name, Exchange("", type="direct"), routing_key=name)


def make_app(settings: Settings) -> Celery:
    """Build the Celery app that both sides use: no result backend, JSON only, late acknowledgement."""
    app = Celery("refilm", broker=settings.broker)
    names = [direct_queue(settings.worker_id), *(shared_queue(pool) for pool in settings.pools)]
    memory = settings.worker_max_memory_bytes
    app.conf.update(
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_acks_on_failure=True,
        task_acks_on_timeout=True,
        task_default_queue=names[-1],
        task_queues=[_queue(name) for name in names],
        task_create_missing_queues=False,
        task_publish_retry_policy=_FAIL_FAST,
        task_default_priority=BROKER_PRIORITY["standard"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_concurrency=1,
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=120,
        worker_max_tasks_per_child=settings.worker_max_jobs,
        worker_max_memory_per_child=memory // 1024 if memory else None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_pool_limit=2,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport(),
    )
    return app


def _transport() -> dict[str, Any]:
    return {
        "visibility_timeout": 21600,
        "queue_order_strategy": "priority",
        "priority_steps": PRIORITY_STEPS,
        "global_keyprefix": "rf:",
        "socket_timeout": 15,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        **_FAIL_FAST,
    }


class Bell:
    """Rings for jobs. Fails fast: a broker that is away costs a fraction of a second, and the reconciler makes good."""

    def __init__(self, settings: Settings) -> None:
        """Prepare a producer; the broker is contacted by the first ring."""
        self._app = make_app(settings)
        self._reading: Any = None

    def ring(
        self, job_id: str, *, pool: str = "default", priority: Priority = "standard", worker: str | None = None
    ) -> bool:
        """Ring once in the pool's shared queue, or in one worker's. False when the broker cannot be reached."""
        name = shared_queue(pool) if worker is None else direct_queue(worker)
        try:
            # by its name alone a queue would have to be declared: every process would have to know every worker
            where: dict[str, Any] = {"queue": _queue(name), "priority": BROKER_PRIORITY[priority]}
            self._app.send_task(TASK, args=[job_id], retry=False, **where)
        except (OperationalError, ChannelError):  # away, or out of memory
            return False
        return True

    def waiting(self, pool: str = "default") -> int:
        """Return how many messages lie in the pool's queue. Raises OperationalError. For one thread at a time."""
        if self._reading is None:
            self._reading = self._app.connection_for_read()
        try:
            return int(self._reading.default_channel._size(shared_queue(pool)))
        except Exception:
            self._reading = None  # the next call connects anew
            raise

    def kill(self, task: str, node: str) -> None:
        """Kill the process that runs this task on this node, if it still does. Raises OperationalError."""
        self._app.control.revoke(task, terminate=True, signal="SIGKILL", destination=[node])
