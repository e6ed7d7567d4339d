"""What the api image holds: a fresh environment with the `api` extra alone, built by the Dockerfile's own commands."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.deploy.conftest import DOCKER, ROOT
from tests.deploy.test_images import instructions

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slim(tmp_path_factory) -> Path:
    """The build stage of the api image, instruction by instruction, in a folder instead of a container."""
    base = tmp_path_factory.mktemp("slim")
    source, target = base / "src", base / "opt" / "refilm"
    source.mkdir()
    target.parent.mkdir()
    build = instructions(DOCKER / "api.Dockerfile")
    stages = [i for i, (name, _) in enumerate(build) if name == "FROM"]
    for name, value in build[stages[0] : stages[1]]:
        if name == "COPY":
            *files, _ = value.split()
            for file in files:
                copy = shutil.copytree if (ROOT / file).is_dir() else shutil.copy
                copy(ROOT / file, source / file)
        if name == "RUN":
            command = re.sub(r"--mount=\S+\s*", "", value).replace("/opt/refilm", str(target))
            command = re.sub(r"^python ", f"{sys.executable} ", command.strip())
            quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}
            done = subprocess.run(command, shell=True, cwd=source, env=quiet, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return target


def python(slim: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [slim / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, timeout=120, cwd=slim
    )


def test_there_is_no_torch_and_nothing_heavy(slim) -> None:
    names = ["torch", "diffusers", "transformers", "models", "cv2", "pytest", "moto"]
    done = python(slim, f"import importlib.util as u, json; print(json.dumps([bool(u.find_spec(n)) for n in {names}]))")
    assert done.returncode == 0 and json.loads(done.stdout) == [False] * len(names), done.stdout + done.stderr
    size = sum(path.stat().st_size for path in slim.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 450e6, f"{size / 1e6:.0f} MB"


def test_every_part_of_the_image_imports(slim) -> None:
    modules = ["api.serve", "api.client", "api.cli", "workers.scheduler", "workers.fetcher", "jobs.store_s3"]
    done = python(slim, f"import importlib\nfor name in {modules}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr
    for name in ("exporter", "bucket", "smoke", "probe"):
        path = DOCKER / "tools" / f"{name}.py"
        load = "import runpy; runpy.run_path(" + repr(str(path)) + ", run_name='imported')"
        assert python(slim, load).returncode == 0, name


def test_versions_are_those_of_the_lock(slim) -> None:
    listed = "import importlib.metadata as m; print('\\n'.join(f'{d.name}=={d.version}' for d in m.distributions()))"
    plain = {re.sub(r"[-_.]+", "-", line.strip()).lower() for line in python(slim, listed).stdout.splitlines()}
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {re.sub(r"[-_.]+", "-", line.strip()).lower() for line in lock if "==" in line}
    loose = {name for name in plain - pins if not name.startswith(("pip==", "setuptools==", "refilm=="))}
    assert len(plain) > 30 and loose == set()


def test_the_api_serves_its_methods_without_torch(slim, tmp_path) -> None:
    """With Redis and the store away: the catalogue needs neither, and readiness says 503."""
    port = free_port()
    environment = {"REFILM_DATA_DIR": str(tmp_path), "REFILM_REDIS_URL": "redis://127.0.0.1:1/0", "HOME": str(tmp_path)}
    command = [slim / "bin" / "python", "-m", "api.serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        methods = json.loads(answer(f"{url}/v1/methods"))
        assert "frame_by_frame" in [method["id"] for method in methods["data"]]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/healthz/ready", timeout=10)
        assert refused.value.code == 503
        refused.value.close()
    finally:
        process.terminate()
        process.wait(20)


def answer(url: str, seconds: float = 60.0) -> bytes:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as found:
                return bytes(found.read())
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end
            time.sleep(0.2)
