"""Start a worker: `python -m workers`. Becomes Celery's own process, so that signals reach it."""

import os
import sys

from jobs.queue import direct_queue, shared_queue
from jobs.settings import Settings


def command(settings: Settings) -> list[str]:
    """Return the arguments of a worker: its own queue first, then those of its pools."""
    queues = [direct_queue(settings.worker_id), *(shared_queue(pool) for pool in settings.pools)]
    return [
        *(sys.executable, "-m", "celery", "--quiet", "-A", "workers.tasks", "worker"),
        *("-n", f"w-{settings.worker_id}@%h", "-Q", ",".join(queues)),
        *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        *("--loglevel", settings.log_level),
    ]


if __name__ == "__main__":
    arguments = command(Settings())
    os.execv(arguments[0], arguments)  # noqa: S606 -- our own interpreter, no shell
