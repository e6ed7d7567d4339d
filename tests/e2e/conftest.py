"""The whole embedded stack, with the tiny network: real processes, random weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from api.client import Client
from api.embedded import Stack

SETTINGS = {"checkpoint": "tiny", "lease_seconds": "3", "scheduler_interval_seconds": "0.3", "log_level": "INFO"}
SMALL = {"width": 64, "height": 64, "num_inversion_steps": 3}
WORDS = {"method": "frame_by_frame", "source_prompt": "a red ball", "prompt": "a blue ball"}


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def decode():
    """Every picture of a clip, and its rate."""

    def read(path):
        with av.open(str(path)) as container:
            [stream] = container.streams.video
            rate = float(stream.average_rate)
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), rate

    return read


@pytest.fixture
def small():
    return SMALL


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("stack"), settings=SETTINGS) as stack:
        yield stack


@pytest.fixture
def client(stack):
    with Client(stack.url) as client:
        yield client


@pytest.fixture
def edit(client, ball):
    """Start an edit of the ball; keywords are parameters of the method."""

    def start(prompt=WORDS["prompt"], **params):
        asset = client.upload(ball)
        return client.edit(**(WORDS | {"prompt": prompt, "video": asset.id, "params": SMALL | params}))

    return start


class Up:
    """`refilm up` as a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        variables = {f"REFILM_{name.upper()}": value for name, value in SETTINGS.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "up", "--data-dir", str(data_dir), "--port", "0"],
            env=os.environ | variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "listening on" in line, line + self.process.stderr.read()
        self.url = line.split("listening on ")[1].split(",")[0]

    def family(self) -> list[int]:
        return [self.process.pid, *(p.pid for p in psutil.Process(self.process.pid).children(recursive=True))]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def up(tmp_path):
    started = []

    def start(name="data"):
        started.append(Up(tmp_path / name))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "not true in time"
        time.sleep(0.1)
    return value


@pytest.fixture
def gone():
    """Wait until none of these processes is alive."""
    return lambda family: eventually(lambda: not any(map(alive, family)), 20)
