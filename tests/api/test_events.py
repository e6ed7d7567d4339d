"""Server-sent events and the clients, over a real socket."""

import asyncio
import json
import threading

import httpx
import pytest

from api.async_client import AsyncClient
from api.client import Client, RefilmError


@pytest.fixture
def job(served, clip):
    with Client(served) as client:
        asset = client.upload(clip)
        return client.edit(method="frame_by_frame", video=asset.id, prompt="a blue ball")


def read(response, until="end"):
    """The events of a stream up to the first of this type."""
    found, event = [], {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line and not line.startswith(":"):
            event[name] = value
        elif event:
            found.append(event | {"data": json.loads(event["data"])})
            if event["event"] == until:
                return found
            event = {}
    return found


def test_events_begin_with_a_snapshot_and_stop_at_the_end(served, job, local_worker):
    with httpx.stream("GET", f"{served}/v1/jobs/{job.id}/events", timeout=20) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines) == "event: snapshot"
        held = local_worker.claim(job.id)
        local_worker.progress(held, 0.5, "edit")
        local_worker.succeed(job.id, held=held)
        text = "\n".join(lines)
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert kinds[0] == "state" and kinds[-1] == "end" and "progress" in kinds
    assert '"state":"succeeded"' in text.replace(" ", "")
    assert "retry: 3000" in text


def test_events_resume_after_the_last_one_seen(served, job, local_worker):
    url = f"{served}/v1/jobs/{job.id}/events"
    with httpx.stream("GET", url, timeout=20) as response:
        [snapshot] = read(response, until="snapshot")
    held = local_worker.claim(job.id)
    local_worker.succeed(job.id, held=held)
    with httpx.stream("GET", url, headers={"Last-Event-ID": snapshot["id"]}, timeout=20) as response:
        missed = read(response)
    assert missed[0]["event"] == "state"
    assert [event["data"]["state"] for event in missed if event["event"] == "state"] == [
        "running",
        "finalizing",
        "succeeded",
    ]
    with httpx.stream("GET", url, headers={"Last-Event-ID": missed[-1]["id"]}, timeout=20) as response:
        assert [event["event"] for event in read(response)] == ["end"]


@pytest.mark.parametrize("last", ["1-0", "nonsense", "99999999999999999999999-0"])
def test_events_from_a_place_that_is_gone_begin_with_a_snapshot(served, job, local_worker, last):
    local_worker.succeed(job.id)
    url = f"{served}/v1/jobs/{job.id}/events"
    with httpx.stream("GET", url, headers={"Last-Event-ID": last}, timeout=20) as response:
        events = read(response)
    assert [event["event"] for event in events] == ["snapshot", "end"]
    assert events[0]["data"]["state"] == "succeeded"


def test_streams_of_a_tenant_are_bounded(served, job):
    url = f"{served}/v1/jobs/{job.id}/events"
    with httpx.stream("GET", url, timeout=20) as first, httpx.stream("GET", url, timeout=20) as second:
        assert (first.status_code, second.status_code) == (200, 200)
        refused = httpx.get(url, timeout=20)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")


def test_a_stop_ends_streams_and_held_reads(served, job):
    opened = threading.Event()

    def hold():
        with httpx.stream("GET", f"{served}/v1/jobs/{job.id}/events", timeout=30) as response:
            for _ in response.iter_lines():
                opened.set()

    threading.Thread(target=hold).start()
    assert opened.wait(10)
    # the end of the fixture asserts that the server stops although the stream is open


def test_the_client_watches_a_job_to_its_end_and_fetches_the_result(served, job, local_worker, tmp_path):
    timer, states = threading.Timer(0.3, lambda: local_worker.succeed(job.id, b"result")), []
    with Client(served) as client:
        for seen in client.watch(job.id):
            states.append(seen.state)
            if len(states) == 1:
                timer.start()
        done = client.job(job.id)
        assert states[0] == "queued" and states[-1] == "succeeded"
        assert client.download(done, tmp_path / "out.mp4").read_bytes() == b"result"
        assert [row.id for row in client.jobs(state="succeeded").data] == [job.id]
        client.delete(job.id)
        with pytest.raises(RefilmError) as refused:
            client.job(job.id)
    assert (refused.value.code, refused.value.status) == ("not_found", 404)
    timer.join()


def test_the_asynchronous_client_does_the_same(served, clip, local_worker, tmp_path):
    async def whole():
        async with AsyncClient(served) as client:
            asset = await client.upload(clip)
            job = await client.edit(method="frame_by_frame", video=asset.id, prompt="a blue ball")
            timer = threading.Timer(0.3, lambda: local_worker.succeed(job.id, b"result"))
            timer.start()
            states = [seen.state async for seen in client.watch(job.id)]
            path = await client.download(await client.job(job.id), tmp_path / "out.mp4")
            assert (await client.method("frame_by_frame")).id in [row.id for row in (await client.methods()).data]
            other = await client.edit(method="frame_by_frame", video=asset.id, prompt="x")
            assert (await client.cancel(other.id)).state == "canceled"
            assert (await client.retry(other.id)).retry_of == other.id
            assert len((await client.jobs()).data) == 3
            await client.delete(job.id)
            return states[-1], path.read_bytes()

    assert asyncio.run(whole()) == ("succeeded", b"result")


def test_a_refusal_is_an_exception_with_its_code(served, clip):
    with Client(served) as client:
        asset = client.upload(clip)
        with pytest.raises(RefilmError, match="num_inference_steps") as refused:
            client.edit(method="frame_by_frame", video=asset.id, prompt="x", params={"num_inference_steps": 0})
    assert refused.value.code == "validation_failed"


def test_no_server_is_an_exception_too(monkeypatch):
    monkeypatch.setattr("api.client.pause", lambda *_: 0.0)
    with Client("http://127.0.0.1:1") as client, pytest.raises(RefilmError) as refused:
        client.methods()
    assert refused.value.code == "unreachable"


def test_an_edit_is_sent_again_with_the_same_key_until_it_is_answered(served, clip, monkeypatch):
    monkeypatch.setattr("api.client.pause", lambda *_: 0.0)
    keys = []

    class Flaky(httpx.HTTPTransport):
        def handle_request(self, request):
            keys.append(request.headers.get("idempotency-key"))
            answer = super().handle_request(request)
            if request.url.path == "/v1/edits" and keys.count(keys[-1]) < 3:
                answer.close()
                raise httpx.ReadError("the answer was lost")
            return answer

    with Client(served, transport=Flaky()) as client:
        asset = client.upload(clip)
        job = client.edit(method="frame_by_frame", video=asset.id, prompt="x")
        assert [row.id for row in client.jobs().data] == [job.id]
    assert len({key for key in keys if key}) == 1
