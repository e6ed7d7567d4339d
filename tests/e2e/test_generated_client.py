"""A client that openapi-python-client generates from the served document edits a clip: the commands of docs/api.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
GENERATOR = "openapi-python-client==0.29.1"
USE = """
import sys, time
from uuid import uuid4
from refilm_client import Client
from refilm_client.api.assets import assets_output_content, assets_upload
from refilm_client.api.edits import edits_create_edit
from refilm_client.api.jobs import jobs_get_job
from refilm_client.models import JobRequest, JobView, ProblemView
from refilm_client.types import File

url, clip, output = sys.argv[1:]
request = {"method": "frame_by_frame", "prompt": {"source": "a red ball", "target": "a blue ball"}}
request["params"] = {"width": 64, "height": 64, "num_inversion_steps": 3}
with Client(url) as client, open(clip, "rb") as file:
    asset = assets_upload.sync(client=client, body=File(file, "clip.mp4"))
    request["input"] = {"video": {"asset": asset.id}}
    job = edits_create_edit.sync(client=client, body=JobRequest.from_dict(request), idempotency_key=str(uuid4()))
    assert isinstance(job, JobView), job
    while job.state not in ("succeeded", "failed", "canceled", "expired"):
        job = jobs_get_job.sync(job.id, client=client, prefer="wait=10")
    assert job.state == "succeeded", job
    [name] = [part.url.rsplit("/", 1)[1] for part in job.outputs if part.media_type == "video/mp4"]
    open(output, "wb").write(assets_output_content.sync(job.id, name, client=client).payload.read())
    refused = edits_create_edit.sync(client=client, body=JobRequest.from_dict(request | {"method": "nothing"}))
    assert isinstance(refused, ProblemView) and refused.code == "unknown_method", refused
"""


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    """An environment of its own: the generator needs another typer than the project."""
    folder = tmp_path_factory.mktemp("generator")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", GENERATOR], check=True)
    return folder / "bin"


def test_a_generated_client_edits_a_clip(generator, stack, ball, decode, tmp_path):
    """Nothing of the document is left out, and its answers are what the service sends."""
    found = re.search(r"```yaml\n(.*?)```\n", PAGE, re.DOTALL)
    assert found, "docs/api.md shows no configuration"
    (tmp_path / "client.yaml").write_text(found[1])
    options = ("--config", "client.yaml", "--meta", "none", "--output-path", "refilm_client")
    done = subprocess.run(
        [generator / "openapi-python-client", "generate", "--url", f"{stack.url}/openapi.json", *options],
        cwd=tmp_path,
        env={"PATH": str(generator)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "arning" not in done.stdout + done.stderr, done.stdout + done.stderr
    output = tmp_path / "edited.mp4"
    used = subprocess.run(
        [generator / "python", "-c", USE, stack.url, ball, output], cwd=tmp_path, capture_output=True, text=True
    )
    assert used.returncode == 0, used.stdout + used.stderr
    assert len(decode(output)[0]) == len(decode(ball)[0])
