"""The runner with the real engine: a real method on the tiny checkpoint, one process, no Celery."""

import io
import json
import os
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs import journal, layout
from jobs.assets import Assets
from jobs.leases import Owner
from jobs.queue import Bell
from jobs.request import JobRequest
from jobs.schema import Job
from jobs.settings import Settings
from jobs.submission import submit
from models import video
from models.backbones import tiny
from models.backbones.backbone import Backbone
from tests.conftest import wait_for
from workers import engine
from workers.heartbeat import Heartbeat
from workers.runner import Runner
from workers.signs import drain_file
from workers.work import Edit, Fetched, Hooks, Made


class House:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self.runner = Runner(settings)
        self.folder = folder
        self.calls = 0

    def submit(self, clip: bytes, *, input_trim: dict[str, float] | None = None, **body: object) -> Job:
        path = self.folder / "upload"
        path.write_bytes(clip)
        asset = Assets(self.runner.store).add("local", path, name="clip.mp4", media_type="video/mp4")
        given = {"video": {"asset": asset.id}, "trim": input_trim}
        request = JobRequest.model_validate({"method": "frame_by_frame", "input": given} | body)
        runner = self.runner
        return submit(request, "local", records=runner.records, store=runner.store, bell=runner.bell).job

    def run(self, job: Job) -> Job:
        self.calls += 1
        self.runner.run(job.id, Owner("test", "w-test@h", f"task-{self.calls}"))
        return self.runner.records.get(job.id)


