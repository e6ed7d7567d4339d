"""Child processes that are started, watched, restarted and stopped together, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api.guard import kill_group

ROOT = Path(__file__).resolve().parent.parent
GUARD = Path(__file__).with_name("guard.py")
POLL_SECONDS = 0.2
SLOWEST_RESTART_SECONDS = 10.0


@dataclass
class Child:
    """One supervised command. `grace_seconds` is how long SIGTERM may take before SIGKILL."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    grace_seconds: float = 5.0
    pass_fds: tuple[int, ...] = ()
    restarts: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> int:
        """Start in a process group of its own, output appended to the log; returns the group's id."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the commands are the stack's own
                list(self.command),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.pass_fds,
            )
        self.started_at = time.monotonic()
        return self.process.pid

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return self.process.pid if self.process and self.process.poll() is None else 0


class Supervisor:
    """Keeps its children alive until `stop`; `notify(text)` hears of every restart."""

    def __init__(self, notify: Callable[[str], None] = lambda _: None) -> None:
        self.children: list[Child] = []
        self._notify = notify
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._guard = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", str(GUARD)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def add(self, child: Child) -> Child:
        """Start a child and watch it from now on."""
        with self._lock:
            self._launch(child)
            self.children.append(child)
            if not self._thread.ident:
                self._thread.start()
        return child

    def stop(self) -> None:
        """End all children, the last started first, then the guard. Safe to call twice."""
        self._closing.set()
        with self._lock:
            while self.children:
                self._end(self.children.pop())
            if self._guard.stdin and not self._guard.stdin.closed:
                self._guard.stdin.close()
            self._guard.wait(timeout=10)

    def _launch(self, child: Child) -> None:
        group = child.start()
        self._tell_guard(f"+{group}")

    def _tell_guard(self, line: str) -> None:
        if self._guard.stdin and self._guard.poll() is None:
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()

    def _end(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=child.grace_seconds)
        except subprocess.TimeoutExpired:
            self._notify(f"{child.name} did not stop in {child.grace_seconds:g} s and was killed")
        self._bury(child)

    def _bury(self, child: Child) -> None:
        """Kill what is left of the child's group and forget it."""
        if child.process is None:
            return
        kill_group(child.process.pid)
        child.process.wait()
        self._tell_guard(f"-{child.process.pid}")
        child.process = None

    def _watch(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            with self._lock:
                for child in list(self.children):
                    self._revive(child)

    def _revive(self, child: Child) -> None:
        """Bury a child that has died and start it again; slower when it dies young and often."""
        now = time.monotonic()
        if child.process is not None and child.process.poll() is not None:
            code, lived = child.process.returncode, now - child.started_at
            self._bury(child)
            child.restarts = child.restarts + 1 if lived < 30 else 1
            delay = min(0.1 * 2 ** (child.restarts - 1), SLOWEST_RESTART_SECONDS)
            child.restart_at = now + delay
            self._notify(f"{child.name} ended (exit {code}); it starts again, see {child.log_path}")
        if child.process is None and now >= child.restart_at and not self._closing.is_set():
            self._launch(child)


def environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the project's folder importable and the overrides on top."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **overrides}
