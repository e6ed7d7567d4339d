"""The small programs in the images: probes, exporter, pod cost, bucket and checkpoints."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from jobs.assets import Assets
from jobs.caps import set_cap
from jobs.history import Sample
from jobs.leases import Leases, Owner
from jobs.presence import announce
from jobs.queue import Bell
from jobs.request import JobRequest
from jobs.settings import Settings
from jobs.store import open_store
from jobs.submission import submit
from tests.deploy.conftest import DOCKER

pytestmark = pytest.mark.deploy


def tool(name: str) -> ModuleType:
    """One of the programs as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", DOCKER / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def enqueue(settings, records, tmp_path):
    store, bell = open_store(settings), Bell(settings)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    asset = Assets(store).add("local", path, name="clip.mp4", media_type="video/mp4")

    def one(method: str = "frame_by_frame"):
        request = JobRequest.model_validate({"method": method, "input": {"video": {"asset": asset.id}}})
        return submit(request, "local", records=records, store=store, bell=bell).job

    return one


def test_worker_probe_follows_the_files_of_the_worker(tmp_path, monkeypatch) -> None:
    from workers.signs import alive_file, drain_file

    settings = Settings(data_dir=tmp_path, worker_id="gpu-1")
    monkeypatch.setenv("REFILM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REFILM_WORKER_ID", "gpu-1")
    probe = tool("probe")
    assert probe.main(["worker"]) == 1
    alive_file(settings).parent.mkdir()
    alive_file(settings).touch()
    assert (probe.main(["worker"]), probe.main(["worker-ready"])) == (0, 0)
    drain_file(settings).touch()
    assert (probe.main(["worker"]), probe.main(["worker-ready"])) == (0, 1)
    drain_file(settings).unlink()
    old = time.time() - probe.ALIVE_SECONDS - 1
    os.utime(alive_file(settings), (old, old))
    assert (probe.main(["worker"]), probe.main(["worker-ready"])) == (1, 1)


def test_scheduler_probe_follows_its_rounds(tmp_path, monkeypatch) -> None:
    from workers.signs import scheduler_file

    monkeypatch.setenv("REFILM_DATA_DIR", str(tmp_path))
    probe, sign = tool("probe"), scheduler_file(Settings(data_dir=tmp_path))
    sign.parent.mkdir()
    sign.touch()
    assert probe.main(["scheduler"]) == 0
    old = time.time() - probe.ALIVE_SECONDS - 1
    os.utime(sign, (old, old))
    assert probe.main(["scheduler", str(os.getpid())]) == 1


@pytest.mark.parametrize(("code", "healthy"), [("while True: time.sleep(0.2)", True), ("time.sleep(60)", False)])
def test_loop_probe_tells_a_turning_loop_from_a_hung_one(code, healthy) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"import time\n{code}"])
    try:
        time.sleep(0.5)
        assert tool("probe").ticks(process.pid, 1.0) is healthy
    finally:
        process.kill()
        process.wait()
    assert tool("probe").ticks(process.pid, 0.1) is False


def test_exporter_counts_demand_in_seconds(records, enqueue) -> None:
    module = tool("exporter")
    exporter = module.Exporter(records, 60.0)
    first, second = enqueue(), enqueue()
    announce(records, "w1", pools=("default",), draining=False)
    announce(records, "w2", pools=("default",), draining=True)
    assert exporter.demand()["default"] == pytest.approx(
        {
            "queued_jobs": 2,
            "held_jobs": 0,
            "demand_gpu_seconds": 120.0,
            "pool_workers": 1,
            "oldest_queued_seconds": 0.0,
        },
        abs=5,
    )
    claim = Leases(records).claim(first.id, Owner("w1", "node", "task"))
    assert claim is not None
    exporter._read_at = -99.0
    facts = exporter.demand()["default"]
    assert (facts["queued_jobs"], facts["running_jobs"]) == (1, 1)
    assert 100 < facts["demand_gpu_seconds"] <= 120
    text = exporter.metrics().decode()
    assert 'rf_queued_jobs{pool="default"} 1.0' in text and "rf_jobs_created_total 2.0" in text
    assert "rf_scheduler_leads 0.0" in text and "rf_redis_used_bytes" in text
    assert second.id != first.id


