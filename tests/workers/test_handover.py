"""Jobs that go on at a step, with real processes and the real engine: shutdowns, and a kill between two of them."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.schema import Job, StageProgress
from models import video
from tests.conftest import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

REAL = {
    "engine": "paced_real:edit",
    "checkpoint": "tiny",
    "device": "cpu",
    "shutdown_grace_seconds": 12,
    "lease_seconds": 15,
}
BODY = {
    "method": "tune_a_video",
    "prompt": {"target": "a red car", "source": "a car"},
    "params": {"num_tuning_steps": 30, "num_inversion_steps": 5, "num_inference_steps": 30},
    "cache": {"inversion": "use"},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    ramp = torch.linspace(0, 1, 64)
    video.write(path, torch.stack([ramp.roll(3 * shift).expand(3, 64, 64) for shift in range(2)]), 8.0)
    return path.read_bytes()


def stage_of(stack: Any, job: Job, name: str) -> StageProgress:
    return next(stage for stage in stack.job(job).progress.stages if stage.name == name)


def reach(stack: Any, job: Job, name: str, step: int) -> None:
    wait_for(lambda: (stage_of(stack, job, name).step or 0) >= step, 500)


def kept_steps(stack: Any) -> list[int]:
    """Steps at which states lie in the store."""
    found = [info.key for info in stack.store.list("partial/") if info.key.endswith("latest.json")]
    return [int(json.loads(stack.store.get_bytes(key))["step"]) for key in found]


def steps_said(log: Path, event: str) -> list[int]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [int(line["step"]) for line in lines if line.get("event") == event]


def uninterrupted(stack: Any, clip: bytes) -> Job:
    worker = stack.worker("whole")
    done = stack.wait(stack.submit(clip, **BODY), "succeeded", seconds=600)
    worker.terminate()  # it would answer the bells of others
    worker.wait(60)
    return done


def test_shutdowns_inside_tuning_and_denoising_repeat_no_step(make_stack, clip) -> None:
    expected = uninterrupted(make_stack(**REAL | {"engine": "workers.engine:edit"}, redis_prefix="whole:"), clip)
    stack = make_stack(**REAL)
    job, stopped = stack.submit(clip, **BODY), []
    for number, stage in enumerate(("fit", "edit")):
        worker = stack.worker(f"w{number}")
        reach(stack, job, stage, 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        handed = stack.job(job)
        assert (handed.state, handed.attempt, handed.attempts[-1].ended) == ("queued", 0, "preempted")
        stopped += kept_steps(stack)
    assert len(stopped) == 2 and all(stopped)
    stack.worker("last")
    done = stack.wait(job, "succeeded", seconds=600)
    logs = [stack.logs / f"{number}.log" for number in range(3)]
    assert [steps_said(log, "state found") for log in logs] == [[], stopped[:1], stopped[1:]]
    assert stage_of(stack, job, "edit").resumed_frame_evals == stopped[1] * 4  # two frames, two branches
    assert done.usage.frame_evals + done.usage.saved_frame_evals == expected.usage.frame_evals
    assert done.outputs[0].sha256 == expected.outputs[0].sha256
    wait_for(lambda: kept_steps(stack) == [])  # after the commit, so a moment later


def test_a_killed_worker_loses_no_more_than_since_the_last_state(make_stack, clip) -> None:
    stack = make_stack(**REAL, step_state_seconds=0.5)
    stack.scheduler()
    worker = stack.worker("a")
    job = stack.submit(clip, **BODY)
    (kept, *_) = wait_for(lambda: [step for step in kept_steps(stack) if step >= 5], 500)
    reach(stack, job, "fit", kept)
    stack.child_of(worker).kill()
    worker.kill()
    stack.worker("b")
    done = stack.wait(job, "succeeded", seconds=600)
    assert [attempt.ended for attempt in done.attempts] == ["worker_lost", "succeeded"]
    assert stage_of(stack, job, "fit").resumed_frame_evals >= kept * 2
    wait_for(lambda: kept_steps(stack) == [])  # after the commit, so a moment later
