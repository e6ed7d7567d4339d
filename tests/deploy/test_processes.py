"""The containers' commands and environment, as the chart renders them, as plain processes: a real edit, and their ends.

Valkey and an S3 server are external, as in a cluster. Only what must differ on one machine is replaced: addresses and
ports, folders, and secrets, which a dictionary stands in for.
"""

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import redis

from api.client import Client
from tests.deploy.conftest import DOCKER, ROOT, containers

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

KEY = "rf_live_" + base64.urlsafe_b64encode(b"a key for this test only").decode().rstrip("=")
GRACE = 10
HERE = Path(__file__).parent


class Containers:
    """Starts containers of the rendered chart as processes, each with its own folder in place of its volumes."""

    def __init__(self, found: dict[str, dict[str, Any]], secrets: dict[str, str], folder: Path, port: int) -> None:
        self.found, self.secrets, self.folder, self.port = found, secrets, folder, port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, container: str, **extra: str) -> subprocess.Popen[bytes]:
        """Start the container's command with its environment; `extra` is what a cluster would give otherwise."""
        spec = self.found[container]
        home = self.folder / name
        for part in ("data", "tmp"):
            (home / part).mkdir(parents=True, exist_ok=True)
        variables = {item["name"]: self._value(item, name) for item in spec["env"]}
        variables |= {"REFILM_DATA_DIR": str(home / "data"), "HOME": str(home / "data"), "TMPDIR": str(home / "tmp")}
        quiet = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
        keep = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
        swap = {"python": sys.executable, "0.0.0.0": "127.0.0.1", "8000": str(self.port)}
        command = [swap.get(word, word).replace("/opt/refilm/tools", str(DOCKER / "tools")) for word in spec["command"]]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=keep | variables | quiet | extra, cwd=home, stdout=log, stderr=log, start_new_session=True
            )
        self.processes[name] = process
        return process

    def _value(self, item: dict[str, Any], name: str) -> str:
        if "value" in item:
            return str(item["value"])
        source = item["valueFrom"]
        return self.secrets[source["secretKeyRef"]["key"]] if "secretKeyRef" in source else name

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Kill what a test left behind."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(template, valkey, s3_endpoint, tmp_path) -> Iterator[Containers]:
    from tests.conftest import free_port

    bucket = f"cluster-{time.time_ns()}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3_endpoint, **keys)
    client.create_bucket(Bucket=bucket)
    client.close()
    values = (f"store.url=s3://{bucket}/refilm", f"store.endpointUrl={s3_endpoint}", "store.addressingStyle=path")
    grace = f"workerPools[0].shutdownGraceSeconds={GRACE}"
    rendered = template("cpu", *values, grace)
    found = {where.rpartition("/")[2]: container for where, container in containers(rendered)}
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    secrets = {"url": valkey.url, "api-keys": f"acme:{digest}", "cache-salt": "salt", "api-key": KEY}
    secrets |= {"access-key-id": "test", "secret-access-key": "test"}
    started = Containers(found, secrets, tmp_path, free_port())
    yield started
    started.stop()


def until(condition, cluster: Containers, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.1)


def probe(*arguments: str, **variables: str) -> bool:
    command = [sys.executable, str(DOCKER / "tools" / "probe.py"), *arguments]
    return subprocess.run(command, env=os.environ | variables, timeout=20).returncode == 0


def worker_probe(cluster: Containers, name: str, kind: str = "worker-ready") -> bool:
    return probe(kind, REFILM_DATA_DIR=str(cluster.folder / name / "data"), REFILM_WORKER_ID=name)


def begin(cluster: Containers, engine: dict[str, str]) -> None:
    cluster.start("api", "api")
    cluster.start("scheduler", "scheduler")
    cluster.start("worker-a", "worker", **engine)
    until(lambda: probe("api", str(cluster.port)), cluster)
    until(lambda: worker_probe(cluster, "worker-a"), cluster)


def finish(cluster: Containers) -> None:
    """SIGTERM to everything, as the kubelet does: all end by themselves, well, and leave nothing.

    The API's server finishes, then raises the signal again, which the first process of a container does not die of.
    """
    family = [part for process in cluster.processes.values() if process.poll() is None for part in whole(process.pid)]
    for process in cluster.processes.values():
        process.poll() is None and process.terminate()
    for name, process in cluster.processes.items():
        ended = process.wait(GRACE + 10)
        assert ended == 0 or (name == "api" and ended == -signal.SIGTERM), (name, cluster.logs())
    assert "Finished server process" in (cluster.folder / "api.log").read_text()
    psutil.wait_procs(family, timeout=5)
    assert [part for part in family if part.is_running() and part.status() != psutil.STATUS_ZOMBIE] == []
    for name in cluster.processes:
        assert not list((cluster.folder / name / "data").glob("work/*/*")), name


