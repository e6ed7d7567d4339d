"""A job's events across API processes: what one began another goes on with, no event lost and none told twice."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.workers.test_faults_service import Api

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
