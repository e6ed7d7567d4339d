"""Every POST with a key: the first answer is repeated, whatever happened since; a request that failed is not kept."""

import pytest

from api.app import create_app
from api.settings import ApiSettings
from jobs.answers import Answers, InProgress
from jobs.connection import QueueUnavailable
from jobs.records import Idempotency, Records
from jobs.settings import Settings

KEY = {"Idempotency-Key": "k1"}


def test_the_first_answer_is_repeated_as_it_was(http, edit, worker):
    first = edit(headers=KEY | {"Prefer": "wait=0"})
    worker.succeed(first.json()["id"])
    again = edit(headers=KEY | {"Prefer": "wait=0"})
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.json()["state"] == "queued"
    for name in ("location", "etag", "link", "retry-after", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["idempotency-replayed"] == "true" and again.headers["x-request-id"]


def test_every_post_repeats_its_answer(http, edit, worker, clip):
    job = edit().json()
    worker.claim(job["id"])
    asset = {"sha256": http.post("/v1/uploads", content=clip.read_bytes()).json()["sha256"]}
    calls = [
        lambda: http.post(job["urls"]["cancel"], headers=KEY),
        lambda: http.post("/v1/assets/from-hash", json=asset, headers={"Idempotency-Key": "k2"}),
        lambda: http.post("/v1/uploads", content=clip.read_bytes(), headers={"Idempotency-Key": "k3"}),
    ]
    firsts = [call() for call in calls]
    worker.finish_canceled(worker.records.get(job["id"]))
    for call, first in zip(calls, firsts, strict=True):
        again = call()
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotency-replayed"] == "true"
    assert firsts[0].json()["state"] == "canceling"


def test_another_request_with_the_key_is_refused(http, edit, problem):
    job = edit(headers=KEY).json()
    problem(http.post(job["urls"]["cancel"], headers=KEY), 422, "idempotency_key_reuse")
    problem(http.post(job["urls"]["cancel"], headers={"Idempotency-Key": "a b"}), 422, "validation_failed")


def test_a_first_request_under_way_is_a_conflict(http, edit, records, problem, upload):
    upload()
    edit(headers=KEY)
    kept = "rf:answer:alpha:k1"
    records.redis.hdel(kept, "status", "headers", "body")  # as before its end
    document = problem(edit(headers=KEY), 409, "idempotency_in_progress")
    assert document["retryable"] and document["retry_after"] > 0
    once = Idempotency("k1", records.redis.hget(kept, "hash"))
    Answers(records).drop("alpha", once, records.redis.hget(kept, "token"))
    assert edit(headers=KEY).status_code == 202


def test_a_refusal_is_not_kept(http, edit, problem, monkeypatch):
    def away(*_, **__):
        raise QueueUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "create", away)
        problem(edit(headers=KEY), 503, "queue_unavailable")
    assert edit(headers=KEY).status_code == 202


def test_a_crash_before_the_answer_is_kept_makes_no_second_job(http, edit, records):
    first = edit(headers=KEY).json()["id"]
    records.redis.delete("rf:answer:alpha:k1")
    again = edit(headers=KEY)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first, "true")


def test_only_the_holder_of_a_token_keeps_an_answer(records):
    answers, once = Answers(records), Idempotency("k", "h")
    token = answers.begin("alpha", once, 60.0)
    answers.drop("alpha", once, "another")
    with pytest.raises(InProgress):
        answers.begin("alpha", once, 60.0)
    answers.drop("alpha", once, token)
    assert isinstance(answers.begin("alpha", once, 60.0), str)


def test_the_document_tells_of_the_key_on_every_post():
    paths = create_app(Settings(), ApiSettings()).openapi()["paths"]
    posts = {path: operations["post"] for path, operations in paths.items() if "post" in operations}
    assert len(posts) > 5
    for path, operation in posts.items():
        names = [parameter["name"] for parameter in operation["parameters"]]
        assert names.count("Idempotency-Key") == 1 and "409" in operation["responses"], path
