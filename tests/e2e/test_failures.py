"""Processes are killed while a job runs; the service goes on by itself."""

import os
import signal
import threading
import time

import pytest

from api.client import Client


def in_edit(client, job):
    """Follow the job until it is in the middle of its edit stage."""
    for seen in client.watch(job.id):
        edit = next(stage for stage in seen.progress.stages if stage.name == "edit")
        if edit.state == "running" and (edit.step or 0) > 1:
            return seen
    raise AssertionError(f"it ended before: {seen.state} {seen.error}")


def test_a_killed_worker_costs_an_attempt_and_no_finished_stage(stack, client, edit):
    job = edit(num_inference_steps=200, seed=11)
    in_edit(client, job)
    os.killpg(stack.child("worker-1").pid, signal.SIGKILL)
    *_, last = client.watch(job.id)
    assert last.state == "succeeded", last.error
    assert [attempt.ended for attempt in last.attempts] == ["worker_lost", "succeeded"]
    stages = {stage.name: stage for stage in last.progress.stages}
    assert (stages["prepare"].cache, stages["invert"].cache) == ("hit", "hit")
    assert [output.name for output in last.outputs] == ["output.mp4", "metrics.json"]
    kept = [path for path in (stack.data_dir / "store" / "out" / "local" / job.id).rglob("*.mp4")]
    assert len(kept) == 1


def test_a_killed_api_and_a_killed_valkey_lose_nothing(stack, client, edit):
    job = edit(num_inference_steps=60, seed=12)
    in_edit(client, job)
    os.kill(stack.child("api").pid, signal.SIGKILL)
    os.kill(stack.child("valkey").pid, signal.SIGKILL)
    *_, last = client.watch(job.id)
    assert last.state == "succeeded", last.error
    assert [row.id for row in client.jobs(limit=1).data] == [job.id]


@pytest.mark.faults
def test_an_api_killed_while_it_creates_a_batch_loses_and_doubles_nothing(stack, client, ball):
    asset, prompts = client.upload(ball).id, [f"a ball, number {number}" for number in range(300)]
    made = []
    sender = threading.Thread(
        target=lambda: made.append(client.batches.create([asset], prompts, ["frame_by_frame"], params={"width": 64}))
    )
    sender.start()
    with Client(stack.url) as other:
        while not other.batches.page().data:
            time.sleep(0.02)
        os.kill(stack.child("api").pid, signal.SIGKILL)
        sender.join(timeout=90)  # the client sends it again, with the same key
        [batch] = other.batches.page().data
        assert [one.id for one in made] == [batch.id]
        while other.batches.get(batch.id).state == "accepted":
            time.sleep(0.1)
        assert [job.batch.index for job in other.batches.jobs(batch.id)] == list(range(300))
        other.batches.cancel(batch.id)
        *_, last = other.batches.watch(batch.id)
    assert (last.state, last.created, sum(last.counts.values())) == ("canceled", 300, 300)


def test_ctrl_c_leaves_no_process_and_the_next_start_goes_on(up, gone, ball, small):
    first = up()
    family = first.family()
    assert len(family) >= 6
    with Client(first.url) as client:
        asset = client.upload(ball)
        order = {"method": "frame_by_frame", "video": asset.id, "prompt": "a blue ball"}
        waiting = client.edit(**order, params=small | {"num_inference_steps": 3, "seed": 2})
        client.edit(**order, params=small | {"num_inference_steps": 3, "seed": 3}, idempotency_key="k")
    family = sorted({*family, *first.family()})
    assert first.end(signal.SIGINT) == 0
    gone(family)
    second = up()
    with Client(second.url) as client:
        again = client.edit(**order, params=small | {"num_inference_steps": 3, "seed": 3}, idempotency_key="k")
        assert len(client.jobs().data) == 2
        for job in (waiting, again):
            *_, last = client.watch(job.id)
            assert last.state == "succeeded", last.error


def test_kill_9_of_the_stack_leaves_no_process(up, gone):
    one = up()
    family = one.family()
    one.end(signal.SIGKILL)
    gone(family)
