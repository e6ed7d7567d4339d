"""Webhooks against a real receiver: who is told, how it is signed, and what becomes of failures."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from jobs import manifest
from jobs.deliveries import HOLD_SECONDS, Deliveries
from jobs.leases import Leases, Outcome, Owner
from jobs.manifest import Manifest
from jobs.queue import Bell
from jobs.records import Records
from jobs.recovery import recover
from jobs.request import ENDINGS, EventName, JobRequest
from jobs.settings import Settings
from jobs.states import State
from jobs.store import open_store
from jobs.submission import create_from
from jobs.webhooks import Endpoint, Endpoints
from tests.conftest import wait_for
from workers.outbox import Outbox

ASSET = "ast_" + "0" * 26
SHORT = (0.0, 0.05, 0.05)


class Post:
    """Records, endpoints and a sending outbox."""

    def __init__(self, settings: Settings) -> None:
        self.records, self.store = Records(settings), open_store(settings)
        self.endpoints, self.deliveries = Endpoints(self.records, self.store), Deliveries(self.records)
        self.bell = Bell(settings)
        self.outbox = Outbox(settings, self.records, self.store)

    def endpoint(self, url: str, *events: EventName, tenant: str = "local") -> tuple[Endpoint, str]:
        return self.endpoints.create(tenant, url, events=events or ENDINGS, description="")

    def job(self, number: int = 0, tenant: str = "local", **more: Any) -> str:
        """A job that was canceled: its events lie in the outbox."""
        request = JobRequest.model_validate({"method": "echo", "input": {"video": {"asset": ASSET}}} | more)
        job_id = f"job_{number:026d}"
        self.records.create(job_id, request, tenant)
        self.records.cancel(job_id, tenant)
        return job_id

    def settled(self, endpoint: Endpoint, state: str = "delivered", count: int = 1) -> list[Any]:
        """Wait until so many of the endpoint's deliveries are in this state."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found = self.deliveries.of_endpoint(endpoint.id, before=None, limit=100)
            if sum(delivery.state == state for delivery in found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError([delivery.model_dump() for delivery in found])


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"egress_loopback": True, "webhook_schedule": SHORT, "webhook_timeout_seconds": 0.5}
    )


@pytest.fixture
def post(settings: Settings) -> Iterator[Post]:
    post = Post(settings)
    post.outbox.start()
    post.outbox.lead(True)
    yield post
    post.outbox.stop()
    post.records.redis.close()


def test_a_message_is_thin_and_signed_as_the_standard_says(post: Post, receive) -> None:
    receiver = receive(204)
    endpoint, secret = post.endpoint(receiver.url)
    job_id = post.job(prompt={"target": "a secret prompt"}, labels={"project": "demo"})
    [delivery] = post.settled(endpoint)
    [(_, headers, body)] = receiver.seen
    told = Webhook(secret).verify(body, headers)
    assert told["type"] == "job.canceled" and headers["webhook-id"] == delivery.id
    assert told["data"] == {
        "id": job_id,
        "object": "job",
        "state": "canceled",
        "version": 3,
        "labels": {"project": "demo"},
        "urls": {"self": f"/v1/jobs/{job_id}", "events": f"/v1/jobs/{job_id}/events"},
    }
    assert b"secret prompt" not in body and len(body) < 20_000
    assert post.records.redis.xlen("rf:outbox") == 0


def test_only_who_wants_an_event_hears_of_it(post: Post, receive) -> None:
    receiver = receive(200)
    everything, _ = post.endpoint(receiver.url + "/all", "job.*")
    named, _ = post.endpoint(receiver.url + "/named", "batch.completed")
    failures, _ = post.endpoint(receiver.url + "/failures", "job.failed")
    stranger, _ = post.endpoint(receiver.url + "/stranger", tenant="other")
    post.job(webhook={"endpoint": named.id, "events": ["job.queued"]})
    post.settled(everything, count=2)
    post.settled(named)
    assert sorted((path, json.loads(body)["type"]) for path, _, body in receiver.seen) == [
        ("/hook/all", "job.canceled"),
        ("/hook/all", "job.queued"),
        ("/hook/named", "job.queued"),
    ]
    for silent in (failures, stranger):
        assert post.deliveries.of_endpoint(silent.id, before=None, limit=10) == []


