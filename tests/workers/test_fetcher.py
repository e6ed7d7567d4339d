"""The fetcher with real servers on the loopback: what comes, what is refused and what is tried again."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import manifest
from jobs.assets import Assets
from jobs.fetches import Fetches
from jobs.queue import Bell
from jobs.records import Records
from jobs.recovery import recover
from jobs.request import JobRequest
from jobs.schema import Job
from jobs.settings import Settings
from jobs.states import State
from jobs.store import open_store
from jobs.submission import delete, retry, submit
from workers import fetcher as fetching
from workers.fetcher import Fetcher

CLIP = (Path(__file__).parents[2] / "api" / "sample.mp4").read_bytes()


def serve(content: bytes = CLIP, status: int = 200, **headers: str) -> Callable[[Any], None]:
    """Answer with this content."""

    def answer(handler: Any) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


class House:
    """Records, store and bell of one installation that may call the loopback."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records, self.store, self.bell = Records(settings), open_store(settings), Bell(settings)

    def submit(self, url: str, **more: Any) -> Job:
        request = JobRequest.model_validate({"method": "echo", "input": {"video": {"url": url}} | more})
        return submit(request, "acme", records=self.records, store=self.store, bell=self.bell).job

    def fetch(self, job: Job) -> Job:
        """One try at a job; the record after it."""
        fetcher = Fetcher(self.settings)
        [taken] = Fetches(fetcher._records).take(5)
        assert taken == job.id
        asyncio.run(fetcher.one(job.id))
        fetcher._records.redis.close()
        return self.records.get(job.id)

    def left_behind(self) -> list[Path]:
        return [path for path in (self.settings.data_dir / "fetch").rglob("*") if path.is_file()]


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    house = House(settings.model_copy(update={"egress_loopback": True, "max_upload_bytes": 1 << 20}))
    yield house
    house.records.redis.close()


def test_a_file_is_fetched_while_the_job_is_accepted(house: House, receive) -> None:
    server = receive((302, {"Location": "/moved/my%20clip.mp4?token=secret"}), serve())
    job = house.submit(server.url)
    assert job.state == State.ACCEPTED and house.bell.waiting() == 0
    fetched = house.fetch(job)
    assert fetched.state == State.QUEUED and house.bell.waiting() == 1
    assert [path for path, _, _ in server.seen] == ["/hook", "/moved/my%20clip.mp4?token=secret"]
    assert server.seen[1][1]["host"] == f"127.0.0.1:{server.port}"
    kept = manifest.read(house.store, "acme", job.id)
    asset = Assets(house.store).find("acme", kept.inputs["video"].asset)
    assert asset is not None and (asset.name, asset.facts["kind"]) == ("my clip.mp4", "video")
    assert b"".join(Assets(house.store).read(asset)) == CLIP and kept.pending == {}
    assert house.left_behind() == [] and house.records.redis.zcard("rf:fetches") == 0


