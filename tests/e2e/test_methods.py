"""Every method through the whole service with the miniature: over HTTP, and its worker killed in the edit stage."""

import json
import os
import signal
from itertools import dropwhile
from pathlib import Path

import pytest

from api.client import Client
from api.embedded import Stack
from jobs.catalogue import CATALOGUE
from tests.e2e.conftest import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

FRAMES, SIZE = 4, 64
KNOWN = json.loads(CATALOGUE.read_text(encoding="utf-8"))["methods"]
METHODS = sorted(KNOWN)
FEW = dict.fromkeys(("num_tuning_steps", "num_inversion_steps", "num_kept_steps", "num_inference_steps"), 3)
FEW |= {"null_text_inner_steps": 1}
MORE = {
    "fatezero": {"num_tuning_steps": 0, "blend_source_words": "ball", "blend_target_words": "ball"},
    "gen_l_video": {"num_tuning_steps": 0, "window": 3, "window_stride": 1},
    "ground_a_video": {"boxes": [[[0.1, 0.3, 0.5, 0.7]]], "phrases": ["a blue ball"], "source_phrases": ["a red ball"]},
    "infusion": {"num_feature_steps": 1, "num_attention_steps": 1},
    "tokenflow": {"keyframe_stride": 2},
}
"""What a method needs, or is interesting with, beyond prompts and few steps."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Two workers: what one was killed over the other takes, while the supervisor starts the first one anew."""
    settings = {"lease_seconds": "8", "scheduler_interval_seconds": "0.3", "step_state_seconds": "0.05"}
    with Stack(tmp_path_factory.mktemp("methods"), workers=2, settings=settings) as stack:
        yield stack


@pytest.fixture
def start(client, ball):
    """Start an edit of the ball with few steps and what the method needs."""

    def begin(method, **changes):
        schema = KNOWN[method]["params"]["properties"]
        given = FEW | {"max_frames": FRAMES, "width": SIZE, "height": SIZE} | MORE.get(method, {}) | changes
        params = {name: value for name, value in given.items() if name in schema}
        texts = {"prompt": "a blue ball", "source_prompt": "a red ball"}
        words = {name: text for name, text in texts.items() if name in schema}
        return client.edit(method=method, video=client.upload(ball).id, params=params, **words)

    return begin


def ended(client: Client, job):
    *_, last = client.watch(job.id)
    assert last.state == "succeeded", last.error
    return last


def kept_in_edit(logs: Path, job_id: str) -> tuple[str, int] | None:
    """The worker of the job's edit and the last step whose state it has kept, as its log tells at once."""
    for log in logs.glob("worker-*.log"):
        lines = [json.loads(line) for line in log.read_text().splitlines() if job_id in line and line.endswith("}")]
        assert all(line["event"] != "job left" for line in lines), lines[-1]
        edit = dropwhile(lambda line: (line["event"], line.get("stage")) != ("stage.begun", "edit"), lines)
        steps = [int(line["step"]) for line in edit if line["event"] == "state kept"]
        if steps:
            return log.stem, steps[-1]
    return None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_edits_a_clip_over_http(client, start, decode, tmp_path, method):
    last = ended(client, start(method))
    stages = {stage.name: stage for stage in last.progress.stages}
    assert {stage.state for stage in stages.values()} <= {"done", "skipped"}
    assert stages["edit"].frame_evals >= 3 * FRAMES and last.usage.frame_evals >= stages["edit"].frame_evals
    pictures, rate = decode(client.download(last, tmp_path / "out.mp4"))
    assert (pictures.shape, rate) == ((FRAMES, 64, 96, 3), 8.0)
    assert pictures.std() > 5


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_killed_in_the_edit_stage_costs_no_more_than_since_the_last_state(stack, client, start, method):
    job = start(method, num_inference_steps=16, seed=1)
    worker, step = eventually(lambda: kept_in_edit(stack.data_dir / "logs", job.id), 600)
    os.killpg(stack.child(worker).pid, signal.SIGKILL)
    last = ended(client, job)
    assert [attempt.ended for attempt in last.attempts] == ["worker_lost", "succeeded"]
    edit = next(stage for stage in last.progress.stages if stage.name == "edit")
    assert edit.resumed_frame_evals >= step * FRAMES and edit.resumed_frame_evals < edit.frame_evals
    partial = stack.data_dir / "store" / "partial"  # whose folders go while they are walked through
    eventually(lambda: not any("latest.json" in files for _, _, files in os.walk(partial)))
