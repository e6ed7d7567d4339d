"""Real workers and a real scheduler: the essential faults. The long list is in test_faults.py."""

import signal

import psutil

USE = {"inversion": "use"}


def test_f01_a_killed_child_costs_one_attempt_and_no_finished_stage(stack) -> None:
    """The replacement takes `prepare` and `invert` from the cache and commits the only output."""
    worker = stack.worker("a")
    stack.scheduler()
    job = stack.submit(cache=USE, prompt={"target": "!"}, params={"steps": 20, "step_seconds": 0.15})
    stack.wait_stage(job, "edit")
    stack.child_of(worker).send_signal(signal.SIGKILL)
    done = stack.wait(job, "succeeded")
    assert [(attempt.n, attempt.ended) for attempt in done.attempts] == [(1, "worker_lost"), (2, "succeeded")]
    cache = {stage.name: stage.cache for stage in done.progress.stages if stage.cache}
    assert cache == {"prepare": "hit", "invert": "hit"}
    assert stack.outputs_in_store(job) == [done.outputs[0].key]
    assert stack.store.get_bytes(done.outputs[0].key) == b"clip!"
    assert stack.records.counters()["lease_expired"] == 1


def test_f04_a_frozen_worker_is_fenced(stack) -> None:
    """The second worker commits; the thawed one drops its work and its files."""
    first = stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"steps": 15, "step_seconds": 0.15})
    stack.wait_stage(job, "edit")
    frozen = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in frozen:
        process.suspend()
    stack.worker("b")
    done = stack.wait(job, "succeeded")
    for process in frozen:
        process.resume()
    assert [attempt.worker for attempt in done.attempts] == ["a", "b"]
    follow = stack.submit(video=b"other", params={"steps": 1})
    stack.wait(follow, "succeeded")
    assert stack.outputs_in_store(job) == [done.outputs[0].key]
    assert stack.job(job).version == done.version
    assert stack.records.counters()["jobs_succeeded"] == 2


def test_cancel_of_a_running_job_stops_it_and_spares_the_process(stack) -> None:
    worker = stack.worker("a")
    job = stack.submit(params={"steps": 200, "step_seconds": 0.1})
    stack.wait_stage(job, "edit")
    before = stack.child_of(worker).pid
    assert stack.records.cancel(job.id, "local").state == "canceling"
    done = stack.wait(job, "canceled", seconds=1.5)
    assert done.attempts[0].ended == "canceled" and stack.outputs_in_store(job) == []
    again = stack.submit(params={"steps": 1})
    stack.wait(again, "succeeded")
    assert stack.child_of(worker).pid == before
