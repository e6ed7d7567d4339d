"""Processes and what they have started: found and killed while they come and go."""

import contextlib
import subprocess
from typing import Any

import psutil

from tests.conftest import wait_for


def child_of(worker: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of a worker that runs jobs: of the spawned ones the one with threads of its own.

    A worker that has lost one is about to start another, so it is waited for.
    """
    found: Any = wait_for(lambda: threads_of_spawned(worker))
    child: psutil.Process = max(found, key=found.__getitem__)
    return child


def threads_of_spawned(worker: subprocess.Popen[bytes]) -> dict[psutil.Process, int]:
    threads = {}
    for process in psutil.Process(worker.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends just now, or has ended and is not buried
            if "spawn_main" in " ".join(process.cmdline()):
                threads[process] = process.num_threads()
    return threads


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started; what ends by itself meanwhile is no trouble."""
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            root.suspend()  # or it starts another child between the list and its death
            for part in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    part.kill()
    process.wait()
