"""The examples of docs/api.md, run as they stand against a server whose worker ends every job."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = dict(re.findall(r"```(bash|python|js)\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL))


@pytest.fixture
def finishing(local_worker):
    """A worker that ends every job it finds."""
    stop = threading.Event()

    def work():
        while not stop.wait(0.05):
            for job_id in local_worker.records.redis.zrange("rf:q:pos:default", 0, -1):
                local_worker.succeed(job_id, b"result of " + job_id.encode())

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("finishing")
@pytest.mark.parametrize(
    ("language", "command"),
    [("bash", ["bash", "-euo", "pipefail"]), ("python", [sys.executable]), ("js", ["node"])],
    ids=["curl", "python", "javascript"],
)
def test_an_example_of_the_documentation_runs(served, clip, local_worker, tmp_path, language, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    folder = tmp_path / "example"
    folder.mkdir()
    shutil.copy(clip, folder / "clip.mp4")
    script = folder / {"bash": "example.sh", "python": "example.py", "js": "example.mjs"}[language]
    script.write_text(BLOCKS[language])
    variables = {"REFILM_SERVER": served, "REFILM_API_KEY": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, script.name], cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    [job_id] = local_worker.records.ask("ZRANGE", "rf:jobs:local", 0, -1)
    assert (folder / "out.mp4").read_bytes() == b"result of " + job_id.encode()
    assert local_worker.records.get(job_id).request.params == {"seed": 7}