def test_two_secrets_sign_while_one_is_rotated(post: Post, receive) -> None:
    receiver = receive(200)
    endpoint, old = post.endpoint(receiver.url)
    endpoint, new = post.endpoints.rotate(endpoint, overlap_seconds=60)
    post.job(1)
    post.settled(endpoint)
    endpoint, newest = post.endpoints.rotate(endpoint, overlap_seconds=0)
    post.job(2)
    post.settled(endpoint, count=2)
    first, second = [(body, headers) for _, headers, body in receiver.seen]
    assert Webhook(old).verify(*first) and Webhook(new).verify(*first)
    assert Webhook(newest).verify(*second)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(new).verify(*second)


@pytest.mark.parametrize("answer", [500, 404, (302, {"Location": "http://127.0.0.1:1/"}), lambda _: time.sleep(2)])
def test_f23_what_is_not_2xx_in_time_is_tried_again_with_the_same_message(post: Post, receive, answer) -> None:
    receiver = receive(answer, 200)
    endpoint, _ = post.endpoint(receiver.url)
    post.job()
    [delivery] = post.settled(endpoint)
    assert [item.status for item in delivery.attempts][-1] == 200 and delivery.tries == 2
    assert delivery.attempts[0].error == "TimeoutError" or delivery.attempts[0].status in (500, 404, 302)
    assert receiver.seen[0][1]["webhook-id"] == receiver.seen[1][1]["webhook-id"]
    assert receiver.seen[0][2] == receiver.seen[1][2]


def test_f23_the_schedule_ends_and_a_replay_begins_it_anew(post: Post, receive) -> None:
    receiver = receive(500, 500, 500, 200)
    endpoint, _ = post.endpoint(receiver.url)
    post.job()
    [failed] = post.settled(endpoint, "failed")
    assert [item.status for item in failed.attempts] == [500, 500, 500]
    assert post.deliveries.replay(failed.id)
    [again] = post.settled(endpoint)
    assert again.id == failed.id and len(receiver.seen) == 4
    assert post.records.counters()["webhooks_failed"] == 1


def test_f23_410_ends_the_endpoint(post: Post, receive) -> None:
    receiver = receive(410)
    endpoint, _ = post.endpoint(receiver.url)
    post.job(1)
    post.settled(endpoint, "failed")
    known = post.endpoints.find("local", endpoint.id)
    assert known is not None and "410" in str(known.disabled)
    post.job(2)
    time.sleep(0.6)
    assert len(receiver.seen) == 1
    [old] = post.deliveries.of_endpoint(endpoint.id, before=None, limit=9)
    post.deliveries.replay(old.id)
    post.settled(endpoint, "dropped")
    assert len(receiver.seen) == 1


@pytest.mark.parametrize(("status", "waits"), [(429, True), (503, True), (500, False)])
def test_f23_retry_after_is_honoured(post: Post, receive, status, waits) -> None:
    receiver = receive((status, {"Retry-After": "3600"}))
    endpoint, _ = post.endpoint(receiver.url)
    post.job()
    if not waits:
        post.settled(endpoint, "failed")
        return
    end = time.monotonic() + 10
    while not (found := post.deliveries.of_endpoint(endpoint.id, before=None, limit=1)) or not found[0].attempts:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert found[0].state == "pending" and found[0].next_at is not None and found[0].created_at is not None
    assert (found[0].next_at - found[0].created_at).total_seconds() > 3500


def test_a_dead_host_stalls_nobody_else(post: Post, receive) -> None:
    dead, alive = receive(lambda _: time.sleep(5)), receive(200)
    sleepy, _ = post.endpoint(dead.url)
    awake, _ = post.endpoint(alive.url)
    for number in range(12):
        post.job(number)
    post.settled(awake, count=12)
    assert not any(found.state == "delivered" for found in post.deliveries.of_endpoint(sleepy.id, before=None, limit=9))


def test_a_sender_that_dies_delays_a_message_and_a_second_one_doubles_none(settings: Settings, receive) -> None:
    receiver = receive(200)
    post = Post(settings)
    endpoint, _ = post.endpoint(receiver.url)
    post.job()
    [row] = post.deliveries.rows()[-1:]
    assert post.deliveries.spread(row, {endpoint.id: "{}"})
    assert not post.deliveries.spread(row, {endpoint.id: "{}"})
    [held] = post.deliveries.take(10)  # and the process that took it is gone
    assert post.deliveries.take(10) == []
    due = post.records.redis.zscore("rf:msgs-due", held)
    assert due / 1000 == pytest.approx(time.time() + HOLD_SECONDS, abs=5)
    post.records.redis.zadd("rf:msgs-due", {held: 0})  # the hold is over
    post.outbox.start()
    post.outbox.lead(True)
    post.settled(endpoint)
    post.outbox.stop()
    assert len(receiver.seen) == 1
    post.records.redis.close()


