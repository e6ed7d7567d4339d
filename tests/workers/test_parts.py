"""Small parts of a worker: progress, the watchdog, errors, repeating while something is away, the parent's imports."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from jobs.codes import JOB_CODES
from jobs.connection import QueueUnavailable
from jobs.schema import STAGES, Progress, StageProgress
from jobs.settings import Settings
from jobs.store import StoreUnavailable
from models.errors import InvalidInput, InvalidParams, OutOfMemory, all_codes
from workers import engine
from workers.__main__ import command
from workers.caches import NoCache
from workers.failures import FetchFailed, explain, is_disk_full, is_fatal
from workers.frugal import with_second_plan
from workers.publish import persist
from workers.reporter import Reporter
from workers.signs import UNFIT_SECONDS, busy_file, note_trouble, replace_wedged_child, trouble_file, unfit
from workers.watchdog import Watchdog
from workers.work import Edit, Hooks, Made, load_engine

ROOT = Path(__file__).parent.parent.parent


def test_progress_grows_to_one_and_names_the_stage() -> None:
    seen: list[Progress] = []
    reporter = Reporter(seen.append)
    for stage in STAGES:
        if stage == "fit":
            reporter.tell(stage, "skipped")
            continue
        reporter.tell(stage, "running")
        for step in range(3):
            reporter.tell(stage, "running", step, 3)
        reporter.tell(stage, "done")
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [stage.name for stage in seen[-1].stages] == list(STAGES)
    assert (seen[-1].stage, seen[-1].stage_index) == ("publish", 7)
    assert {stage.name: stage.cache for stage in seen[-1].stages if stage.cache} == {
        "prepare": "miss",
        "invert": "miss",
    }


def test_a_second_loop_in_a_stage_never_moves_progress_back() -> None:
    reporter = Reporter(lambda progress: None)
    reporter.tell("edit", "running", 9, 10)
    before = reporter.snapshot().fraction
    reporter.tell("edit", "running", 1, 10)
    assert reporter.snapshot().fraction == before
    reporter.settle((StageProgress(name="edit", state="done", frame_evals=5),))
    assert reporter.snapshot().stages[4].frame_evals == 5


def test_the_watchdog_knows_the_usual_step() -> None:
    dog = Watchdog(stall_seconds=0.1, unstepped_seconds=60)
    dog.tick()
    time.sleep(0.15)
    assert not dog.stalled()
    for step in range(1, 4):
        dog.tick(step, 10)
    time.sleep(0.15)
    assert dog.stalled()
    with dog.loading():
        assert not dog.stalled()
    dog.tick(4, 10)
    time.sleep(0.04)
    dog.tick(5, 10)
    assert not dog.stalled()


def test_every_code_of_the_engine_is_a_job_code() -> None:
    assert set(all_codes()) <= set(JOB_CODES)


def test_errors_of_the_engine_keep_code_hint_and_details() -> None:
    error = InvalidParams("bad", hint="mend", details={"errors": [{"pointer": "#/params/x", "max": 3, "odd": {1}}]})
    told = explain(error, stage="prepare", attempt=2, worker="w")
    assert (told.code, told.detail, told.hint, told.stage, told.attempt) == (
        "validation_failed",
        "bad",
        "mend",
        "prepare",
        2,
    )
    assert told.errors == ({"pointer": "#/params/x", "max": 3, "odd": "{1}"},)
    assert explain(OutOfMemory("x")).retryable
    assert not explain(InvalidInput("x", code="input.not_video")).retryable


def test_an_unknown_error_tells_only_a_log_id(caplog: pytest.LogCaptureFixture) -> None:
    told = explain(ZeroDivisionError("a secret"))
    assert told.code == "internal" and told.log_id and "secret" not in told.model_dump_json()
    assert explain(StoreUnavailable("host")).code == "storage_unavailable"
    assert explain(FetchFailed("gone")).code == "input.fetch_failed"
    assert explain(MemoryError()).code == "gpu.out_of_memory"


def test_fatal_device_errors_are_told_from_others() -> None:
    assert is_fatal(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_fatal(RuntimeError("shape mismatch"))


def test_two_failures_of_the_device_or_a_full_disk_make_a_worker_unfit_for_a_while(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, worker_id="w")
    assert unfit(settings) is None
    note_trouble(settings, "device")
    assert unfit(settings) is None
    note_trouble(settings, "device")
    assert unfit(settings) == "device"
    old = time.time() - UNFIT_SECONDS - 1
    trouble_file(settings).write_text(f"{old:.0f} device\n{time.time():.0f} device\nhalf a li")
    assert unfit(settings) is None
    note_trouble(settings, "disk")
    assert unfit(settings) is None  # it was written behind the broken line
    note_trouble(settings, "disk")
    assert unfit(settings) == "disk"


def test_a_full_disk_is_told_from_other_errors() -> None:
    told = explain(OSError(28, "No space left on device"), stage="edit")
    assert (told.code, told.retryable, told.hint) == ("internal", True, "send the job again") and told.log_id is None
    assert not is_disk_full(OSError(2, "No such file"))


def test_a_second_plan_is_tried_once_and_not_for_a_job_that_must_stop(tmp_path: Path) -> None:
    plans: list[bool] = []

    def engine(task: Edit, hooks: Hooks, settings: Settings) -> Made:
        plans.append(task.frugal)
        if not task.frugal or task.method == "large":
            raise OutOfMemory("too large")
        return Made(())

    def run(method: str, *, stop: bool = False) -> Made:
        hooks = Hooks(NoCache(), lambda *_: None, lambda: stop, lambda _: nullcontext(), None)
        return with_second_plan(engine)(Edit(method, "", {}, {}, "mp4", tmp_path, ""), hooks, Settings())

    assert [notice.code for notice in run("small").warnings] == ["memory_saved"]
    for method, stop in (("large", False), ("small", True)):
        with pytest.raises(OutOfMemory):
            run(method, stop=stop)
    assert plans == [False, True, False, True, False]


def test_persist_repeats_until_it_works_or_time_is_up() -> None:
    answers = iter([StoreUnavailable("a"), QueueUnavailable("b"), 7])

    def act() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert persist(act, seconds=10, give_up=lambda: False, alive=lambda: None) == 7

    def fail() -> None:
        raise StoreUnavailable("gone")

    for seconds, stop in ((0.1, False), (60, True)):
        with pytest.raises(StoreUnavailable):
            persist(fail, seconds=seconds, give_up=lambda stop=stop: stop, alive=lambda: None)


def test_the_parent_imports_no_torch() -> None:
    code = "import sys, workers.tasks; sys.exit(bool({'torch', 'models', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False).returncode == 0


CHILD = """
import gc, sys, threading
from celery.signals import worker_process_init
import workers.tasks
worker_process_init.send(sender=None)
for thread in threading.enumerate():
    if thread.name == "prepare":
        thread.join()
