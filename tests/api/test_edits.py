"""POST /v1/edits: accepted once, refused with a reason and a pointer, nothing left behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs import catalogue
from jobs.request import JobRequest

UNKNOWN_ASSET = "ast_" + "0" * 26


def pointers(answer):
    return {error["pointer"]: error["code"] for error in answer.json()["errors"]}


def test_an_edit_is_accepted_with_links(edit):
    answer = edit()
    assert answer.status_code == 202
    job = answer.json()
    assert job["state"] == "queued"
    assert job["queue"]["position"] == 1
    assert answer.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert 'rel="events"' in answer.headers["link"]
    assert answer.headers["etag"] == f'W/"{job["version"]}"'
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("over", "code", "pointer"),
    [
        ({"method": "no_such_method"}, "unknown_method", None),
        ({"prompt": {}}, "validation_failed", "#/prompt/target"),
        ({"params": {"num_inference_steps": 0}}, "validation_failed", "#/params/num_inference_steps"),
        ({"params": {"num_inference_steps": 10**9}}, "validation_failed", "#/params/num_inference_steps"),
        ({"params": {"guidance_scale": "much"}}, "validation_failed", "#/params/guidance_scale"),
        ({"params": {"no_such": 1}}, "validation_failed", "#/params/no_such"),
        ({"no_such": 1}, "validation_failed", "#/no_such"),
        ({"save_path": "/etc/passwd"}, "validation_failed", "#/save_path"),
        ({"input": {"video": {"path": "/etc/passwd"}}}, "validation_failed", "#/input/video/path"),
        ({"input": {"video": {"asset": UNKNOWN_ASSET}}}, "missing_asset", "#/input/video/asset"),
        ({"model": "someone/weights"}, "model_not_allowed", None),
        ({"params": {"control_net": "/etc/passwd"}}, "model_not_allowed", "#/params/control_net"),
        ({"labels": {"a b": "c"}}, "validation_failed", None),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(edit, http, over, code, pointer, problem):
    found = problem(edit(**over), 422, code)
    if pointer:
        assert pointer in {error.get("pointer") for error in found["errors"]}
    assert http.get("/v1/jobs").json()["data"] == []


def test_limits_are_told(edit):
    answer = edit(params={"num_inference_steps": 10**9})
    limits = catalogue.load().method("frame_by_frame")["params"]["properties"]["num_inference_steps"]
    assert answer.json()["errors"][0]["max"] == limits["maximum"]


def test_an_input_file_the_method_does_not_take(edit, upload):
    asset = upload()["id"]
    answer = edit(input={"video": {"asset": asset}, "files": {"no_such": {"asset": asset}}})
    assert pointers(answer) == {"#/input/files/no_such": "unknown_field"}


def test_a_picture_is_not_a_clip(http, edit, png, problem):
    asset = http.post("/v1/uploads", content=png).json()["id"]
    problem(edit(input={"video": {"asset": asset}}), 422, "input.not_video")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"method": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 30_000,
        b"\xff\xfe",
        b'{"method": Infinity}',
    ],
)
def test_bad_json(http, body, problem):
    answer = http.post("/v1/edits", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_json")


def test_a_body_above_the_bound(http, problem):
    answer = http.post("/v1/edits", content=b" " * (65 << 10), headers={"Content-Type": "application/json"})
    problem(answer, 413, "upload_too_large")


def test_a_body_above_the_bound_without_its_length(http, problem):
    pieces = (b" " * 1024 for _ in range(65))
    answer = http.post("/v1/edits", content=pieces, headers={"Content-Type": "application/json"})
    problem(answer, 413, "upload_too_large")


def test_the_same_key_and_body_make_one_job(edit, http):
    first = edit(headers={"Idempotency-Key": "k1"})
    again = edit(headers={"Idempotency-Key": "k1"})
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(http.get("/v1/jobs").json()["data"]) == 1


def test_the_same_key_sent_many_times_at_once_makes_one_job(edit, upload, http, problem):
    upload()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: edit(headers={"Idempotency-Key": "race"}), range(16)))
    made = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.content for answer in made}) == 1
    for answer in set(answers) - set(made):
        assert problem(answer, 409, "idempotency_in_progress")["retry_after"] > 0
    assert len(http.get("/v1/jobs").json()["data"]) == 1


def test_the_same_key_with_another_body_is_refused(edit, problem):
    edit(headers={"Idempotency-Key": "k1"})
    again = edit(headers={"Idempotency-Key": "k1"}, prompt={"target": "other"})
    problem(again, 422, "idempotency_key_reuse")


def test_a_key_of_another_tenant_is_another_key(edit, upload, http, as_beta, clip):
    first = edit(headers={"Idempotency-Key": "k1"})
    asset = http.post("/v1/uploads", content=clip.read_bytes(), headers=as_beta).json()["id"]
    second = edit(headers={"Idempotency-Key": "k1", **as_beta}, input={"video": {"asset": asset}})
    assert second.status_code == 202
    assert second.json()["id"] != first.json()["id"]


def test_cancel_after_is_the_deadline(edit, http, problem):
    job = edit(headers={"Cancel-After": "15m"}).json()
    services = http.app.state.services
    assert services.records.get(job["id"]).request.deadline.finish_within == 900
    problem(edit(headers={"Cancel-After": "soon"}), 422, "validation_failed")


def test_the_longest_queue_a_caller_accepts(edit, problem):
    assert edit(headers={"Refilm-Max-Queue": "0"}).status_code == 202
    found = problem(edit(headers={"Refilm-Max-Queue": "0"}), 429, "queue_full")
    assert found["retryable"] is True


def test_trim_and_size_reach_the_method():
    request = JobRequest.model_validate(
        {
            "method": "frame_by_frame",
            "input": {"video": {"asset": UNKNOWN_ASSET}, "trim": {"start": 1, "end": 2}},
            "prompt": {"target": "x"},
            "params": {"size": "512x320"},
        }
    )
    assert catalogue.load().errors("frame_by_frame", request.engine_params(), {"video"}) == []