@pytest.fixture
def house(settings: Settings, tmp_path: Path) -> House:
    return House(settings.model_copy(update={"checkpoint": "tiny", "device": "cpu"}), tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    ramp = torch.linspace(0, 1, 64)
    frames = torch.stack([ramp.roll(3 * shift).expand(3, 64, 64) for shift in range(4)])
    video.write(path, frames, 8.0)
    return path.read_bytes()


STEPS = {"num_inference_steps": 3, "num_inversion_steps": 3}


def test_a_clip_is_edited_published_and_the_next_prompt_reuses_its_inversion(house: House, clip: bytes) -> None:
    first = house.run(house.submit(clip, prompt={"target": "a red car", "source": "a car"}, params=STEPS))
    assert first.error is None and first.state == "succeeded"
    output, figures = first.outputs
    assert (figures.name, figures.media_type, figures.frames) == ("metrics.json", "application/json", 4)
    measured = json.loads(house.runner.store.get_bytes(figures.key))
    assert measured["series"][0]["key"] == "refilm.warp_mse@dis" and len(measured["series"][0]["values"]) == 4
    assert (output.width, output.height, output.frames, output.fps) == (64, 64, 4, 8.0)
    path = house.folder / "result.mp4"
    house.runner.store.get_file(output.key, path)
    footage = video.read(path, native_size=64)
    assert footage.frames.shape == (4, 3, 64, 64)
    assert [stage.state for stage in first.progress.stages] == [
        "done",
        "done",
        "skipped",
        "done",
        "done",
        "done",
        "done",
    ]
    assert first.usage.frame_evals > 0 and first.placement.checkpoint == "tiny"

    second = house.run(house.submit(clip, prompt={"target": "a blue car", "source": "a car"}, params=STEPS))
    cache = {stage.name: stage.cache for stage in second.progress.stages if stage.cache}
    assert cache == {"prepare": "hit", "invert": "hit"}
    assert second.usage.saved_frame_evals > 0 and second.placement.warm
    assert second.usage.frame_evals < first.usage.frame_evals
    receipt = json.loads(house.runner.store.get_bytes(output.key.replace("output.mp4", "receipt.json")))
    assert receipt["model"]["checkpoint"] == "tiny" and set(receipt["keys"]) >= {"prepare", "invert", "edit"}
    settings = house.runner.settings
    assert list((settings.data_dir / "work" / settings.worker_id).iterdir()) == []


def test_a_receipt_makes_the_same_output_again_bit_for_bit(house: House, clip: bytes) -> None:
    store = house.runner.store
    body = {"prompt": {"target": "a red car", "source": "a car"}, "params": STEPS | {"seed": 5}, "adherence": "flex_2"}
    first = house.run(house.submit(clip, input_trim={"start": 0.0, "end": 0.4}, **body))
    receipt = json.loads(store.get_bytes(layout.receipt("local", first.id, first.fence)))
    assert receipt["seed"] == 5 and receipt["request"]["model"] == "tiny"
    assert receipt["inputs"]["video"]["sha256"] == sha256(clip).hexdigest()
    assert receipt["request"]["params"]["strength"] == 0.65 and "adherence" not in receipt["request"]

    request = JobRequest.model_validate(receipt["request"] | {"cache": {"inversion": "off"}})
    runner = house.runner
    again = house.run(submit(request, "local", records=runner.records, store=store, bell=runner.bell).job)
    assert [item.cache for item in again.progress.stages if item.cache] == ["miss", "miss"]
    assert again.outputs[0].sha256 == first.outputs[0].sha256 == receipt["outputs"][0]["sha256"]
    assert json.loads(store.get_bytes(layout.receipt("local", again.id, again.fence)))["keys"] == receipt["keys"]


def test_a_controlnet_is_loaded_before_the_first_stage_and_in_the_receipt(house: House, clip: bytes) -> None:
    folder = str(house.folder / "net")
    tiny.make_controlnet().save_pretrained(folder)
    params = {"num_inference_steps": 2, "num_inversion_steps": 2, "max_frames": 2, "control_net": folder}
    job = house.run(house.submit(clip, prompt={"target": "a red car"}, params=params))
    assert job.error is None
    held = json.loads(house.runner.store.get_bytes(layout.receipt("local", job.id, job.fence)))["companions"]
    assert set(held) == {folder} and set(held[folder]["files"]) == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    wrong = house.run(house.submit(clip, prompt={"target": "a red car"}, params=params | {"control_net": "/nowhere"}))
    assert wrong.error is not None and wrong.error.code == "model.unavailable"
    assert wrong.usage.frame_evals == 0


def test_previews_show_the_edit_under_way_and_change_nothing(house: House, clip: bytes) -> None:
    body = {"prompt": {"target": "a red car", "source": "a car"}, "params": STEPS | {"num_inference_steps": 5}}
    plain = house.run(house.submit(clip, **body))
    job = house.submit(clip, output={"preview": {"every_steps": 2, "max_px": 64}}, **body)
    seen = house.run(job)
    assert seen.outputs[0].sha256 == plain.outputs[0].sha256
    told = [event.data for event in house.runner.records.events(job.id) if event.type == "preview"]
    assert told[-1]["step"] == 4 and {item["step"] for item in told} <= {2, 4}
    preview = house.runner.records.get(job.id).preview
    assert preview is not None and preview.steps == 5 and (preview.width, preview.height) == (64, 64)
    folder = layout.attempt_folder("local", job.id, seen.fence)
    with Image.open(io.BytesIO(house.runner.store.get_bytes(folder + preview.name))) as picture:
        assert (picture.format, picture.size, picture.n_frames) == ("WEBP", (64, 64), preview.frames)


def test_the_log_tells_what_happened_and_nothing_else(house: House, clip: bytes) -> None:
    body = {"prompt": {"target": "a secret prompt", "source": "y"}, "params": STEPS}
    house.run(house.submit(clip, **body))
    lines = journal.read(house.runner.records, house.run(house.submit(clip, **body)).id)
    told = [(line.event, line.stage or line.facts.get("state") or line.facts.get("outcome")) for line in lines]
    assert told[:4] == [("state", "accepted"), ("state", "queued"), ("state", "running"), ("stage.begun", "fetch")]
    assert told[-2:] == [("attempt.ended", "succeeded"), ("state", "succeeded")]
    assert [line.facts["cache"] for line in lines if line.event == "stage.ended" and line.stage == "prepare"] == ["hit"]
    assert {line.attempt for line in lines[2:]} == {1} and {line.worker for line in lines[2:]} == {"test"}
    text = "".join(line.model_dump_json() for line in lines)
    assert "secret" not in text and "/" not in text and "clip.mp4" not in text


def test_other_tenants_and_modes_do_not_share_the_cache(house: House, clip: bytes) -> None:
    body = {"prompt": {"target": "x", "source": "y"}, "params": STEPS}
    house.run(house.submit(clip, **body))
    for mode in ("refresh", "off"):
        job = house.run(house.submit(clip, cache={"inversion": mode}, **body))
        assert [stage.cache for stage in job.progress.stages if stage.cache] == ["miss", "miss"]
    path = house.folder / "upload"
    asset = Assets(house.runner.store).add("other", path, name="clip", media_type="video/mp4")
    request = JobRequest.model_validate({"method": "frame_by_frame", "input": {"video": {"asset": asset.id}}} | body)
    runner = house.runner
    theirs = submit(request, "other", records=runner.records, store=runner.store, bell=runner.bell).job
    done = house.run(theirs)
    assert [stage.cache for stage in done.progress.stages if stage.cache] == ["miss", "miss"]


@pytest.mark.parametrize(
    ("change", "code", "stage"),
    [
        ({"clip": b"just text"}, "input.not_video", "fetch"),
        ({"params": STEPS | {"num_inference_steps": -1}}, "validation_failed", "fetch"),
        ({"params": STEPS | {"no_such": 1}}, "validation_failed", "fetch"),
        ({"method": "no_such_method"}, "unknown_method", "fetch"),
        ({"model": "no/such@rev"}, "model.unavailable", "fetch"),
    ],
)
def test_what_cannot_be_done_fails_with_its_code(
    house: House, clip: bytes, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], code: str, stage: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    body = {"prompt": {"target": "x", "source": "y"}, "params": STEPS} | change
    given = body.pop("clip", clip)
    job = house.run(house.submit(given, **body))
    assert (job.state, job.error.code, job.error.stage, job.error.attempt) == ("failed", code, stage, 1)
    assert job.error.detail and list(house.runner.store.list("out/")) == []


def test_lists_of_files_reach_the_engine_in_order(tmp_path: Path) -> None:
    given = {name: Fetched(tmp_path / name.replace("/", "-"), name, name) for name in ("video", "more/1", "more/0")}
    files = engine._files(Edit("m", "tiny", {}, given, "mp4", tmp_path, ""))
    assert files["video"].digest == "video"
    assert [file.digest for file in files["more"]] == ["more/0", "more/1"]


def test_a_deleted_input_is_told(house: House, clip: bytes) -> None:
    job = house.submit(clip, prompt={"target": "x"}, params=STEPS)
    house.runner.store.delete_prefix("assets/")
    failed = house.run(job)
    assert (failed.state, failed.error.code) == ("failed", "input.fetch_failed")


def test_a_draining_worker_takes_nothing_and_rings_for_the_others(house: House, clip: bytes) -> None:
    job = house.submit(clip, prompt={"target": "x"}, params=STEPS)
    flag = drain_file(house.runner.settings)
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()
    before = Bell(house.runner.settings).waiting()
    assert house.run(job).state == "queued"
    assert Bell(house.runner.settings).waiting() == before + 1
    flag.unlink()


def test_a_second_doorbell_runs_nothing(house: House, clip: bytes) -> None:
    """F12."""
    job = house.submit(clip, prompt={"target": "x", "source": "y"}, params=STEPS)
    done = house.run(job)
    assert done.state == "succeeded"
    for _ in range(5):
        assert house.run(job) == done


TUNED = {"num_tuning_steps": 4, "num_inversion_steps": 4, "num_inference_steps": 4}


BEGAN = {
    ("w0", "fit"): 0,
    ("w1", "fit"): 2,
    ("w1", "invert"): 0,
    ("w2", "invert"): 3,
    ("w2", "edit"): 0,
    ("last", "edit"): 4,
}
BEGAN_WITHOUT_CACHE = {("w2", "fit"): 4, ("last", "fit"): 4, ("last", "invert"): 4}


@pytest.mark.parametrize("mode", ["use", "off"])
def test_a_job_handed_back_goes_on_at_its_step_on_another_worker(
    settings: Settings, tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A shutdown inside every loop, each time another worker with a disk of its own: no step is run twice."""
    body = {
        "method": "tune_a_video",
        "prompt": {"target": "a red car", "source": "a car"},
        "params": TUNED,
        "cache": {"inversion": mode},
    }
    ran: list[int] = []
    predict = Backbone.predict

    def counted(self: Backbone, latents: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        ran.append(latents.shape[0] * latents.shape[2])
        return predict(self, latents, *rest, **more)

    monkeypatch.setattr(Backbone, "predict", counted)
    monkeypatch.setattr(Heartbeat, "_needed", lambda heart: 100.0)  # time enough on a busy machine
    whole = worker(settings, tmp_path, "whole")
    asked = whole.submit(clip, **body)
    expected = whole.run(asked)
    needed = sum(ran)
    assert expected.state == "succeeded" and expected.usage.frame_evals == needed

    ran.clear()
    job, first = None, {}
    for number, stage in enumerate(("fit", "invert", "edit")):
        house = worker(settings, tmp_path, f"w{number}", store=tmp_path / "shared")
        job = job or house.submit(clip, **body)
        stop_at(house, monkeypatch, stage, 1 + number, first)
        assert house.run(job).state == "queued"
        assert [attempt.ended for attempt in house.runner.records.get(job.id).attempts][-1] == "preempted"
    last = worker(settings, tmp_path, "last", store=tmp_path / "shared")
    stop_at(last, monkeypatch, None, 0, first)
    done = last.run(job)
    assert done.state == "succeeded" and sum(ran) == needed
    assert first == BEGAN | (BEGAN_WITHOUT_CACHE if mode == "off" else {})
    assert done.usage.frame_evals + done.usage.saved_frame_evals == needed
    assert done.outputs[0].sha256 == expected.outputs[0].sha256
    assert list(last.runner.store.list("partial/")) == []


def worker(settings: Settings, folder: Path, name: str, *, store: Path | None = None) -> House:
    place = (store or folder / name / "store").as_uri()
    changes = {"checkpoint": "tiny", "device": "cpu", "worker_id": name, "data_dir": folder / name, "store": place}
    changes |= {"shutdown_grace_seconds": 600.0}
    (folder / name).mkdir()
    return House(settings.model_copy(update=changes), folder / name)


def stop_at(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    stage: str | None,
    step: int,
    first: dict[tuple[str, str], int],
) -> None:
    """Let the grace of a shutdown run out at a step; note where each loop that was continued began."""
    edit, flag = house.runner.engine, drain_file(house.runner.settings)

    def watched(task: Edit, hooks: Hooks, settings: Settings) -> Made:
        def tell(now: str, state: str, at: int, of: int) -> None:
            hooks.tell(now, state, at, of)
            if of and now in {"fit", "invert", "edit"}:
                first.setdefault((settings.worker_id, now), at)
            if (now, at) == (stage, step) and of:
                flag.parent.mkdir(parents=True, exist_ok=True)
                flag.touch()
                os.utime(flag, (time.time() - 550,) * 2)
                wait_for(hooks.handover.wanted)

        return edit(task, replace(hooks, tell=tell), settings)

    monkeypatch.setattr(house.runner, "engine", watched)
