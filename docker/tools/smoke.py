"""One real edit through a running installation: upload a clip, edit it, fetch the result.

Settings: REFILM_SMOKE_URL, REFILM_SMOKE_KEY, REFILM_SMOKE_SECONDS (the most it may take), REFILM_SMOKE_MODEL.
The method is `frame_by_frame` with two steps: the cheapest there is, through every part of the service.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import api
from api.client import Client, RefilmError
from jobs.states import TERMINAL, State

CLIP = Path(api.__file__).with_name("sample.mp4")
PARAMS = {"num_inference_steps": 2, "num_inversion_steps": 2, "seed": 0}


def edit(client: Client, seconds: float, model: str | None) -> str:
    """Do the edit; returns one line about it. Raises RefilmError, TimeoutError or RuntimeError."""
    until = time.monotonic() + seconds
    clip = client.upload(CLIP)
    job = client.edit(
        method="frame_by_frame",
        video=clip.id,
        source_prompt="a photo of a red car in a meadow, drifting",
        prompt="a photo of a blue car in a meadow, drifting",
        params=PARAMS,
        model=model,
    )
    while job.state not in TERMINAL:
        if time.monotonic() > until:
            client.cancel(job.id)
            raise TimeoutError(f"{job.id} is {job.state} after {seconds:g} s: is a worker there?")
        time.sleep(1)
        job = client.job(job.id)
    if job.state is not State.SUCCEEDED:
        why = f"{job.error.code}: {job.error.detail or job.error.title}" if job.error else ""
        raise RuntimeError(f"{job.id} {job.state} {why}")
    with tempfile.TemporaryDirectory() as folder:
        size = client.download(job, Path(folder) / "edited.mp4").stat().st_size
    return f"{job.id} {job.state} in {job.usage.wall_seconds:.1f} s, {size} bytes"


def main() -> int:
    """Exit status 0 when the edit came back."""
    given = os.environ.get
    server, key = given("REFILM_SMOKE_URL", "http://127.0.0.1:8000"), given("REFILM_SMOKE_KEY") or None
    with Client(server, key, timeout=30) as client:
        try:
            told = edit(client, float(given("REFILM_SMOKE_SECONDS", "300")), given("REFILM_SMOKE_MODEL") or None)
        except (RefilmError, TimeoutError, RuntimeError) as error:
            sys.stderr.write(f"smoke test failed: {error}\n")
            return 1
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