def test_other_inputs_are_fetched_too(house: House, receive) -> None:
    server = receive(serve())
    job = house.submit(server.url, files={"masks": [{"url": server.url + "/1"}, {"url": server.url + "/2"}]})
    assert house.fetch(job).state == State.QUEUED
    assert set(manifest.read(house.store, "acme", job.id).inputs) == {"video", "masks/0", "masks/1"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (404, "input.fetch_failed"),
        ((302, {"Location": "http://10.0.0.1/"}), "url_not_allowed"),
        ((302, {"Location": "file:///etc/passwd"}), "url_not_allowed"),
        ((301, {"Location": "/hook"}), "input.fetch_failed"),
        (serve(b"<html>" + b"x" * 100), "input.not_video"),
        (serve(CLIP[: len(CLIP) // 2]), "input.decode_failed"),
        (serve(b"\0" * (2 << 20)), "input.too_large"),
        (serve(CLIP, Content_Encoding="gzip"), "input.fetch_failed"),
        (serve(b"\x89PNG\r\n\x1a\n" + b"\0" * 99), "input.decode_failed"),
    ],
)
def test_what_cannot_be_used_fails_the_job(house: House, receive, answer, code) -> None:
    job = house.submit(receive(answer).url)
    failed = house.fetch(job)
    assert (failed.state, failed.error and failed.error.code) == (State.FAILED, code)
    assert failed.error.stage == "fetch" and "127.0.0.1" not in failed.error.detail
    assert house.left_behind() == [] and not list(house.store.list("assets/"))


def test_passing_trouble_is_tried_three_times(house: House, receive, monkeypatch) -> None:
    monkeypatch.setattr(fetching, "WAITS", (0.0, 0.0))
    server = receive(503, 503, serve())
    job = house.submit(server.url)
    assert [house.fetch(job).state for _ in range(3)] == [State.ACCEPTED, State.ACCEPTED, State.QUEUED]
    broken = house.submit(receive(500).url)
    states = [house.fetch(broken).state for _ in range(3)]
    assert states == [State.ACCEPTED, State.ACCEPTED, State.FAILED]


def test_a_fetcher_that_dies_delays_a_job_and_three_deaths_end_it(house: House, receive) -> None:
    job = house.submit(receive(serve()).url)
    fetches = Fetches(house.records)
    for _ in range(3):
        assert fetches.take(5) == [job.id] and fetches.take(5) == []
        fetches.begin(job.id)  # and the process is gone
        house.records.redis.zadd("rf:fetches", {job.id: 0})  # its hold is over
    failed = house.fetch(job)
    assert failed.state == State.FAILED and failed.error.code == "input.fetch_failed"


def test_a_canceled_job_is_not_fetched_any_further(house: House, receive, monkeypatch) -> None:
    monkeypatch.setattr(fetching, "HOLD_SECONDS", 0.3)
    started: list[float] = []

    def drip(handler: Any) -> None:
        started.append(time.monotonic())
        handler.send_response(200)
        handler.end_headers()
        house.records.cancel(job.id, "acme")
        for _ in range(200):
            handler.wfile.write(CLIP[:64])
            time.sleep(0.1)

    job = house.submit(receive(drip).url)
    assert house.fetch(job).state == State.CANCELED
    assert time.monotonic() - started[0] < 15 and house.left_behind() == []
    delete(house.records.get(job.id), records=house.records, store=house.store)
    assert not list(house.store.list("jobs/"))


def test_an_accepted_job_outlives_redis_and_is_fetched_after_it(house: House, receive) -> None:
    job = house.submit(receive(serve()).url)
    house.records.redis.flushall()
    assert recover(house.records, house.store, house.bell).queued == 1
    assert house.records.get(job.id).state == State.ACCEPTED
    assert house.fetch(job).state == State.QUEUED
    house.records.redis.flushall()  # and now its files are known
    recover(house.records, house.store, house.bell)
    assert house.records.get(job.id).state == State.QUEUED


def test_a_failed_fetch_can_be_tried_again(house: House, receive) -> None:
    job = house.submit(receive(404, serve()).url)
    house.fetch(job)
    again = retry(house.records.get(job.id), records=house.records, store=house.store, bell=house.bell).job
    assert again.state == State.ACCEPTED and house.fetch(again).state == State.QUEUED


def test_it_serves_until_asked_to_stop_and_gives_back_what_it_holds(house: House, receive) -> None:
    quick, slow = receive(serve()), receive(lambda _: time.sleep(30))
    first, second = house.submit(quick.url), house.submit(slow.url)

    async def scene() -> None:
        stop = asyncio.Event()
        served = asyncio.create_task(Fetcher(house.settings).serve(stop))
        while not (house.records.get(first.id).state == State.QUEUED and slow.seen):
            await asyncio.sleep(0.02)
        stop.set()
        await asyncio.wait_for(served, 10)

    asyncio.run(asyncio.wait_for(scene(), 30))
    assert Fetches(house.records).take(5) == [second.id]
    assert house.records.redis.hget(f"rf:job:{second.id}", "fetches") == "0"
