"""Files by which a worker's two processes tell each other how they are: they work without Redis and without signals.

The parent talks to Celery and serves probes; its child runs jobs, and may be inside a long call that holds everything.
"""

import os
import signal
import time
from pathlib import Path

from jobs.settings import Settings


def drain_file(settings: Settings) -> Path:
    """The file that exists while the worker shuts down; its age is the age of the shutdown."""
    return settings.data_dir / "run" / f"{settings.worker_id}.drain"


def alive_file(settings: Settings) -> Path:
    """The file that the parent touches every few seconds, for liveness probes."""
    return settings.data_dir / "run" / f"{settings.worker_id}.alive"


def scheduler_file(settings: Settings) -> Path:
    """The file that the scheduler touches after every round, for liveness probes: a round that hangs lets it age."""
    return settings.data_dir / "run" / "scheduler.alive"


def busy_file(settings: Settings) -> Path:
    """The file that the child touches all the time while it has a job; it holds the child's process id."""
    return settings.data_dir / "run" / f"{settings.worker_id}.busy"


def wedged_child(settings: Settings) -> int | None:
    """Return the process id of a child of ours that has a job but has not moved for two leases, or None."""
    try:
        path = busy_file(settings)
        child, age = int(path.read_text()), time.time() - path.stat().st_mtime
        mine = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except (OSError, ValueError):
        return None
    return child if mine and age > 2 * settings.lease_seconds else None


def replace_wedged_child(settings: Settings) -> bool:
    """Kill a wedged child, so that the pool starts a new one. Its job went to another worker with its lease."""
    child = wedged_child(settings)
    if child is None:
        return False
    os.kill(child, signal.SIGKILL)
    busy_file(settings).unlink(missing_ok=True)
    return True
