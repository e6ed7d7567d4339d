"""Forbidden texts are refused when they are sent, in every way that the API takes them; the worker's check stays."""

import json
import sys
from types import SimpleNamespace

import pytest

from jobs.listing import Query, list_jobs
from jobs.policy import Subject, Verdict


@pytest.fixture
def settings(settings, monkeypatch, request):
    """A word list as the operator's policy; another function of it where the test names one."""

    def strict(subject: Subject) -> Verdict:
        bad = any("forbidden" in text for text in subject.texts.values())
        return Verdict(not bad, "word_list" if bad else "")

    def broken(subject: Subject) -> Verdict:
        raise RuntimeError("no device here")

    monkeypatch.setitem(sys.modules, "operators_words", SimpleNamespace(strict=strict, broken=broken))
    name, mode = getattr(request, "param", ("operators_words:strict", "enforce"))
    return settings.model_copy(update={"policy": name, "policy_mode": mode})


def test_a_forbidden_text_is_refused_where_an_edit_comes_in(http, edit, upload, worker, problem):
    document = problem(edit({"Idempotency-Key": "k"}, prompt={"target": "a forbidden cat"}), 422, "policy_input")
    assert document["detail"] == "word_list" and not document["retryable"] and "forbidden" not in json.dumps(document)
    assert document["errors"] == [{"pointer": "#/prompt", "code": "policy_input", "message": "word_list"}]
    problem(edit(prompt={"target": "x", "negative": "forbidden"}), 422, "policy_input")
    body = {
        "method": "frame_by_frame",
        "input": {"video": {"asset": upload()["id"]}},
        "prompt": {"target": "forbidden"},
    }
    problem(http.post("/v1/estimates", json=body), 422, "policy_input")
    assert not list_jobs(worker.records, "alpha", Query()).items
    made = edit({"Idempotency-Key": "k"}, prompt={"target": "a cat"})  # the key was not used up by the refusal
    assert made.status_code == 202 and "idempotency-replayed" not in made.headers
    again = edit({"Idempotency-Key": "k"}, prompt={"target": "a cat"})
    assert again.json()["id"] == made.json()["id"] and again.headers["idempotency-replayed"] == "true"


def test_a_batch_names_every_forbidden_text(http, upload, worker, problem):
    clip = {"video": {"asset": upload()["id"]}}
    prompts = [{"target": "a cat"}, {"target": "forbidden"}]
    matrix = {"videos": [clip], "prompts": prompts, "methods": [{"method": "frame_by_frame"}]}
    document = problem(http.post("/v1/batches", json=matrix), 422, "policy_input")
    assert [error["pointer"] for error in document["errors"]] == ["#/prompts/1"]
    one = {"method": "frame_by_frame", "input": clip}
    listed = "\n".join(json.dumps(one | {"prompt": prompt}) for prompt in prompts)
    kind = {"Content-Type": "application/x-ndjson"}
    document = problem(http.post("/v1/batches", content=listed, headers=kind), 422, "policy_input")
    assert [error["line"] for error in document["errors"]] == [2]
    assert not list_jobs(worker.records, "alpha", Query()).items


def test_clients_of_openai_hear_it_in_their_form(http, upload):
    body = {"prompt": "forbidden", "model": "frame_by_frame", "video": {"id": upload()["id"]}}
    answer = http.post("/openai/v1/videos/edits", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "policy_input" and "word_list" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "settings",
    [("operators_words:broken", "enforce"), ("not.there:judge", "enforce"), ("operators_words:strict", "log")],
    indirect=True,
)
def test_what_is_not_decided_here_is_left_to_the_worker(edit):
    assert edit(prompt={"target": "forbidden"}).status_code == 202