def whole(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


class Budget:
    """Counts commands of Redis and requests to the store; what an idle installation does is known per second."""

    def __init__(self, url: str, store_log: Path) -> None:
        self.redis, self.store_log = redis.Redis.from_url(url), store_log
        self.idle: Counter[str] = Counter()
        self.idle_seconds = 0.0

    def counts(self) -> Counter[str]:
        stats = self.redis.info("commandstats")
        found = Counter({name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()})
        found.update(f"s3 {verb}" for verb in re.findall(r'"(GET|PUT|POST|HEAD|DELETE) /', self.store_log.read_text()))
        return found

    def rest(self, seconds: float) -> None:
        before = self.counts()
        time.sleep(seconds)
        self.idle, self.idle_seconds = self.counts() - before, seconds

    def of(self, before: Counter[str], seconds: float) -> tuple[float, float, int]:
        """Commands per second of an idle installation, those of the job beyond that, and its requests to the store."""
        spent = self.counts() - before
        store = {name for name in spent if name.startswith("s3 ")}
        idle = sum(count for name, count in self.idle.items() if name not in store) / self.idle_seconds
        more = sum(count for name, count in spent.items() if name not in store) - idle * seconds
        return idle, more, sum(spent[name] for name in store)

    def sizes_of(self, job_id: str) -> tuple[int, int]:
        """Bytes that Redis holds for an ended job: its record, and its events, which go earlier."""
        record, events = (self.redis.memory_usage(f"rf:{kind}:{job_id}") for kind in ("job", "ev"))
        return record, events


def test_a_real_edit_through_the_containers_commands(cluster, tmp_path_factory) -> None:
    """The chart's own smoke test against API, scheduler and worker: upload, edit with the miniature, download.

    What it costs Redis and the store is held to the budget that docs/scaling.md plans with.
    """
    begin(cluster, {})
    assert probe("scheduler", str(cluster.processes["scheduler"].pid))
    [log] = tmp_path_factory.getbasetemp().glob("moto0/log")
    budget = Budget(cluster.secrets["url"], log)
    budget.rest(8)
    before, began = budget.counts(), time.monotonic()
    smoke = cluster.start("smoke", "smoke", REFILM_SMOKE_URL=f"http://127.0.0.1:{cluster.port}")
    assert smoke.wait(400) == 0, cluster.logs()
    idle, more, requests = budget.of(before, time.monotonic() - began)
    told = (cluster.folder / "smoke.log").read_text()
    assert "succeeded" in told
    record, events = budget.sizes_of(told.split()[0])
    budget.redis.close()
    found = (idle, more, requests, record, events)
    (cluster.folder / "budget.txt").write_text(f"{found}\n")
    assert all(0 < value < most for value, most in zip(found, (60, 1_800, 40, 8_000, 25_000), strict=True)), found
    del cluster.processes["smoke"]
    finish(cluster)


PACED = {"REFILM_ENGINE": "paced_engine:edit"}


def submit(client: Client, clip: str) -> Any:
    steps = {"num_inference_steps": 2, "num_inversion_steps": 2}
    return client.edit(method="frame_by_frame", video=clip, prompt="!", source_prompt="?", params=steps)


def test_a_worker_that_is_stopped_hands_its_job_on(cluster) -> None:
    """SIGTERM in the middle of a job longer than the grace: exit in time, no attempt lost, another worker finishes."""
    begin(cluster, PACED | {"PACED_SECONDS": "0.5"})
    with Client(f"http://127.0.0.1:{cluster.port}", KEY) as client:
        clip = client.upload(ROOT / "api" / "sample.mp4").id
        job = submit(client, clip)
        until(lambda: client.job(job.id).progress.stage == "edit", cluster)
        first = cluster.processes.pop("worker-a")
        family = whole(first.pid)
        first.terminate()
        began = time.monotonic()
        until(lambda: not worker_probe(cluster, "worker-a"), cluster, 5)
        assert first.wait(GRACE + 10) == 0, cluster.logs()
        assert time.monotonic() - began < GRACE
        psutil.wait_procs(family, timeout=5)
        assert not [part for part in family if part.is_running()]
        handed = client.job(job.id)
        assert handed.state == "queued" and handed.attempts[0].ended == "preempted", handed
        cluster.start("worker-b", "worker", **PACED)
        done = until(lambda: (now := client.job(job.id)).ended and now, cluster, 90)
        assert done.state == "succeeded" and done.outputs[0].name == "output.mp4", cluster.logs()
        cached = {stage.name: stage.cache for stage in done.progress.stages if stage.cache}
        assert cached == {"prepare": "hit", "invert": "hit"}
    finish(cluster)
