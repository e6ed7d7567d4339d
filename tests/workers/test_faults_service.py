"""Fault tests that need the whole service: several clocks and versions, turns, the API's own death, many clients."""

import asyncio
import contextlib
import logging
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs import manifest
from tests.conftest import free_port, wait_for
from tests.workers.crowd import Crowd
from tests.workers.families import kill_tree

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parent.parent.parent
CLIP = ROOT / "api" / "sample.mp4"


def begun(jobs) -> list:
    """The jobs in the order in which their first attempt began."""
    return sorted(jobs, key=lambda job: job.attempts[0].started_at)


@pytest.mark.parametrize("skew", ["120", "-120"])
def test_f21_a_workers_wrong_clock_costs_no_lease_and_no_job(stack, skew: str) -> None:
    """Leases are counted by the clock of Redis: a job of several leases on a worker two minutes off stays its own."""
    stack.worker("a", OTHER_CLOCK=skew)
    stack.scheduler()
    job = stack.submit(params={"steps": 20, "step_seconds": 0.15})
    done = stack.wait(job, "succeeded")
    assert [attempt.ended for attempt in done.attempts] == ["succeeded"]
    assert 3 < done.attempts[0].seconds < 110 and 0 < (done.finished_at - done.started_at).total_seconds() < 110
    assert "lease_expired" not in stack.records.counters()


def test_f30_two_versions_of_workers_share_queue_and_cache(stack) -> None:
    """Newer jobs wait for newer workers, older ones run on both, artifacts of one are found or ignored by the other."""
    use = {"inversion": "use"}
    old = stack.worker("old")
    first = stack.wait(stack.submit(cache=use), "succeeded")
    newer = [stack.submit_as(2, video=f"new {number}".encode()) for number in range(3)]
    running = stack.submit(video=b"long", params={"steps": 60, "step_seconds": 0.1})
    stack.wait_stage(running, "edit")
    assert {stack.job(job).state for job in newer} == {"queued"}
    stack.worker("new", OTHER_VERSION="2")
    stack.scheduler()
    assert {stack.wait(job, "succeeded").attempts[-1].worker for job in newer} == {"new"}
    old.terminate()
    assert old.wait(30) == 0
    again = stack.wait(stack.submit(cache=use), "succeeded")
    assert again.attempts[-1].worker == "new"
    assert {stage.name for stage in again.progress.stages if stage.cache == "hit"} == {"prepare", "invert"}
    stack.wait(running, "succeeded")  # on the old one, or handed back by it and ended on the new one
    assert len(stack.outputs_in_store(running)) == 1
    assert first.attempts[-1].worker == "old"


def test_f31_one_tenants_500_jobs_do_not_keep_another_waiting(stack) -> None:
    many = stack.submit_many(500, tenant="a", priority="batch", params={"steps": 1, "step_seconds": 0.2})
    worker = stack.worker("a")
    stack.wait(many[0], "succeeded")
    batch = stack.submit(tenant="b", priority="batch", params={"steps": 1})
    urgent = stack.submit(tenant="b", priority="interactive", params={"steps": 1})
    ended = [stack.wait(job, "succeeded") for job in (urgent, batch)]
    kill_tree(worker)
    started = [job.attempts[0].started_at for job in map(stack.job, many) if job.attempts]
    between = [sum(job.created_at < at < job.attempts[0].started_at for at in started) for job in ended]
    assert len(started) < 500 and between[0] == 0 and between[1] <= 2


def test_f32_a_cold_job_starts_behind_few_of_an_endless_warm_stream(make_stack) -> None:
    stack = make_stack(look_ahead=4, most_passed=3)
    stack.worker("a")
    stack.wait(stack.submit(model="warm", params={"steps": 1}), "succeeded")
    busy = stack.submit(model="warm", params={"steps": 5, "step_seconds": 0.3})
    stack.wait_stage(busy, "edit")
    cold = stack.submit(video=b"cold", model="cold", params={"steps": 1})
    stream = [stack.submit(video=f"{number}".encode(), model="warm", params={"steps": 1}) for number in range(12)]
    order = begun([stack.wait(job, "succeeded") for job in [busy, cold, *stream]])
    assert [job.model for job in order[:6]] == ["warm", "warm", "warm", "warm", "cold", "warm"]
    assert stack.records.counters()["affinity_picks"] == 3


@pytest.mark.parametrize("by", ["command", "scheduler"])
def test_f08_20_queued_and_2_running_jobs_survive_an_empty_redis(stack, by: str) -> None:
    """Rebuilt by `refilm recover` without any scheduler, and by the scheduler alone."""
    for name in ("a", "b"):
        stack.worker(name)
    running = [stack.submit(video=f"r{n}".encode(), params={"steps": 60, "step_seconds": 0.1}) for n in range(2)]
    for job in running:
        stack.wait_stage(job, "edit")
    queued = [stack.submit(video=f"q{number}".encode(), params={"steps": 1}) for number in range(20)]
    stack.records.redis.flushall()
    if by == "command":
        command = [sys.executable, "-m", "api.cli", "recover"]
        done = subprocess.run(command, env=stack.environment(), cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "22 queued again, 0 restored\n"), done.stderr
    else:
        stack.scheduler()
        wait_for(lambda: stack.records.find(queued[-1].id) is not None, 60)
    for job in [*running, *queued]:
        ended = stack.wait(job, "succeeded")
        assert stack.outputs_in_store(job) == [ended.outputs[0].key]


