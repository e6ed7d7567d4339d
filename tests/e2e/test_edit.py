"""A clip goes in, an edited clip comes out: HTTP, record, Celery worker, engine, store, download."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli import app
from api.embedded import Stack, StackError
from tests.e2e.conftest import eventually


def finished(client, job):
    *_, last = client.watch(job.id)
    assert last.state == "succeeded", last.error
    return last


def stages(job):
    return {stage.name: stage.cache or stage.state for stage in job.progress.stages}


def test_an_edit_by_command_line_keeps_frames_size_and_rate(stack, ball, tmp_path, decode):
    out = tmp_path / "out.mp4"
    words = ["--method", "frame_by_frame", "--prompt", "a blue ball", "--source-prompt", "a red ball", "--seed", "1"]
    small = ["-p", "width=64", "-p", "height=64", "-p", "num_inference_steps=3", "-p", "num_inversion_steps=3"]
    done = CliRunner().invoke(app, ["edit", str(ball), *words, *small, "-o", str(out), "--server", stack.url])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(out)
    (before, rate), (after, new_rate) = decode(ball), decode(out)
    assert after.shape == before.shape
    assert new_rate == rate
    assert np.abs(after.astype(int) - before).mean() > 1


def test_a_second_prompt_reuses_what_does_not_depend_on_it(client, edit):
    first = finished(client, edit(num_inference_steps=3, seed=2))
    second = finished(client, edit("a green ball", num_inference_steps=3, seed=2))
    assert (stages(second)["prepare"], stages(second)["invert"]) == ("hit", "hit")
    assert second.usage.saved_frame_evals > 0
    assert second.usage.frame_evals < first.usage.frame_evals or first.usage.saved_frame_evals > 0
    assert second.outputs[0].sha256 != first.outputs[0].sha256


def test_cancel_stops_a_running_job(client, edit):
    job = edit(num_inference_steps=900)
    for seen in client.watch(job.id):
        if seen.progress.stage == "edit" and seen.state == "running":
            client.cancel(job.id)
            break
    *_, last = client.watch(job.id)
    assert (last.state, last.outputs) == ("canceled", ())


def test_a_failed_job_keeps_its_reason(client, edit):
    job = edit(start_seconds=5.0)  # after the clip's end: only the worker can tell
    *_, last = client.watch(job.id)
    assert last.state == "failed"
    assert last.error.code.startswith(("input.", "validation_failed"))


def test_two_stacks_never_share_a_folder(stack):
    with pytest.raises(StackError, match="in use"):
        Stack(stack.data_dir).start()


def test_a_port_in_use_is_told(stack, tmp_path):
    with pytest.raises(StackError, match="cannot listen") as told, Stack(tmp_path, port=int(stack.url.split(":")[-1])):
        pass
    assert told.value.usage


def test_a_batch_by_command_line_reuses_inversions_and_teaches_estimates(stack, client, ball, tmp_path):
    small = ["-p", "width=64", "-p", "height=64", "-p", "num_inference_steps=3", "-p", "num_inversion_steps=3"]
    axes = [
        "--video",
        str(ball),
        "-m",
        "frame_by_frame",
        "--prompt",
        "a ball",
        "--prompt",
        "a box",
        "--prompt",
        "a cat",
    ]
    words = ["--source-prompt", "a square that moves"]
    out = tmp_path / "batch"
    done = CliRunner().invoke(app, ["batch", *axes, *words, *small, "-o", str(out), "--server", stack.url])
    assert done.exit_code == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert len(list(out.glob("*.mp4"))) == summary["counts"]["succeeded"] == 3
    [*_, last] = client.batches.jobs(summary["batch"])
    assert stages(last)["invert"] == "hit"
    params = {"width": 64, "height": 64, "num_inference_steps": 3, "num_inversion_steps": 3}
    asked = {"method": "frame_by_frame", "video": client.upload(ball).id, "prompt": "a dog", "params": params}
    eventually(lambda: client.estimate(**asked).samples >= 3)  # what was read lately is remembered for two seconds
    told = client.estimate(**asked, source_prompt="a square that moves")
    assert told.seconds > 0 and told.queue.workers == 1 and told.eta.finish is not None
    assert {stage.name: stage.cache for stage in told.stages}["invert"] == "hit"
    assert client.method("frame_by_frame").times.jobs >= 3
    assert client.usage().bytes_stored.used > 0
