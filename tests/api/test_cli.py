"""The command line against a real server: exit codes, stdout for results, stderr for the rest."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from api.cli import app
from jobs.history import Sample

RUN = CliRunner()


@pytest.fixture
def busy(local_worker):
    """A worker that ends every job it finds: `fail` in the prompt fails it, `wait` leaves it running."""
    stop = threading.Event()

    def work():
        while not stop.wait(0.05):
            for job_id in local_worker.records.redis.zrange("rf:q:pos:default", 0, -1):
                end(job_id)

    def end(job_id):
        prompt = local_worker.records.get(job_id).request.prompt.target
        if "fail" in prompt:
            local_worker.fail(job_id, "gpu.out_of_memory", "too many frames")
        elif "wait" in prompt:
            local_worker.progress(local_worker.claim(job_id), 0.5, "edit")
        else:
            local_worker.succeed(job_id, b"result")

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("busy")
def test_edit_writes_the_result_and_says_where(refilm, clip, tmp_path):
    out = tmp_path / "out.mp4"
    done = refilm(
        *("edit", clip, "--method", "frame_by_frame", "--prompt", "a blue ball", "--source-prompt", "a red ball"),
        *("-p", "num_inference_steps=3", "-p", "guidance_scale=2.5", "--seed", 7, "-o", out),
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert out.read_bytes() == b"result"
    assert "succeeded" in done.stderr
    listed = json.loads(refilm("jobs", "--json").stdout)["data"]
    assert [job["state"] for job in listed] == ["succeeded"]


@pytest.mark.usefixtures("busy")
def test_a_failed_job_is_exit_1_with_its_code(refilm, clip, tmp_path):
    done = refilm("edit", clip, "--method", "frame_by_frame", "--prompt", "fail", "-o", tmp_path / "out.mp4")
    assert done.exit_code == 1
    assert "gpu.out_of_memory" in done.stderr and "too many frames" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clip": "no-such.mp4"}, "does not exist"),
        ({"--method": "no_such"}, "not_found"),
        ({"-p": "num_inference_steps=0"}, "num_inference_steps"),
        ({"-p": "num_inference_steps"}, "name=value"),
        ({"-p": "no_such=1"}, "no_such"),
        ({"-i": "mask=no-such.png"}, "no-such.png"),
        ({"-o": "out.avi"}, ".mp4"),
        ({"-o": "no/such/folder/out.mp4"}, "folder"),
    ],
)
def test_wrong_usage_is_exit_2(refilm, clip, tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    options = {"clip": clip, "--method": "frame_by_frame", "--prompt": "x", "-o": "out.mp4"} | change
    given = options.pop("clip")
    done = refilm("edit", given, *(part for option in options.items() for part in option))
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stdout == ""


def test_a_bad_clip_is_exit_2_with_its_code(refilm, tmp_path):
    text = tmp_path / "clip.mp4"
    text.write_text("no film")
    done = refilm("edit", text, "--method", "frame_by_frame", "--prompt", "x", "-o", tmp_path / "out.mp4")
    assert (done.exit_code, "unsupported_media" in done.stderr) == (2, True)


def test_no_server_is_exit_1_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr("api.client.pause", lambda *_: 0.0)
    done = RUN.invoke(app, ["methods", "--server", "http://127.0.0.1:1"])
    assert done.exit_code == 1
    assert "refilm up" in done.stderr


def test_methods_and_their_parameters(refilm):
    assert "frame_by_frame" in refilm("methods").stdout
    shown = refilm("methods", "frame_by_frame")
    assert shown.exit_code == 0 and "num_inference_steps" in shown.stdout
    assert json.loads(refilm("methods", "frame_by_frame", "--json").stdout)["params"]["properties"]
    assert refilm("methods", "no_such").exit_code == 2


@pytest.mark.usefixtures("busy")
def test_ctrl_c_cancels_the_job(served, clip, tmp_path, local_worker):
    command = [sys.executable, "-m", "api.cli", "edit", str(clip), "--method", "frame_by_frame", "--prompt", "wait"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out.mp4")],
        env=os.environ | {"REFILM_SERVER": served},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "running" not in (line := process.stderr.readline()):
        assert line, "it ended before the job ran"
    process.send_signal(signal.SIGINT)
    [job_id] = local_worker.records.redis.zrange("rf:jobs:local", 0, -1)
    end = time.monotonic() + 20
    while local_worker.records.get(job_id).state != "canceling" and time.monotonic() < end:
        time.sleep(0.05)
    job = local_worker.records.get(job_id)
    local_worker.finish_canceled(job)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "canceled" in told


def test_usage_and_limits_are_shown_and_set(refilm, settings, clip, monkeypatch):
    monkeypatch.setenv("REFILM_REDIS_URL", settings.redis_url)
    done = refilm("quota", "local", "--running", 2, "--jobs", 5, "--gpu-seconds", 3600)
    assert done.exit_code == 0 and "3,600" in done.stdout and "no limit" in done.stdout, done.output
    asked = ("estimate", clip, "-m", "frame_by_frame", "--prompt", "a blue ball")
    assert refilm(*asked).exit_code == 0
    used = json.loads(refilm("usage", "--json").stdout)
    limits = [used[name]["limit"] for name in ("concurrent", "queued", "gpu_seconds_today", "bytes_stored")]
    assert limits == [2, 5, 3600, None] and used["bytes_stored"]["used"] == clip.stat().st_size
    shown = refilm("usage").stdout
    assert "jobs waiting" in shown and "UTC" in shown and f"{clip.stat().st_size:,}" in shown
    assert "3,600" not in refilm("quota", "local", "--gpu-seconds", "usual").stdout
    for wrong in (("--jobs", "many"), ("--running", "-1"), ("--running", "1.5"), ("--bytes", "nan")):
        assert refilm("quota", "local", *wrong).exit_code == 2
    assert refilm("quota", "../x").exit_code == 2


def test_an_estimate_makes_no_job_and_says_what_it_rests_on(refilm, clip, local_worker):
    kind = ("frame_by_frame", local_worker.records.settings.checkpoint, "cpu")
    for _ in range(3):
        local_worker.records.history.note(kind, "any", Sample(stages={"edit": 12.5, "publish": 1.0}, units={}))
    asked = ("estimate", clip, "-m", "frame_by_frame", "--prompt", "a blue ball", "-p", "num_inference_steps=3")
    shown = refilm(*asked)
    assert shown.exit_code == 0 and "12.5" in shown.stdout and "3 edits" in shown.stdout, shown.output
    found = json.loads(refilm(*asked, "--json").stdout)
    assert (found["seconds"], found["work"]["steps"]["edit"], found["queue"]["position"]) == (13.5, 3, 1)
    assert json.loads(refilm("jobs", "--json").stdout)["data"] == []
    refused = refilm(*asked, "-p", "num_inference_steps=0")
    assert refused.exit_code == 2 and "num_inference_steps" in refused.stderr