class Api:
    """API processes on one stack, called over HTTP."""

    def __init__(self, stack) -> None:
        self.stack, self.port = stack, free_port()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        process = self.stack._start("-m", "api.serve", "--port", str(self.port), api_open="1", **variables)
        wait_for(self.answers, 60)
        return process

    def answers(self) -> bool:
        try:
            return self.http.get("/healthz/live").status_code == 200
        except httpx.TransportError:
            return False

    def edit_again(self, body: dict[str, object]) -> httpx.Response:
        """Send the same edit as a client does whose first answer never came: as often as it is told to come again."""
        headers = {"Idempotency-Key": "once"}
        answers = (self.http.post("/v1/edits", json=body, headers=headers) for _ in range(1000))
        return next(answer for answer in answers if answer.status_code != 409 or time.sleep(1))

    def body(self) -> dict[str, object]:
        asset = self.http.post("/v1/uploads", content=CLIP.read_bytes()).json()["id"]
        video = {"video": {"asset": asset}}
        return {"method": "frame_by_frame", "input": video, "prompt": {"target": "x"}, "cache": {"inversion": "off"}}


@pytest.fixture
def api(stack) -> Iterator[Api]:
    api = Api(stack)
    yield api
    api.http.close()


def test_f17_the_api_dies_between_manifest_and_record(api) -> None:
    """The caller asks again with its key: one job. The manifest of the first try is swept by the reconciler."""
    stack = api.stack
    dying = api.start(OTHER_DEATH="jobs.submission:create_from")
    body = api.body()
    with pytest.raises(httpx.TransportError):
        api.http.post("/v1/edits", json=body, headers={"Idempotency-Key": "once"})
    assert dying.wait(20) == 9 and len(list(manifest.each(stack.store))) == 1
    api.start()
    answer = api.edit_again(body)
    assert answer.status_code == 202
    stack.worker("a")
    stack.scheduler()
    stack.wait_id(answer.json()["id"], "succeeded")
    stack.records.redis.delete("rf:epoch")  # as if Redis were new: the reconciler compares at once
    wait_for(lambda: stack.records.ask("EXISTS", "rf:epoch"), 60)
    wait_for(lambda: len(list(manifest.each(stack.store))) == 1, 60)
    assert [job["id"] for job in api.http.get("/v1/jobs").json()["data"]] == [answer.json()["id"]]


def test_f18_the_api_dies_after_the_commit_and_before_its_answer(api) -> None:
    stack = api.stack
    dying = api.start(OTHER_DEATH="jobs.submission:ring")
    body = api.body()
    with pytest.raises(httpx.TransportError):
        api.http.post("/v1/edits", json=body, headers={"Idempotency-Key": "once"})
    assert dying.wait(20) == 9
    api.start()
    [committed] = api.http.get("/v1/jobs").json()["data"]
    again = [api.edit_again(body) for _ in range(2)]
    assert {(answer.status_code, answer.json()["id"]) for answer in again} == {(202, committed["id"])}
    assert {answer.headers["Idempotency-Replayed"] for answer in again} == {"true"}
    stack.worker("a")
    stack.scheduler()
    stack.wait_id(committed["id"], "succeeded")
    assert stack.records.counters()["jobs_created"] == 1


def test_f10_a_redis_without_memory_is_told_and_leaves_nothing(api) -> None:
    stack = api.stack
    api.start()
    body = api.body()
    stack.records.redis.config_set("maxmemory", 1)
    try:
        answer = api.http.post("/v1/edits", json=body)
    finally:
        stack.records.redis.config_set("maxmemory", 0)
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
    assert answer.headers["Retry-After"] and list(manifest.each(stack.store)) == []
    assert api.http.post("/v1/edits", json=body).status_code == 202


ARRIVING = 5
"""Seconds in which a crowd comes."""


