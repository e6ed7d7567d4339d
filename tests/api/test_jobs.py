"""Jobs: conditional and held reads, lists, cancel, retry, delete, results."""

import threading
import time

import pytest

from jobs import layout
from jobs.sweeps import Sweeps


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_a_job_is_read_with_its_version_as_etag(http, edit):
    job = edit().json()
    answer = http.get(job["urls"]["self"])
    assert answer.json() == job
    assert answer.headers["etag"] == f'W/"{job["version"]}"'
    assert "retry-after" in answer.headers


def test_304_until_something_changes(http, edit, worker):
    job = edit().json()
    known = {"If-None-Match": f'W/"{job["version"]}"'}
    unchanged = http.get(job["urls"]["self"], headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == known["If-None-Match"]
    assert "retry-after" in unchanged.headers
    worker.claim(job["id"])
    changed = http.get(job["urls"]["self"], headers=known)
    assert (changed.status_code, changed.json()["state"]) == (200, "running")


def test_a_held_read_ends_when_the_job_changes(http, edit, worker):
    job = edit().json()
    timer = later(0.3, lambda: worker.claim(job["id"]))
    begun = time.monotonic()
    answer = http.get(job["urls"]["self"], headers={"If-None-Match": f'W/"{job["version"]}"', "Prefer": "wait=10"})
    assert 0.2 < time.monotonic() - begun < 3
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert answer.headers["preference-applied"] == "wait=10"
    timer.join()


def test_a_held_read_without_a_validator_waits_too(http, edit, worker):
    job = edit().json()
    timer = later(0.3, lambda: worker.claim(job["id"]))
    assert http.get(job["urls"]["self"], params={"wait": 10}).json()["state"] == "running"
    timer.join()


def test_a_held_read_ends_with_its_time(http, edit):
    job = edit().json()
    begun = time.monotonic()
    answer = http.get(job["urls"]["self"], headers={"If-None-Match": f'W/"{job["version"]}"', "Prefer": "wait=1"})
    assert answer.status_code == 304
    assert 0.9 < time.monotonic() - begun < 3


def test_an_ended_job_is_not_waited_for(http, edit):
    job = http.post(edit().json()["urls"]["cancel"]).json()
    begun = time.monotonic()
    headers = {"If-None-Match": f'W/"{job["version"]}"', "Prefer": "wait=30"}
    answer = http.get(job["urls"]["self"], headers=headers)
    assert (answer.status_code, answer.headers.get("retry-after")) == (304, None)
    assert http.get(job["urls"]["self"], headers={"Prefer": "wait=30"}).status_code == 200
    assert time.monotonic() - begun < 3


def test_an_edit_can_wait_for_its_end(http, edit, worker, upload):
    upload()

    def run():
        while not (waiting := http.get("/v1/jobs").json()["data"]):
            time.sleep(0.05)
        worker.succeed(waiting[0]["id"])

    timer = later(0.1, run)
    answer = edit(headers={"Prefer": "respond-async, wait=10"})
    timer.join()
    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")


def test_many_held_reads_share_one_reader(http, edit, worker):
    job = edit().json()
    redis = http.app.state.services.records.redis
    before = redis.info("clients")["connected_clients"]
    known = {"If-None-Match": f'W/"{job["version"]}"', "Prefer": "wait=10"}
    states = []
    readers = [
        threading.Thread(target=lambda: states.append(http.get(job["urls"]["self"], headers=known).json()["state"]))
        for _ in range(20)
    ]
    for reader in readers:
        reader.start()
    time.sleep(0.5)
    clients = redis.info("clients")["connected_clients"]
    worker.claim(job["id"])
    for reader in readers:
        reader.join()
    assert states == ["running"] * 20
    assert clients < before + 10


def test_pages_hold_every_job_once(http, edit):
    made = [edit(prompt={"target": str(number)}).json()["id"] for number in range(5)]
    seen, cursor = [], None
    for _ in range(4):
        page = http.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_are_filtered(http, edit, as_beta):
    first, second = edit(labels={"project": "a"}).json(), edit().json()
    http.post(second["urls"]["cancel"])

    def ids(**query):
        return [job["id"] for job in http.get("/v1/jobs", params=query).json()["data"]]

    assert ids(state="queued") == [first["id"]]
    assert ids(state=["queued", "canceled"]) == [second["id"], first["id"]]
    assert ids(label="project=a") == [first["id"]]
    assert ids(method="no_such") == []
    assert ids(created_after="2999-01-01T00:00:00") == []
    assert http.get("/v1/jobs", headers=as_beta).json()["data"] == []


def test_what_changed_since(http, edit, worker):
    first, second = edit().json(), edit().json()
    mark = http.get("/v1/jobs").json()["changed_cursor"]
    assert http.get("/v1/jobs", params={"changed_since": mark}).json()["data"] == []
    worker.claim(first["id"])
    page = http.get("/v1/jobs", params={"changed_since": mark}).json()
    assert [job["id"] for job in page["data"]] == [first["id"]]
    assert second["id"] != first["id"]
    assert http.get("/v1/jobs", params={"changed_since": page["changed_cursor"]}).json()["data"] == []


@pytest.mark.parametrize("query", [{"cursor": "nonsense"}, {"changed_since": "!"}, {"cursor": "WzFd"}])
def test_bad_cursors(http, problem, query):
    problem(http.get("/v1/jobs", params=query), 400, "bad_cursor")


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1000}, {"state": "lost"}, {"created_after": "then"}])
def test_bad_queries(http, problem, query):
    assert problem(http.get("/v1/jobs", params=query), 422, "validation_failed")["errors"][0]["in"] == "query"


