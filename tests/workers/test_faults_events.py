"""What leaves the processes: a job's events go on at another API process, a worker's spans reach their collector."""

import json
from collections.abc import Iterator

import httpx
import pytest

from jobs.origin import came_from
from tests.workers.test_faults_service import Api

TRACE = "0af7651916cd43dd8448eb211c80319c"
pytestmark = pytest.mark.faults


def told(api: Api, job_id: str, last: str) -> Iterator[dict[str, str]]:
    """Events from one process, whole ones only, until it ends the stream or is no more."""
    headers = {"Last-Event-ID": last} if last else {}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        event: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line and not line.startswith(":"):
                event[name] = value
            elif event:
                yield event
                event = {}


@pytest.fixture
def both(stack) -> Iterator[tuple[Api, Api]]:
    """Two API processes on one Valkey."""
    pair = Api(stack), Api(stack)
    yield pair
    for api in pair:
        api.http.close()


def test_events_go_on_at_another_process_where_they_were_cut(stack, both) -> None:
    """Twice cut by the client, then by the death of a process; the other one tells the rest, also what nobody heard."""
    stack.worker("a")
    one, two = both
    processes = [api.start() for api in both]
    job = stack.submit(params={"steps": 60, "step_seconds": 0.1})
    heard: list[dict[str, str]] = []
    for api, count in ((one, 3), (two, 3), (one, 3)):
        stream = told(api, job.id, heard[-1]["id"] if heard else "")
        heard += [next(stream) for _ in range(count)]
        if len(heard) < 9:
            stream.close()
    processes[0].kill()
    with pytest.raises(httpx.TransportError):
        heard += stream  # what was under way may still come
    stack.wait(job, "succeeded")
    heard += told(two, job.id, heard[-1]["id"])
    assert [event["event"] for event in heard if event["event"] == "snapshot"] == ["snapshot"]
    kept = [event.id for event in stack.records.events(job.id, heard[0]["id"], count=2000)]
    assert [event["id"] for event in heard[1:]] == kept and len(set(kept)) == len(kept) > 9
    assert heard[-1]["event"] == "end"
    states = [json.loads(event["data"])["state"] for event in heard if event["event"] == "state"]
    assert states[-1] == "succeeded" and len(states) == len(set(states))


def test_spans_of_a_workers_process_reach_the_collector(stack, receive, monkeypatch) -> None:
    """Also of a job under way when the worker is told to stop; a traceparent in the record makes them one trace."""
    collector = receive(200)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    worker = stack.worker("a")
    with came_from("req-1", f"00-{TRACE}-b7ad6b7169203331-01"):
        job = stack.submit(params={"steps": 2})
    stack.wait(job, "succeeded")
    worker.terminate()
    assert worker.wait(30) == 0
    sent = b"".join(body for _, _, body in collector.seen)
    assert bytes.fromhex(TRACE) in sent and b"refilm-worker" in sent
    assert all(name in sent for name in (b"job.attempt", b"stage.edit", b"stage.publish", job.id.encode()))