def test_f28_a_thousand_pollers_and_200_streams_share_few_connections(api) -> None:
    """Times are logged, not asserted: they are the machine's. Connections are few, streams end, nothing fails."""
    stack = api.stack
    api.start(api_max_streams="300")
    body, crowd = api.body(), Crowd(api.port)
    created = [api.http.post("/v1/edits", json=body).json()["id"] for _ in range(20)]
    most, over = [0], threading.Event()

    def watch_connections() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], len(stack.records.redis.client_list()))

    async def come() -> None:
        streams = [asyncio.create_task(crowd.follow(created[n % 20], ARRIVING)) for n in range(200)]
        await asyncio.gather(*(crowd.poll(created[n % 20], 3, ARRIVING) for n in range(1000)))
        for job_id in created:
            await asyncio.to_thread(stack.records.cancel, job_id, "local")
        await asyncio.wait_for(asyncio.gather(*streams), 60)

    before, began = len(stack.records.redis.client_list()), time.monotonic()
    thread = threading.Thread(target=watch_connections)
    thread.start()
    try:
        asyncio.run(come())
    finally:
        over.set()
        thread.join()
    p99, rate = 1000 * statistics.quantiles(crowd.spent, n=100)[98], len(crowd.spent) / (time.monotonic() - began)
    told = "%d polls, %.0f a second, p99 %.0f ms, %d connections to Redis"
    logging.getLogger(__name__).info(told, len(crowd.spent), rate, p99, most[0] - before)
    assert crowd.seen == {200: 1000, 304: 2000}
    assert crowd.ended == 200
    assert most[0] - before <= 4  # one API process, and what was there before


def test_f27_a_job_that_may_not_start_so_late_never_does(stack) -> None:
    stack.scheduler()
    job = stack.submit(deadline={"start_within": 1})
    expired = stack.wait(job, "expired")
    assert (expired.error.code, expired.attempts, expired.usage.wall_seconds) == ("deadline_start", (), 0)
    stack.worker("a")
    stack.wait(stack.submit(video=b"next"), "succeeded")
    assert stack.job(job).version == expired.version and stack.records.counters()["claims"] == 1


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_f15_a_damaged_artifact_is_made_again(make_stack, valkey, damage: str) -> None:
    first = make_stack()
    first.worker("a")
    use = {"inversion": "use"}
    first.wait(first.submit(cache=use), "succeeded")
    for info in list(first.store.list("cas/")):
        if info.key.endswith(".safetensors"):
            data = bytearray(first.store.get_bytes(info.key))
            data[-1] ^= 1
            first.store.put_bytes(info.key, bytes(data[:-9] if damage == "truncated" else data))
    second = make_stack(store=first.settings.store_url)  # a worker with a disk of its own
    second.worker("b")
    second.scheduler()  # a bell may still ring for the first worker, which was killed and is remembered for a while
    first.stop()
    again = second.wait(second.submit(cache=use), "succeeded")
    assert {stage.cache for stage in again.progress.stages if stage.cache} == {"miss"}
    assert second.records.counters()["cache_corrupt"] == 2
    third = second.wait(second.submit(cache=use), "succeeded")
    assert {stage.cache for stage in third.progress.stages if stage.cache} == {"hit"}


def test_f16_two_workers_that_make_the_same_artifact_leave_one(stack) -> None:
    """`refresh` looks for nothing, so both make it at the same time; both jobs succeed."""
    for name in ("a", "b"):
        stack.worker(name)
        stack.wait_worker(name)
    params = {"steps": 5, "step_seconds": 0.1}
    jobs = [stack.submit(cache={"inversion": mode}, params=params) for mode in ("refresh", "refresh")]
    assert {len(stack.outputs_in_store(stack.wait(job, "succeeded"))) for job in jobs} == {1}
    kept = [info.key for info in stack.store.list("cas/")]
    assert len(kept) == len(set(kept)) == 4
    found = stack.wait(stack.submit(cache={"inversion": "use"}), "succeeded")
    assert {stage.cache for stage in found.progress.stages if stage.cache} == {"hit"}


def test_f09_polls_and_streams_outlive_a_redis_that_goes_away(make_stack, durable_valkey) -> None:
    """Reads are refused at once and say when to come again; a held one ends; a stream goes on where it was cut."""
    stack = make_stack(redis_url=durable_valkey.url)
    api = Api(stack)
    api.start()
    stack.worker("a")
    stack.scheduler()
    job = stack.submit(params={"steps": 60, "step_seconds": 0.1})
    stack.wait_stage(job, "edit")
    lines: list[str] = []

    def stream(last: str = "") -> None:
        headers = {"Last-Event-ID": last} if last else {}
        with api.http.stream("GET", f"/v1/jobs/{job.id}/events", headers=headers, timeout=120) as answer:
            lines.extend(answer.iter_lines())

    def cut() -> None:
        with contextlib.suppress(httpx.HTTPError):
            stream()

    reader = threading.Thread(target=cut)
    reader.start()
    wait_for(lambda: any(line.startswith("id: ") for line in lines) or not reader.is_alive())
    held: list[int] = []
    waiter = threading.Thread(target=lambda: held.append(api.http.get(f"/v1/jobs/{job.id}?wait=10").status_code))
    waiter.start()
    time.sleep(1.1)  # what is younger than a second may not be on the disk
    durable_valkey.stop()
    for _ in range(3):
        answer = api.http.get(f"/v1/jobs/{job.id}", timeout=2.5)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert answer.headers["Retry-After"] and answer.json()["retryable"]
    waiter.join(20)
    assert held and held[0] in (200, 503)
    durable_valkey.start()
    stack.wait(job, "succeeded")
    reader.join(60)
    seen = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    stream(seen[-1])
    assert not reader.is_alive() and "event: end" in lines
    api.http.close()