def test_cancel_is_idempotent(http, edit, worker):
    waiting, running = edit().json(), edit().json()
    worker.claim(running["id"])
    for _ in range(2):
        assert (answer := http.post(waiting["urls"]["cancel"])).status_code == 200
        assert answer.json()["state"] == "canceled"
        assert (answer := http.post(running["urls"]["cancel"])).status_code == 202
        assert answer.json()["state"] == "canceling"


def test_retry_is_a_new_job_of_the_same_request(http, edit, problem):
    job = edit(labels={"a": "b"}).json()
    problem(http.post(job["urls"]["retry"]), 409, "state_conflict")
    http.post(job["urls"]["cancel"])
    answer = http.post(job["urls"]["retry"], headers={"Idempotency-Key": "again"})
    assert answer.status_code == 202
    fresh = answer.json()
    assert fresh["id"] != job["id"]
    assert (fresh["retry_of"], fresh["labels"], fresh["state"]) == (job["id"], {"a": "b"}, "queued")
    replayed = http.post(job["urls"]["retry"], headers={"Idempotency-Key": "again"})
    assert (replayed.json()["id"], replayed.headers["idempotency-replayed"]) == (fresh["id"], "true")


def test_results_are_served_in_ranges_until_deleted(http, edit, worker, problem, as_beta):
    job = edit().json()
    problem(http.delete(job["urls"]["self"]), 409, "state_conflict")
    worker.succeed(job["id"])
    done = http.get(job["urls"]["self"]).json()
    assert done["state"] == "succeeded"
    [output] = done["outputs"]
    assert "key" not in output
    assert http.get(output["url"]).content == b"0123456789"
    assert http.get(output["url"], headers={"Range": "bytes=2-4"}).content == b"234"
    problem(http.get(output["url"], headers=as_beta), 404, "not_found")
    problem(http.get(f"/v1/jobs/{job['id']}/outputs/other.mp4"), 404, "not_found")
    assert http.delete(job["urls"]["self"]).status_code == 204
    problem(http.get(job["urls"]["self"]), 404, "not_found")
    problem(http.get(output["url"]), 404, "not_found")
    assert list(http.app.state.services.store.list(f"out/alpha/{job['id']}/")) == []


def test_expired_media_is_gone_not_unknown(http, edit, worker, problem):
    job = edit().json()
    worker.succeed(job["id"])
    services = http.app.state.services
    services.store.delete_prefix(layout.outputs_folder("alpha", job["id"]))
    url = f"/v1/jobs/{job['id']}/outputs/video.mp4"
    problem(http.get(url), 410, "expired")
    Sweeps(services.records).media_gone("alpha", job["id"])
    problem(http.get(url), 410, "expired")


def test_a_failed_job_says_why(http, edit, worker):
    job = edit().json()
    worker.fail(job["id"], "input.decode_failed", "frame 3", stage="prepare")
    error = http.get(job["urls"]["self"]).json()["error"]
    assert (error["code"], error["detail"], error["stage"]) == ("input.decode_failed", "frame 3", "prepare")
    assert error["retryable"] is False


def test_progress_and_eta(http, edit, worker):
    job = edit().json()
    worker.progress(worker.claim(job["id"]), 0.5, "edit")
    found = http.get(job["urls"]["self"])
    assert found.json()["progress"]["fraction"] == 0.5
    assert found.json()["eta"]["finish"] is not None
    assert 1 <= int(found.headers["retry-after"]) <= 10


@pytest.mark.parametrize(
    ("verb", "tail"),
    [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")],
)
def test_another_tenants_job_is_not_found(http, edit, as_beta, problem, verb, tail):
    url = edit().json()["urls"]["self"] + tail
    theirs = http.request(verb, url, headers=as_beta)
    unknown = http.request(verb, "/v1/jobs/job_" + "0" * 26 + tail)
    problem(theirs, 404, "not_found")
    problem(unknown, 404, "not_found")
    same = ("type", "title", "status", "code", "detail", "retryable")
    assert [theirs.json()[name] for name in same] == [unknown.json()[name] for name in same]
