"""The fault list of the service, on real processes: `make test-faults`. The numbers are those of the contract."""

import threading
import time

import pytest

from jobs import manifest
from jobs.connection import QueueUnavailable
from jobs.queue import shared_queue
from tests.workers.families import kill_tree

pytestmark = pytest.mark.faults
USE = {"inversion": "use"}


def test_f02_a_killed_worker_tree_is_replaced_by_another_worker(make_stack) -> None:
    stack = make_stack(lease_seconds=10)  # the first use of the cache imports torch, which may hold the interpreter
    first = stack.worker("a")
    stack.scheduler()
    job = stack.submit(cache=USE, params={"steps": 20, "step_seconds": 0.15})
    stack.wait_stage(job, "edit")
    kill_tree(first)
    stack.worker("b")
    done = stack.wait(job, "succeeded")
    assert [(attempt.worker, attempt.ended) for attempt in done.attempts] == [("a", "worker_lost"), ("b", "succeeded")]
    assert {stage.name for stage in done.progress.stages if stage.cache == "hit"} == {"prepare", "invert"}
    assert len(stack.outputs_in_store(job)) == 1


def test_f03_a_poison_job_fails_after_three_attempts_and_others_go_on(stack) -> None:
    stack.worker("a")
    stack.scheduler()
    poison = stack.submit(video=b"poison", params={"fault": "poison"})
    other = stack.submit(video=b"other")
    done = stack.wait(other, "succeeded")
    failed = stack.wait(poison, "failed")
    assert (failed.error.code, len(failed.attempts)) == ("worker_lost", 3)
    assert done.attempts[0].n == 1
    assert stack.outputs_in_store(poison) == []


def test_f05_f06_sigterm_hands_a_long_job_back_without_counting_the_attempt(stack) -> None:
    """F06, and F05 with the job that fits the grace."""
    first = stack.worker("a")
    job = stack.submit(params={"steps": 60, "step_seconds": 0.1})
    stack.wait_stage(job, "edit")
    first.terminate()
    assert first.wait(8) == 0
    handed = stack.job(job)
    assert (handed.state, handed.attempt, handed.attempts[0].ended) == ("queued", 0, "preempted")
    second = stack.worker("b")
    stack.wait_stage(job, "edit")
    second.terminate()  # nothing is left of its grace either, but the stages before are
    second.wait(8)
    assert stack.job(job).state == "queued"
    short = stack.submit(video=b"short", priority="interactive", params={"steps": 10, "step_seconds": 0.1})
    third = stack.worker("c")
    stack.wait_stage(short, "edit")
    third.terminate()
    assert third.wait(8) == 0
    assert stack.job(short).state == "succeeded"


def test_f07_redis_restarts_and_all_jobs_succeed_once(make_stack, durable_valkey) -> None:
    stack = make_stack(redis_url=durable_valkey.url)
    stack.worker("a")
    stack.scheduler()
    first = stack.submit(params={"steps": 20, "step_seconds": 0.1})
    jobs = [first, *(stack.submit(video=f"{n}".encode(), params={"steps": 1}) for n in range(20))]
    stack.wait_stage(first, "edit")
    time.sleep(1.1)  # what is younger than a second may not be on the disk
    durable_valkey.stop()
    time.sleep(1)
    durable_valkey.start()
    for job in jobs:
        done = stack.wait(job, "succeeded")
        assert [attempt.ended for attempt in done.attempts] == ["succeeded"]
        assert len(stack.outputs_in_store(job)) == 1
    assert stack.records.counters()["jobs_succeeded"] == len(jobs)


def test_f08_redis_is_lost_and_everything_is_rebuilt_from_the_store(stack) -> None:
    stack.worker("a")
    stack.scheduler()
    ended = stack.submit(video=b"ended")
    stack.wait(ended, "succeeded")
    running = stack.submit(video=b"running", params={"steps": 30, "step_seconds": 0.1})
    queued = [stack.submit(video=f"{n}".encode()) for n in range(5)]
    stack.wait_stage(running, "edit")
    end = time.monotonic() + 10
    while manifest.read_ending(stack.store, "local", ended.id) is None and time.monotonic() < end:
        time.sleep(0.1)
    stack.records.redis.flushall()
    end = time.monotonic() + 10
    while stack.records.find(queued[-1].id) is None and time.monotonic() < end:
        time.sleep(0.1)
    for job in [running, *queued]:
        done = stack.wait(job, "succeeded")
        assert stack.outputs_in_store(job) == [done.outputs[0].key]
    assert stack.job(ended).state == "succeeded" and stack.job(ended).attempts[0].n == 1


