"""Files by which a worker's two processes tell each other how they are: they work without Redis and without signals.

The parent talks to Celery and serves probes; its child runs jobs, and may be inside a long call that holds everything.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from jobs.settings import Settings

Trouble = Literal["device", "disk"]
UNFIT_SECONDS = 600.0
"""How long a failure of the machine counts; a worker that starts anew begins without any."""
MOST_DEVICE_FAILURES = 2


def drain_file(settings: Settings) -> Path:
    """The file that exists while the worker shuts down; its age is the age of the shutdown."""
    return settings.data_dir / "run" / f"{settings.worker_id}.drain"


def alive_file(settings: Settings) -> Path:
    """The file that the parent touches every few seconds, for liveness probes."""
    return settings.data_dir / "run" / f"{settings.worker_id}.alive"


def scheduler_file(settings: Settings) -> Path:
    """The file that the scheduler touches after every round, for liveness probes: a round that hangs lets it age."""
    return settings.data_dir / "run" / "scheduler.alive"


def trouble_file(settings: Settings) -> Path:
    """What went wrong with the worker's machine lately, a line each: seconds since 1970, and what."""
    return settings.data_dir / "run" / f"{settings.worker_id}.trouble"


def note_trouble(settings: Settings, what: Trouble) -> None:
    """Note that the machine failed, not the job."""
    path = trouble_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError), path.open("a") as lines:  # the disk may be what is full
        lines.write(f"{time.time():.0f} {what}\n")


def unfit(settings: Settings) -> Trouble | None:
    """Why this worker must take no jobs for now: its device failed twice within ten minutes, or its disk is full."""
    try:
        lines = [line.split() for line in trouble_file(settings).read_text().splitlines()]
    except OSError:
        return None
    recent = [line[1] for line in lines if len(line) == 2 and time.time() - float(line[0]) < UNFIT_SECONDS]
    if recent.count("device") >= MOST_DEVICE_FAILURES:
        return "device"
    return "disk" if "disk" in recent else None


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
