"""Health of a container, for probes: `python probe.py api|worker|worker-ready|scheduler|fetcher|exporter|pod-cost`.

Exit status 0 is healthy, 1 is not. Standard library only: it starts in a few hundredths of a second.
"""

import http.client
import os
import socket
import sys
import time
from pathlib import Path

ALIVE_SECONDS = 60.0
LOOPS = {"scheduler": 3.0, "fetcher": 3.0, "pod-cost": 6.5}
"""Seconds in which the loop of a process without a server must have slept at least once."""
HTTP_PORTS = {"api": (8000, "/healthz/live"), "exporter": (9100, "/healthz/live")}


def run_file(kind: str, name: str = "") -> Path:
    """The `alive` or `drain` file of this worker, or of the process called so, where `workers.signs` puts it."""
    data = Path(os.environ.get("REFILM_DATA_DIR", str(Path.home() / ".refilm")))
    name = name or os.environ.get("REFILM_WORKER_ID") or socket.gethostname()
    return data / "run" / f"{name}.{kind}"


def fresh(path: Path) -> bool:
    """Whether the file was touched lately."""
    try:
        return time.time() - path.stat().st_mtime < ALIVE_SECONDS
    except FileNotFoundError:
        return False


def worker_lives() -> bool:
    """The worker's parent touches its file every few seconds, with or without Redis, unless its device is broken."""
    return fresh(run_file("alive"))


def scheduler_turns(pid: int) -> bool:
    """The scheduler touches its file after every round; before the first one ends, whether it moves at all."""
    sign = run_file("alive", "scheduler")
    return fresh(sign) if sign.exists() else ticks(pid, LOOPS["scheduler"])


def worker_ready() -> bool:
    """Alive and not on its way out."""
    return worker_lives() and not run_file("drain").exists()


def switches(pid: int) -> int:
    """How often the main thread of a process went to sleep."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(value)
    raise LookupError(name)


def ticks(pid: int, seconds: float) -> bool:
    """Whether a loop turns: it sleeps every few seconds, so one that hangs shows no new sleeps."""
    try:
        before = switches(pid)
        time.sleep(seconds)
        return switches(pid) > before
    except (FileNotFoundError, LookupError):
        return False


def answers(port: int, path: str) -> bool:
    """Whether the server on the loopback says 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """Run the named check; a number after it is a port or a process id other than the usual one."""
    kind, *given = arguments
    number = int(given[0]) if given else None
    if kind in HTTP_PORTS:
        port, path = HTTP_PORTS[kind]
        healthy = answers(number or port, path)
    elif kind == "scheduler":
        healthy = scheduler_turns(number or 1)
    elif kind in LOOPS:
        healthy = ticks(number or 1, LOOPS[kind])
    else:
        checks = {"worker": worker_lives, "worker-ready": worker_ready}
        healthy = checks[kind]()
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