def test_exporter_counts_what_was_forecast(records, enqueue) -> None:
    exporter = tool("exporter").Exporter(records, 60.0)
    kind = ("frame_by_frame", records.settings.checkpoint, "cpu")
    records.history.note(kind, "any", Sample(stages={"edit": 10.0, "publish": 1.0}, units={}))
    job, _, _ = enqueue(), enqueue(), enqueue("tune_a_video")  # nothing is known of the last
    assert exporter.demand()["default"]["demand_gpu_seconds"] == 33.0
    assert Leases(records).claim(job.id, Owner("w1", "node", "task")) is not None
    exporter._read_at = -99.0
    assert 22.0 < exporter.demand()["default"]["demand_gpu_seconds"] <= 33.5


def test_exporter_counts_what_a_worker_could_take(records, enqueue) -> None:
    exporter = tool("exporter").Exporter(records, 60.0)
    jobs = [enqueue() for _ in range(5)]
    set_cap(records, jobs[0].tenant, 2)
    facts = exporter.demand()["default"]
    assert (facts["queued_jobs"], facts["held_jobs"], facts["demand_gpu_seconds"]) == (5, 3, 120.0)
    assert Leases(records).claim(jobs[0].id, Owner("w1", "node", "task")) is not None
    exporter._read_at = -99.0
    facts = exporter.demand()["default"]
    assert (facts["queued_jobs"], facts["held_jobs"], facts["running_jobs"]) == (4, 3, 1)
    assert 60 < facts["demand_gpu_seconds"] <= 120
    assert 'rf_held_jobs{pool="default"} 3.0' in exporter.metrics().decode()


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.read()


