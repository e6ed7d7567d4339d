"""A real Valkey, a folder as store, the application without workers."""

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import structlog
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from api.app import create_app
from api.auth import digest
from api.cli import app
from api.serve import Server
from api.settings import ApiSettings
from jobs import layout
from jobs.deliveries import Deliveries, Delivery
from jobs.leases import Claim, Leases, Outcome, Owner
from jobs.records import Records
from jobs.schema import JobError, Output, Progress
from jobs.settings import Settings
from jobs.store import open_store
from jobs.webhooks import Endpoints

# The console's tracebacks with all locals take half a minute.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
KEYS = {"alpha": "key-of-alpha", "beta": "key-of-beta"}


@pytest.fixture
def settings(valkey: Any, tmp_path: Path) -> Settings:
    """Bounds small enough to be exceeded by small files."""
    return Settings(
        data_dir=tmp_path / "data",
        redis_url=valkey.url,
        max_upload_bytes=1 << 20,
        max_pixels=1024 * 1024,
        max_duration_seconds=60,
        max_frames=200,
    )


@pytest.fixture
def api(settings: Settings) -> ApiSettings:
    keys = tuple(f"{tenant}:{digest(key)}:read+write+webhooks+admin" for tenant, key in KEYS.items())
    return ApiSettings(keys=keys, max_body_bytes=64 << 10)


@pytest.fixture
def http(settings: Settings, api: ApiSettings) -> Iterator[TestClient]:
    """The application, called as tenant alpha."""
    headers = {"Authorization": f"Bearer {KEYS['alpha']}"}
    with TestClient(create_app(settings, api), headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def as_beta() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS['beta']}"}


def write_clip(
    path: Path, *, frames: int = 4, size: tuple[int, int] = (64, 64), fps: int = 8, seconds_apart: int = 0
) -> Path:
    """An H.264 clip of noise, small; `seconds_apart` stretches its time without more frames."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if not frames:
            container.start_encoding()
        for number in range(frames):
            picture = noise.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number * (seconds_apart * fps if seconds_apart else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Write a clip of this kind into the test's folder."""
    return lambda **kind: write_clip(tmp_path / "made.mp4", **kind)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def problem() -> Callable[..., dict[str, Any]]:
    """Check that an answer is a problem document of this status and code; the document."""

    def check(answer: Any, status: int, code: str) -> dict[str, Any]:
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = answer.json()
        assert document["status"] == status
        assert document["type"] == f"/v1/errors/{code}"
        assert document["request_id"] == answer.headers["x-request-id"]
        if "retry_after" in document:
            assert answer.headers["retry-after"] == str(document["retry_after"])
        return document

    return check


@pytest.fixture
def upload(http: TestClient, clip: Path) -> Callable[..., dict[str, Any]]:
    """Upload the clip; the asset."""

    def send(**headers: str) -> dict[str, Any]:
        answer = http.post("/v1/uploads", content=clip.read_bytes(), headers=headers)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return send


@pytest.fixture
def edit(http: TestClient, upload: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Post an edit of the clip; keywords go over the shortest valid body."""

    def send(headers: dict[str, str] | None = None, **over: Any) -> Any:
        body = {"method": "frame_by_frame", "input": {"video": {"asset": upload()["id"]}}, "prompt": {"target": "x"}}
        return http.post("/v1/edits", json=body | over, headers=headers or {})

    return send


class HandWorker:
    """A worker's side of the records, moved by the test instead of by a process."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self.records, self.store, self.tenant = Records(settings), open_store(settings), tenant
        self.leases = Leases(self.records)

    def claim(self, job_id: str) -> Any:
        return self.leases.claim(job_id, Owner("w", "w@host", "task"))

    def succeed(self, job_id: str, content: bytes = b"0123456789", held: Any = None) -> None:
        """Run a job to its end with this content as its only output."""
        held = held or self.claim(job_id)
        key = layout.attempt_folder(self.tenant, job_id, held.fence) + "video.mp4"
        self.store.put_bytes(key, content)
        output = Output(name="video.mp4", media_type="video/mp4", size_bytes=len(content), sha256="a" * 64, key=key)
        self.leases.finalize(held)
        assert self.leases.finish(held, Outcome("succeeded", outputs=(output,))) == "succeeded"

    def fail(self, job_id: str, code: str, detail: str = "", **more: Any) -> None:
        held = self.claim(job_id)
        self.leases.finish(held, Outcome("failed", error=JobError.of(code, detail, **more)))

    def finish_canceled(self, job: Any) -> None:
        assert self.leases.finish(Claim(job, job.fence), Outcome("canceled")) == "canceled"

    def progress(self, held: Any, fraction: float, stage: str) -> None:
        self.leases.beat(held, progress=Progress(fraction=fraction, stage=stage, stage_index=5))

    def close(self) -> None:
        self.records.redis.close()


@pytest.fixture
def worker(settings: Settings) -> Iterator[HandWorker]:
    worker = HandWorker(settings, "alpha")
    yield worker
    worker.close()


@pytest.fixture
def local_worker(settings: Settings) -> Iterator[HandWorker]:
    worker = HandWorker(settings, "local")
    yield worker
    worker.close()


@pytest.fixture
def local_delivery(settings: Settings, local_worker: HandWorker) -> Delivery:
    """A webhook endpoint of the open server's tenant, and a message that is to go there."""
    endpoints, sent = Endpoints(local_worker.records, local_worker.store), Deliveries(local_worker.records)
    made, _ = endpoints.create("local", "https://hooks.example", events=("job.failed",), description="")
    fields = {"tenant": "local", "type": "job.failed", "job": "job_x", "version": 1, "at": 1, "webhook": ""}
    local_worker.records.redis.xadd("rf:outbox", fields)
    assert sent.spread(sent.rows()[0], {made.id: "{}"})
    return sent.of_endpoint(made.id, before=None, limit=1)[0]


@contextmanager
def serving(settings: Settings, api: ApiSettings | None = None) -> Iterator[str]:
    """The application behind a real socket, open to loopback unless its own settings say otherwise; its URL."""
    app = create_app(settings, api or ApiSettings(open=True, max_streams=2))
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2), app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Serve other settings."""
    return serving


@pytest.fixture
def served(settings: Settings) -> Iterator[str]:
    """The application behind a real socket, open to loopback; its URL."""
    with serving(settings) as url:
        yield url


@pytest.fixture
def refilm(served: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command against the server; the finished result."""
    monkeypatch.setenv("REFILM_SERVER", served)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