def test_f09_a_worker_computes_on_while_redis_is_down_and_commits_after(make_stack, durable_valkey) -> None:
    stack = make_stack(redis_url=durable_valkey.url)
    stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"steps": 30, "step_seconds": 0.1})
    stack.wait_stage(job, "edit")
    time.sleep(1.1)
    durable_valkey.stop()
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        stack.job(job)
    assert time.monotonic() - began < 2.5
    time.sleep(5)  # longer than the lease
    durable_valkey.start()
    done = stack.wait(job, "succeeded")
    assert [attempt.ended for attempt in done.attempts] == ["succeeded"]


def test_f11_deleted_broker_lists_are_rung_again(stack) -> None:
    stack.scheduler()
    jobs = [stack.submit(video=f"{n}".encode()) for n in range(4)]
    stack.bell._app.connection_for_write().default_channel._purge(shared_queue("default"))
    assert stack.bell.waiting() == 0
    stack.worker("a")
    for job in jobs:
        stack.wait(job, "succeeded")


def test_f12_fifty_doorbells_run_a_job_once(stack) -> None:
    job = stack.submit(params={"steps": 3, "step_seconds": 0.2})
    for _ in range(50):
        stack.bell.ring(job.id)
    stack.worker("a")
    stack.worker("b")
    stack.wait(job, "succeeded")
    while stack.bell.waiting():
        time.sleep(0.1)
    follow = stack.submit(video=b"follow")
    stack.wait(follow, "succeeded")
    assert stack.records.counters()["claims"] == 2


@pytest.mark.parametrize("share", [0.3])
def test_f13_a_store_that_refuses_a_third_of_calls_still_serves(make_stack, s3_settings, flaky, share: float) -> None:
    stack = s3_stack(make_stack, s3_settings, flaky)
    stack.worker("a")
    flaky.refuse = share
    job = stack.submit(params={"steps": 2})
    done = stack.wait(job, "succeeded")
    flaky.refuse = 0.0
    assert stack.outputs_in_store(job) == [done.outputs[0].key] and len(done.attempts) == 1


def test_f14_a_store_that_is_away_during_publish_is_waited_for(make_stack, s3_settings, flaky) -> None:
    stack = s3_stack(make_stack, s3_settings, flaky)
    stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"steps": 30, "step_seconds": 0.1})
    stack.wait_stage(job, "edit")
    flaky.refuse = 1.0
    end = time.monotonic() + 40
    while stack.job(job).progress.stage != "publish" and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(4)  # two leases
    assert stack.job(job).state == "running"
    flaky.refuse = 0.0
    done = stack.wait(job, "succeeded")
    assert len(done.attempts) == 1


def s3_stack(make_stack, s3_settings, flaky):
    names = ("store", "s3_access_key_id")
    given = {name: getattr(s3_settings, name) for name in names}
    return make_stack(**given, s3_secret_access_key="test", s3_endpoint_url=flaky.url, s3_addressing_style="path")


@pytest.mark.parametrize("stage", ["prepare", "invert", "edit"])
def test_f19_a_cancel_in_any_stage_is_legal_and_quick(stack, stage: str) -> None:
    worker = stack.worker("a")
    job = stack.submit(video=stage.encode(), params={"steps": 20, "step_seconds": 0.2})
    stack.wait_stage(job, stage)
    child = stack.child_of(worker).pid
    began = time.monotonic()
    stack.records.cancel(job.id, "local")
    stack.wait(job, "canceled", seconds=3)
    assert time.monotonic() - began < 1.2  # one step and a second
    stack.wait(stack.submit(video=b"next"), "succeeded")
    assert stack.child_of(worker).pid == child


def test_f19_cancels_race_with_claims(stack) -> None:
    stack.worker("a")
    stack.worker("b")
    jobs = [stack.submit(video=f"{n}".encode(), params={"steps": 2, "step_seconds": 0.05}) for n in range(20)]
    threads = [threading.Thread(target=stack.records.cancel, args=(job.id, "local")) for job in jobs[::-1]]
    time.sleep(3)
    for thread in threads:
        thread.start()
    for job in jobs:
        done = stack.wait(job, "succeeded", "canceled")
        states = [event.state for event in stack.records.events(job.id) if event.type == "state"]
        assert not ("canceling" in states and done.state == "succeeded")
        assert len(stack.outputs_in_store(job)) == (done.state == "succeeded")


@pytest.mark.parametrize("fault", ["stubborn", "wedged"])
def test_f20_a_method_that_ignores_cancel_is_killed(make_stack, fault: str) -> None:
    """`stubborn` sleeps, `wedged` holds the interpreter so that even the heartbeat stands still."""
    stack = make_stack(lease_seconds=8)
    worker = stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"fault": fault, "step_seconds": 1.0})
    stack.wait_stage(job, "edit")
    child = stack.child_of(worker).pid
    time.sleep(1)
    stack.records.cancel(job.id, "local")
    stack.wait(job, "canceled", seconds=15)
    stack.wait(stack.submit(video=b"next"), "succeeded")
    assert stack.child_of(worker).pid != child