def test_exporter_serves_prometheus_and_keda(records, enqueue) -> None:
    module = tool("exporter")
    enqueue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), module.handler(module.Exporter(records, 30.0)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert get(f"{url}/healthz/live")[0] == 200
        assert json.loads(get(f"{url}/demand?pools=default,other")[1]) == {"gpu_seconds": 30.0}
        assert json.loads(get(f"{url}/demand?pools=other")[1]) == {"gpu_seconds": 0}
        assert b"rf_demand_gpu_seconds" in get(f"{url}/metrics")[1]
        assert tool("probe").answers(server.server_port, "/healthz/live")
        assert not tool("probe").answers(server.server_port, "/nothing")
    finally:
        server.shutdown()
        server.server_close()


class Api(BaseHTTPRequestHandler):
    """Stands in for the cluster's API: keeps what was patched."""

    seen: list[tuple[str, dict, str]]

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body, self.headers["Authorization"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_pod_cost_spares_the_busy(settings) -> None:
    from workers.signs import busy_file

    module = tool("pod_cost")
    data, worker = settings.data_dir, settings.worker_id
    assert module.cost(data, worker) == 0
    busy_file(settings).parent.mkdir(parents=True)
    busy_file(settings).touch()
    assert module.cost(data, worker) == 1000
    old = time.time() - module.BUSY_SECONDS - 1
    os.utime(busy_file(settings), (old, old))
    assert module.cost(data, worker) == 0  # left by a process that was killed
    (data / "cache" / "cas").mkdir(parents=True)
    (data / "cache" / "cas" / "a.safetensors").touch()
    assert module.cost(data, worker) == 100


def test_pod_cost_patches_its_own_pod_when_the_cost_changes(settings, tmp_path) -> None:
    from workers.signs import busy_file

    module = tool("pod_cost")
    (tmp_path / "token").write_text("secret\n")
    Api.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = threading.Event()
    url = f"http://127.0.0.1:{server.server_port}/api/v1/namespaces/video/pods/test"
    given = (settings.data_dir, settings.worker_id, url, tmp_path, stop, 0.1)
    thread = threading.Thread(target=module.watch, args=given)
    thread.start()
    try:
        until(lambda: len(Api.seen) == 1)
        busy_file(settings).parent.mkdir(parents=True)
        busy_file(settings).touch()
        until(lambda: len(Api.seen) == 2)
    finally:
        stop.set()
        thread.join()
        server.shutdown()
        server.server_close()
    path, body, token = Api.seen[1]
    assert path == "/api/v1/namespaces/video/pods/test" and token == "Bearer secret"
    noted = body["metadata"]["annotations"]
    assert noted["controller.kubernetes.io/pod-deletion-cost"] == "1000"
    assert noted["karpenter.sh/do-not-disrupt"] == "true"
    assert Api.seen[0][1]["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] is None


def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run_tool(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "tools" / f"{name}.py"), *arguments]
    given = os.environ | {"PYTHONPATH": str(DOCKER.parent)} | variables
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120)


def test_bucket_is_made_and_checked(s3_endpoint) -> None:
    variables = {
        "REFILM_STORE": f"s3://made-{time.time_ns()}/deep",
        "REFILM_S3_ENDPOINT_URL": s3_endpoint,
        "REFILM_S3_ACCESS_KEY_ID": "test",
        "REFILM_S3_SECRET_ACCESS_KEY": "test",
    }
    first, again = (run_tool("bucket", **variables) for _ in range(2))
    assert first.returncode == 0 and "created; conditional writes: 1 of 8 won" in first.stderr, first.stderr
    assert again.returncode == 0 and "exists; conditional writes: 1 of 8 won" in again.stderr, again.stderr


def test_bucket_refuses_a_store_that_lets_everyone_win() -> None:
    class Careless:
        def put_bytes(self, key, data, *, if_none_match):
            return True

        def delete(self, key):
            pass

    assert tool("bucket").conditional(Careless()) == 8


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a download of one checkpoint needs."""

    files: dict[str, bytes]
    commit = "a" * 40

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            listed = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "org/name", "sha": self.commit, "siblings": listed, "private": False}).encode()
            return self._send(body, with_body, {})
        body = self.files.get(path.rpartition(f"/resolve/{self.commit}/")[2])
        if body is None:
            self.send_error(404)
            return None
        etag = hashlib.sha256(body).hexdigest()
        return self._send(body, with_body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit})

    def _send(self, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    Hub.files = {"model_index.json": b"{}", "unet/w.safetensors": b"weights", "unet/w.bin": b"pickle"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def manifest(path: Path, **changes: str) -> Path:
    names = ("model_index.json", "unet/w.safetensors")
    files = {name: hashlib.sha256(Hub.files[name]).hexdigest() for name in names} | changes
    path.write_text(json.dumps([{"id": "org/name", "revision": Hub.commit, "files": files}]))
    return path


def test_models_are_fetched_verified_and_marked(hub, tmp_path) -> None:
    path = manifest(tmp_path / "models.json")
    variables = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "models"), "HF_HUB_OFFLINE": "0"}
    waiting = subprocess.Popen(
        [sys.executable, str(DOCKER / "tools" / "sync_models.py"), "--wait", str(path)],
        env=os.environ | {"PYTHONPATH": str(DOCKER.parent)} | variables,
    )
    try:
        done = run_tool("sync_models", str(path), **variables)
        assert done.returncode == 0 and "2 files verified" in done.stderr, done.stderr
        assert waiting.wait(30) == 0
    finally:
        waiting.kill()
        waiting.wait()
    found = [file.name for file in (tmp_path / "models").rglob("snapshots/*/**/*") if not file.is_dir()]
    assert sorted(found) == ["model_index.json", "w.safetensors"]


def test_a_checkpoint_that_is_not_what_it_should_be_is_removed(hub, tmp_path) -> None:
    path = manifest(tmp_path / "models.json", **{"unet/w.safetensors": "0" * 64})
    done = run_tool("sync_models", str(path), HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "models"))
    assert done.returncode == 1 and "it was removed" in done.stderr, done.stderr
    assert not list((tmp_path / "models").rglob("*.safetensors"))
    assert not list((tmp_path / "models").glob("verified-*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"revision": "main"}, "not a commit"),
        ({"files": {"a.bin": "0" * 64}}, "a.bin"),
        ({"files": {"a.json": ""}}, "no sha256"),
    ],
)
def test_an_unpinned_manifest_is_refused(change, told) -> None:
    module = tool("sync_models")
    entry = {"id": "org/name", "revision": "a" * 40, "files": {"a.json": "0" * 64}}
    module.check(entry)
    with pytest.raises(module.Refused, match=told):
        module.check(entry | change)