def test_who_does_not_lead_sends_nothing(settings: Settings, receive) -> None:
    receiver = receive(200)
    post = Post(settings)
    post.endpoint(receiver.url)
    post.job()
    post.outbox.start()
    time.sleep(0.6)
    post.outbox.stop()
    assert receiver.seen == [] and post.records.redis.xlen("rf:outbox") > 0
    post.records.redis.close()


def test_endpoints_outlive_redis(post: Post, receive) -> None:
    receiver = receive(200)
    endpoint, secret = post.endpoint(receiver.url)
    post.records.redis.flushall()
    post.job()
    post.settled(endpoint)
    assert Webhook(secret).verify(receiver.seen[0][2], receiver.seen[0][1])
    post.endpoints.delete(endpoint)
    post.records.redis.flushall()
    assert post.endpoints.list("local") == []


def ended(post: Post, number: int, endpoint: Endpoint, *, days_ago: float = 0.0) -> str:
    """A canceled job of which the store knows everything."""
    request = {"method": "echo", "input": {"video": {"asset": ASSET}}, "webhook": {"endpoint": endpoint.id}}
    job_id = f"job_{number:026d}"
    asked = JobRequest.model_validate(request)
    accepted = Manifest(id=job_id, tenant="local", pool="default", request=asked, inputs={})
    manifest.write(post.store, accepted)
    create_from(accepted, post.records)
    post.records.cancel(job_id, "local")
    row = post.records.redis.hgetall(f"rf:job:{job_id}")
    row["finished"] = str(int(row["finished"]) - int(days_ago * 86_400_000))
    manifest.write_ending(post.store, "local", job_id, row)
    return job_id


def test_ends_that_nobody_heard_of_are_told_after_redis_was_lost(settings: Settings, receive) -> None:
    """Once to whom it was not told; who heard of it, or of what ended long ago, hears nothing."""
    post = Post(settings.model_copy(update={"webhook_schedule": (0.0, 3600.0)}))
    hears, deaf = receive(200), receive(500, 200)
    told, _ = post.endpoint(hears.url, "job.canceled")
    missed, _ = post.endpoint(deaf.url, "batch.completed")
    job_id = ended(post, 1, missed)
    post.outbox.start()
    post.outbox.lead(True)
    post.settled(told)
    wait_for(lambda: deaf.seen)
    wait_for(lambda: post.deliveries.of_endpoint(missed.id, before=None, limit=9)[0].tries == 1)
    post.outbox.lead(False)
    ended(post, 2, missed, days_ago=4)
    post.records.redis.flushall()
    assert recover(post.records, post.store, post.bell).restored == 2
    post.outbox.lead(True)
    post.settled(missed)
    wait_for(lambda: post.records.redis.xlen("rf:outbox") == 0)
    post.outbox.stop()
    assert [json.loads(body)["data"]["id"] for _, _, body in deaf.seen] == [job_id, job_id]
    assert len(hears.seen) == 1
    manifest.remove(post.store, "local", job_id)
    assert [info.key for info in post.store.list("jobs/") if job_id in info.key] == []
    post.records.redis.close()


def test_a_job_that_ends_is_told_with_its_own_version(post: Post, receive) -> None:
    receiver = receive(200)
    endpoint, _ = post.endpoint(receiver.url, "job.succeeded")
    request = JobRequest.model_validate({"method": "echo", "input": {"video": {"asset": ASSET}}})
    post.records.create("job_" + "1" * 26, request, "local")
    leases = Leases(post.records)
    claim = leases.claim("job_" + "1" * 26, Owner("w", "w@h", "t"))
    assert claim is not None
    leases.finalize(claim)
    assert leases.finish(claim, Outcome("succeeded")) == "succeeded"
    post.settled(endpoint)
    told = json.loads(receiver.seen[0][2])["data"]
    assert (told["state"], told["version"]) == ("succeeded", post.records.get(claim.job_id).version)


def test_the_names_of_events_are_the_states() -> None:
    named = set(EventName.__args__) - {"job.*", "batch.completed"}  # type: ignore[attr-defined]
    assert named == {f"job.{state}" for state in State if state is not State.ACCEPTED}