def test_a_wedged_child_is_replaced_without_any_cancel(stack) -> None:
    worker = stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"fault": "wedged", "step_seconds": 1.0})
    stack.wait_stage(job, "edit")
    child = stack.child_of(worker).pid
    failed = stack.wait(job, "failed", seconds=120)
    assert failed.error.code == "worker_lost"
    stack.wait(stack.submit(video=b"next"), "succeeded")
    assert stack.child_of(worker).pid != child


def test_a_job_that_makes_no_progress_gives_up_its_process(make_stack) -> None:
    stack = make_stack(stall_seconds=1)
    stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"fault": "stubborn"})
    failed = stack.wait(job, "failed", seconds=120)
    assert [attempt.ended for attempt in failed.attempts] == ["stage_timeout"] * 3
    assert failed.error.code == "stage_timeout"


def test_f22_another_scheduler_takes_over(stack) -> None:
    leader = stack.scheduler()
    stack.worker("a")
    job = stack.submit(params={"steps": 20, "step_seconds": 0.15})
    stack.wait_stage(job, "edit")
    stack.scheduler()
    leader.kill()
    leader.wait()
    kill_tree(stack.processes[1])
    stack.worker("b")
    assert len(stack.wait(job, "succeeded").attempts) == 2


def test_f24_a_full_disk_is_told_and_drains_the_worker(stack) -> None:
    """The kernel's own ENOSPC, from /dev/full. The other worker goes on, the first takes nothing more."""
    stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"fault": "disk", "step_seconds": 0.2})
    failed = stack.wait(job, "failed")
    assert (failed.error.code, failed.error.retryable, len(failed.attempts)) == ("internal", True, 1)
    assert "disk" in failed.error.detail and stack.outputs_in_store(job) == []
    assert list((stack.settings.data_dir / "work" / "a").iterdir()) == []
    stack.wait_drained("a")
    stack.worker("b")
    jobs = [stack.submit(video=f"{number}".encode()) for number in range(3)]
    assert {stack.wait(job, "succeeded").attempts[-1].worker for job in jobs} == {"b"}


def test_f25_a_poisoned_device_costs_the_process_and_twice_the_worker(stack) -> None:
    """The child is replaced, the job goes to another worker, and after the second failure the probe fails."""
    worker = stack.worker("a")
    stack.scheduler()
    first = stack.submit(params={"fault": "device", "step_seconds": 0.3, "only": "a"})
    stack.wait_stage(first, "edit")
    child = stack.child_of(worker).pid
    stack.worker("b")
    stack.wait_worker("b")
    done = stack.wait(first, "succeeded")
    assert [(attempt.worker, attempt.ended) for attempt in done.attempts][-1] == ("b", "succeeded")
    assert done.attempts[0].ended == "gpu.fatal" and stack.child_of(worker).pid != child
    breaking = {"fault": "device", "step_seconds": 0.3, "only": "a"}
    for number in range(20):  # two at once, so that one is for `a` as soon as its new process is there
        if stack.drained("a"):
            break
        jobs = [stack.submit(video=f"{number} {twin}".encode(), params=breaking) for twin in "xy"]
        assert {stack.wait(job, "succeeded").attempts[-1].worker for job in jobs} == {"b"}
    stack.wait_drained("a")
    assert stack.wait(stack.submit(video=b"next"), "succeeded").attempts[-1].worker == "b"


def test_f25_a_job_that_breaks_every_device_fails_with_its_code(stack) -> None:
    stack.worker("a")
    stack.worker("b")
    stack.scheduler()
    job = stack.submit(params={"fault": "device"})
    failed = stack.wait(job, "failed")
    assert failed.error.code == "gpu.fatal" and len(failed.attempts) == 3


def test_f26_too_little_memory_is_answered_with_a_slower_plan_once(stack) -> None:
    stack.worker("a")
    job = stack.submit(params={"fault": "memory_once"})
    done = stack.wait(job, "succeeded")
    assert [notice.code for notice in done.warnings] == ["memory_saved"] and len(done.attempts) == 1
    again = stack.wait(stack.submit(video=b"more", params={"fault": "memory"}), "failed")
    assert (again.error.code, again.error.hint, len(again.attempts)) == ("gpu.out_of_memory", "fewer frames", 1)


@pytest.mark.parametrize(
    ("fault", "code", "retryable"), [("not_video", "input.not_video", False), ("crash", "internal", True)]
)
def test_coded_errors_end_the_job_at_once(stack, fault: str, code: str, retryable: bool) -> None:
    stack.worker("a")
    job = stack.submit(params={"fault": fault, "step_seconds": 1.0})
    failed = stack.wait(job, "failed")
    assert (failed.error.code, failed.error.retryable, failed.error.stage) == (code, retryable, "edit")
    assert len(failed.attempts) == 1 and "secret" not in failed.model_dump_json()
    assert stack.outputs_in_store(job) == []
