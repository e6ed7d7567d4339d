"""F22 and F23 for webhooks, on real schedulers: the leader dies, receivers misbehave, and jobs notice nothing."""

import json
import time
from collections import Counter

import pytest
from standardwebhooks import Webhook

from jobs.deliveries import Deliveries
from jobs.request import ENDINGS
from jobs.webhooks import Endpoints
from tests.conftest import wait_for
from tests.receiver import Receiver

pytestmark = pytest.mark.faults
WEBHOOKS = {"egress_loopback": True, "webhook_timeout_seconds": 2}


def scheduler(stack):
    """A scheduler that tries three times, a second apart."""
    return stack._start("-m", "workers.scheduler", webhook_schedule="0,1,1")


def settle(stack, endpoint, states, count, seconds=60):
    """Wait until so many of the endpoint's deliveries are in one of these states."""
    deliveries, end = Deliveries(stack.records), time.monotonic() + seconds
    while time.monotonic() < end:
        found = deliveries.of_endpoint(endpoint.id, before=None, limit=100)
        if sum(delivery.state in states for delivery in found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{[delivery.model_dump() for delivery in found]}\n{stack.read_logs()}")


def test_f22_a_leader_that_is_killed_doubles_no_webhook(make_stack) -> None:
    stack, receiver = make_stack(**WEBHOOKS), Receiver(lambda h: slow(h, 0.2))
    endpoint, secret = Endpoints(stack.records, stack.store).create(
        "local", receiver.url, events=ENDINGS, description=""
    )
    first, _ = scheduler(stack), scheduler(stack)
    jobs = [stack.submit() for _ in range(30)]
    for job in jobs:
        stack.records.cancel(job.id, "local")
    wait_for(lambda: len(receiver.seen) >= 5, 60)
    first.kill()  # one of the two leads; whichever it is, the other goes on
    replacement = scheduler(stack)
    settle(stack, endpoint, {"delivered"}, len(jobs) - 5)
    # what the dead one held comes back when its hold ends
    for message in stack.records.redis.zrange("rf:msgs-due", 0, -1):
        stack.records.redis.zadd("rf:msgs-due", {message: 0})
    settle(stack, endpoint, {"delivered"}, len(jobs))
    told = Counter(json.loads(body)["data"]["id"] for _, _, body in receiver.seen)
    assert set(told) == {job.id for job in jobs}
    assert sum(told.values()) <= len(jobs) + 4, "only what was under way in the dead process may come twice"
    ids = Counter(headers["webhook-id"] for _, headers, _ in receiver.seen)
    assert len(ids) == len(jobs), "and then with the same id"
    for _, headers, body in receiver.seen:
        assert Webhook(secret).verify(body, headers)
    assert replacement.poll() is None
    receiver.close()


def slow(handler, seconds) -> None:
    time.sleep(seconds)
    handler.send_response(204)
    handler.end_headers()


def test_f23_receivers_that_misbehave_hurt_only_themselves(make_stack) -> None:
    stack = make_stack(**WEBHOOKS)
    answers = {"broken": [500], "moved": [(302, {"Location": "/elsewhere"})], "gone": [410], "well": [204]}
    answers |= {"silent": [lambda handler: time.sleep(10)], "mended": [500, 503, 204]}
    receivers = {name: Receiver(*given) for name, given in answers.items()}
    endpoints = Endpoints(stack.records, stack.store)
    made = {
        name: endpoints.create("local", receiver.url, events=("job.succeeded",), description=name)[0]
        for name, receiver in receivers.items()
    }
    scheduler(stack)
    stack.worker("w1")
    job = stack.wait(stack.submit(), "succeeded")
    for name in ("broken", "moved", "silent"):
        [failed] = settle(stack, made[name], {"failed"}, 1)
        assert failed.tries == 3, name
        gaps = [(b.at - a.at).total_seconds() for a, b in zip(failed.attempts, failed.attempts[1:], strict=False)]
        assert all(gap > 0.85 for gap in gaps), (name, gaps)
    assert {item.error for item in failed.attempts} == {"TimeoutError"}
    settle(stack, made["well"], {"delivered"}, 1)
    [mended] = settle(stack, made["mended"], {"delivered"}, 1)
    assert [item.status for item in mended.attempts] == [500, 503, 204]
    settle(stack, made["gone"], {"failed"}, 1)
    gone = endpoints.find("local", made["gone"].id)
    assert gone is not None and gone.disabled and len(receivers["gone"].seen) == 1
    assert all(path == "/hook" for path, _, _ in receivers["moved"].seen)
    after = stack.job(job)
    assert (after.state, after.version, len(after.attempts)) == (job.state, job.version, 1)
    for receiver in receivers.values():
        receiver.close()