sys.exit(not (sys.modules["echo_engine"].edit and gc.get_freeze_count()))
"""


def test_a_child_imports_its_engine_before_a_job_comes(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "workers")])
    named = {"REFILM_ENGINE": "echo_engine:edit", "REFILM_DATA_DIR": str(tmp_path), "PYTHONPATH": path}
    named |= {"REFILM_REDIS_URL": "redis://127.0.0.1:9/0"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=os.environ | named, timeout=120, check=False)
    assert done.returncode == 0


def test_the_command_serves_the_direct_queue_before_the_shared_ones() -> None:
    words = command(Settings(worker_id="one", pools=("small", "large")))
    assert words[words.index("-Q") + 1] == "w.one,e.small,e.large"
    assert words[words.index("-n") + 1] == "w-one@%h"


def test_an_engine_is_named_by_module_and_function() -> None:
    assert load_engine("workers.engine:edit").__name__ == "edit"
    with pytest.raises(ValueError, match="module:function"):
        load_engine("workers.engine")


def test_only_a_child_of_ours_that_does_not_move_is_replaced(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, worker_id="w", lease_seconds=1)
    path = busy_file(settings)
    path.parent.mkdir()
    assert not replace_wedged_child(settings)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    path.write_text(str(child.pid))
    assert not replace_wedged_child(settings)
    os.utime(path, (0, 0))
    assert replace_wedged_child(settings) and child.wait(5) == -signal.SIGKILL
    path.write_text("1")
    os.utime(path, (0, 0))
    assert not replace_wedged_child(settings)


def test_networks_are_kept_by_settings_whatever_these_hold() -> None:
    settings = Settings(cache_kind_bytes={"fit": 1}, worker_id="a")
    assert engine.warm(settings) is engine.warm(Settings(cache_kind_bytes={"fit": 1}, worker_id="a"))
    assert engine.warm(settings) is not engine.warm(Settings(cache_kind_bytes={"fit": 2}, worker_id="a"))
