"""A whole installation of real processes: workers and schedulers around a Valkey and a store."""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs import ids, layout, manifest
from jobs.assets import Assets
from jobs.presence import live_workers
from jobs.queue import Bell
from jobs.records import Records
from jobs.request import JobRequest
from jobs.schema import Job
from jobs.settings import Settings
from jobs.store import open_store
from jobs.submission import create_from, ring, submit
from tests.conftest import wait_for
from tests.workers.families import child_of, kill_tree
from workers.signs import alive_file

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Stack:
    """Settings with short times; start workers and schedulers, submit jobs, kill things."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records = Records(settings)
        self.store = open_store(settings)
        self.bell = Bell(settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.logs = settings.data_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)

    def environment(self, **variables: str) -> dict[str, str]:
        """What a process of this stack starts with. `OTHER_…` make it another one; see `other/sitecustomize.py`."""
        other = {name: value for name, value in variables.items() if name.startswith("OTHER_")}
        given = self.settings.model_dump(mode="json", exclude_unset=True) | variables
        named = {f"REFILM_{name.upper()}": str(value) for name, value in given.items() if name not in other}
        path = os.pathsep.join([*([str(HERE / "other")] if other else []), str(ROOT), str(HERE)])
        quiet = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        return os.environ | named | quiet | other

    def _start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = self.environment(**variables)
        with (self.logs / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def worker(self, worker_id: str, **variables: str) -> subprocess.Popen[bytes]:
        return self._start("-m", "workers", worker_id=worker_id, **variables)

    def scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("-m", "workers.scheduler")

    def submit(self, video: bytes = b"clip", tenant: str = "local", **body: Any) -> Job:
        path = self.settings.data_dir / "clip.mp4"
        path.write_bytes(video)
        asset = Assets(self.store).add(tenant, path, name="clip.mp4", media_type="video/mp4")
        base = {"method": "echo", "input": {"video": {"asset": asset.id}}, "cache": {"inversion": "off"}}
        request = JobRequest.model_validate(base | body)
        return submit(request, tenant, records=self.records, store=self.store, bell=self.bell).job

    def submit_many(self, count: int, *, tenant: str, **body: Any) -> list[Job]:
        """So many jobs like one that is submitted as usual."""
        first = self.submit(tenant=tenant, **body)
        accepted = manifest.read(self.store, tenant, first.id)
        made = [first]
        for _ in range(count - 1):
            again = accepted.model_copy(update={"id": ids.new(ids.JOB)})
            manifest.write(self.store, again)
            made.append(create_from(again, self.records).job)
            ring(made[-1], self.records, self.bell)
        return made

    def submit_as(self, version: int, **body: Any) -> Job:
        """A job as a newer version of the API writes it: with a newer number, and a field nobody knows yet."""
        first = self.submit(**body)
        self.records.cancel(first.id, first.tenant)
        row = json.loads(self.store.get_bytes(layout.manifest(first.tenant, first.id)))
        row |= {"id": ids.new(ids.JOB), "schema_version": version, "not_known_yet": {"x": 1}}
        self.store.put_bytes(layout.manifest(first.tenant, row["id"]), json.dumps(row).encode())
        job = create_from(manifest.read(self.store, first.tenant, row["id"]), self.records, born={"needs": version}).job
        ring(job, self.records, self.bell)
        return job

    def wait_id(self, job_id: str, *states: str) -> Job:
        return self.wait(self.records.get(job_id), *states)

    def job(self, job: Job) -> Job:
        return self.records.get(job.id)

    def wait(self, job: Job, *states: str, seconds: float = 120) -> Job:
        """Wait until the job is in one of the states; on failure say what the processes wrote."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.job(job)
            if now.state in states:
                return now
            time.sleep(0.05)
        raise AssertionError(f"job is {now.state}, not {states}\n{now.model_dump_json(indent=1)}\n{self.read_logs()}")

    def wait_stage(self, job: Job, stage: str, seconds: float = 120) -> Job:
        """Wait until the job runs this stage and has begun its steps."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.job(job)
            if now.progress.stage == stage and any(item.step is not None for item in now.progress.stages):
                return now
            time.sleep(0.05)
        raise AssertionError(f"never saw {stage}: {now.model_dump_json(indent=1)}\n{self.read_logs()}")

    def drained(self, worker_id: str) -> bool:
        """Whether a worker takes no more jobs: it says so, does not listen, and its probe's file is gone."""
        told = {worker.id: worker.draining for worker in live_workers(self.records)}
        own = self.settings.model_copy(update={"worker_id": worker_id})
        return told.get(worker_id) is True and not alive_file(own).exists()

    def wait_drained(self, worker_id: str, seconds: float = 30) -> None:
        wait_for(lambda: self.drained(worker_id), seconds)

    def wait_worker(self, worker_id: str, seconds: float = 60) -> None:
        """Wait until a worker has said that it is there."""
        wait_for(lambda: worker_id in {worker.id for worker in live_workers(self.records)}, seconds)

    def outputs_in_store(self, job: Job) -> list[str]:
        return [info.key for info in self.store.list(f"out/{job.tenant}/{job.id}/") if not info.key.endswith(".json")]

    def read_logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-6000:]}" for path in sorted(self.logs.glob("*.log")))

    def stop(self) -> None:
        for process in self.processes:
            kill_tree(process)

    child_of = staticmethod(child_of)


SHORT = {
    "engine": "echo_engine:edit",
    "lease_seconds": 2,
    "scheduler_interval_seconds": 0.2,
    "shutdown_grace_seconds": 4,
    "cancel_grace_seconds": 3,
    "ring_after_seconds": 2,
    "leader_ttl_seconds": 2,
}


@pytest.fixture
def make_stack(valkey, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Build an installation on the session's Valkey; keywords change its settings."""
    made: list[Stack] = []

    def make(**changes: Any) -> Stack:
        common = {"redis_url": valkey.url, "data_dir": tmp_path / f"data-{len(made)}"}
        made.append(Stack(Settings(**(SHORT | common | changes))))
        return made[-1]

    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()


@pytest.fixture
def durable_valkey(valkey, tmp_path: Path) -> Iterator[Any]:
    """A Valkey of the test's own that writes an append-only file and may be stopped and started."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = type(valkey)(folder, durable=True).start()
    yield server
    server.stop()


class Flaky:
    """A proxy before the S3 server that answers a share of requests with 503."""

    def __init__(self, upstream: str) -> None:
        self.refuse = 0.0
        host, _, port = upstream.removeprefix("http://").partition(":")
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if random.random() < flaky.refuse:
                    self._send(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                    return
                connection = http.client.HTTPConnection(host, int(port), timeout=20)
                connection.request(self.command, self.path, body, dict(self.headers))
                reply = connection.getresponse()
                self._send(reply.status, dict(reply.getheaders()), reply.read())
                connection.close()

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
                for name, value in (headers | {"Content-Length": length or "0"}).items():
                    if name.lower() not in {"transfer-encoding", "connection"}:
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        for verb in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{verb}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def flaky(s3_endpoint: str) -> Iterator[Flaky]:
    proxy = Flaky(s3_endpoint)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()
