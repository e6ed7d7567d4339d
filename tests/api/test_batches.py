"""Batches: a matrix or a list becomes jobs, all or none; counts, pages, cancel; nothing is lost in between."""

import json

import pytest

from jobs import batch_manifest, ids
from jobs.batch_records import Batches
from jobs.batch_work import Engine, advance, tend
from jobs.deliveries import Deliveries
from jobs.leases import Leases, Owner
from jobs.queue import Bell
from jobs.records import Records
from jobs.recovery import recover
from jobs.request import WebhookRef
from jobs.store import open_store
from jobs.webhooks import Endpoints
from workers.letters import letter

METHODS = [{"method": "frame_by_frame"}, {"method": "tokenflow", "params": {"num_inference_steps": 3}}]


@pytest.fixture
def engine(settings):
    records = Records(settings)
    yield Engine(records, open_store(settings), Bell(settings))
    records.redis.close()


@pytest.fixture
def matrix(upload):
    """The body of two clips, three prompts, two methods."""
    asset = upload()["id"]
    clips = [{"video": {"asset": asset}, "source": "a red ball"}, {"video": {"asset": asset}, "trim": {"end": 0.25}}]
    prompts = [{"target": f"a ball, colour {number}"} for number in range(3)]
    return {"videos": clips, "prompts": prompts, "methods": METHODS, "params": {"seed": 7}, "labels": {"a": "b"}}


@pytest.fixture
def post(http):
    return lambda body, **headers: http.post("/v1/batches", json=body, headers=headers)


def lines(*bodies):
    return "\n".join(json.dumps(body) for body in bodies).encode()


def edit_of(asset, **over):
    return {"method": "frame_by_frame", "input": {"video": {"asset": asset}}, "prompt": {"target": "x"}} | over


def post_lines(http, body, **headers):
    return http.post("/v1/batches", content=body, headers={"Content-Type": "application/x-ndjson"} | headers)


def test_a_matrix_becomes_its_jobs(http, post, matrix):
    answer = post(matrix)
    batch = answer.json()
    assert (answer.status_code, batch["state"], batch["total"], batch["created"]) == (202, "running", 12, 12)
    assert answer.headers["location"] == batch["urls"]["self"] == f"/v1/batches/{batch['id']}"
    assert (batch["counts"]["queued"], batch["progress"]) == (12, {"fraction": 0.0, "ended": 0})
    jobs = http.get(batch["urls"]["jobs"]).json()["data"]
    places = [(job["batch"]["video"], job["batch"]["method"], job["batch"]["prompt"]) for job in jobs]
    assert places == [(v, k, p) for v in range(2) for k in range(2) for p in range(3)]
    assert [job["batch"]["index"] for job in jobs] == list(range(12))
    assert [job["id"] for job in jobs] == sorted(job["id"] for job in jobs)
    assert {job["method"] for job in jobs if job["batch"]["method"] == 1} == {"tokenflow"}
    assert all(job["labels"] == {"a": "b"} for job in jobs)
    axes = http.get(batch["urls"]["self"]).json()["matrix"]
    assert axes["prompts"][2]["target"] == "a ball, colour 2" and axes["videos"][1]["trim"]["end"] == 0.25
    assert http.get("/v1/batches").json()["data"][0]["id"] == batch["id"]


def test_jobs_of_a_matrix_ask_for_what_was_asked(post, matrix, engine):
    batch = post(matrix).json()["id"]
    job = engine.records.get(ids.numbered(ids.JOB, batch, 10))  # second clip, second method, second prompt
    assert (job.request.prompt.target, job.request.params) == (
        "a ball, colour 1",
        {"seed": 7, "num_inference_steps": 3},
    )
    assert (job.request.input.trim.end, job.request.priority) == (0.25, "batch")
    assert job.request.prompt.source == ""
    assert engine.records.get(ids.numbered(ids.JOB, batch, 3)).request.prompt.source == "a red ball"


def test_a_list_becomes_its_jobs(http, upload):
    asset = upload()["id"]
    body = lines(edit_of(asset), edit_of(asset, priority="background", labels={"n": "1"})) + b"\n\n"
    batch = post_lines(http, body).json()
    assert (batch["total"], batch["created"], batch["matrix"]) == (2, 2, None)
    jobs = http.get(batch["urls"]["jobs"]).json()["data"]
    assert [job["batch"] for job in jobs] == [
        {"id": batch["id"], "index": number, "video": None, "prompt": None, "method": None} for number in range(2)
    ]
    assert jobs[1]["labels"] == {"n": "1"}


FAULTS = [
    ({"prompts": []}, "validation_failed", "#/prompts"),
    ({"no_such": 1}, "validation_failed", "#/no_such"),
    ({"methods": [{"method": "no_such"}]}, "unknown_method", "#/methods/0/method"),
    ({"methods": [METHODS[0], {"method": "tokenflow", "model": "a/b"}]}, "model_not_allowed", "#/methods/1/model"),
    ({"params": {"seed": "x"}}, "validation_failed", "#/params/seed"),
    (
        {"methods": [METHODS[0], {"method": "tokenflow", "params": {"num_inference_steps": 0}}]},
        "validation_failed",
        "#/methods/1/params/num_inference_steps",
    ),
    ({"prompts": [{"target": "x"}, {"target": "x", "source": 3}]}, "validation_failed", "#/prompts/1/source"),
    ({"videos": [{"video": {"asset": "ast_" + "0" * 26}}]}, "missing_asset", "#/videos/0/video/asset"),
    ({"prompts": [{"target": str(n)} for n in range(2501)]}, "validation_failed", "#"),
]


def test_a_faulty_matrix_creates_nothing_and_says_where(http, post, matrix, problem):
    for change, code, pointer in FAULTS:
        document = problem(post(matrix | change), 422, code)
        assert pointer in [error["pointer"] for error in document["errors"]], change
    assert http.get("/v1/jobs").json()["data"] == http.get("/v1/batches").json()["data"] == []


def test_a_faulty_list_names_its_lines(http, upload, problem):
    asset = upload()["id"]
    bad = [edit_of(asset), edit_of(asset, params={"no_such": 1}), edit_of(asset, method="frame_by_frame", cache=3)]
    document = problem(post_lines(http, lines(*bad)), 422, "validation_failed")
    assert [(error["line"], error["pointer"]) for error in document["errors"]] == [(3, "#/cache")]
    document = problem(post_lines(http, lines(*bad[:2])), 422, "validation_failed")
    assert [(error["line"], error["pointer"]) for error in document["errors"]] == [(2, "#/params/no_such")]
    problem(post_lines(http, lines(bad[0]) + b"\n{"), 400, "malformed_json")
    problem(post_lines(http, b"\n"), 422, "validation_failed")
    problem(post_lines(http, lines(edit_of("ast_" + "0" * 26))), 422, "missing_asset")
    problem(http.post("/v1/batches", content=b"a", headers={"Content-Type": "text/csv"}), 415, "unsupported_media")
    assert http.get("/v1/jobs").json()["data"] == []


def test_counts_follow_the_jobs_to_the_end(http, post, matrix, worker):
    batch = post(matrix | {"videos": matrix["videos"][:1]}).json()
    first, second, *rest = (job["id"] for job in http.get(batch["urls"]["jobs"]).json()["data"])
    worker.succeed(first)
    worker.fail(second, "gpu.out_of_memory")
    held = worker.claim(rest[0])
    worker.progress(held, 0.5, "edit")
    answer = http.get(batch["urls"]["self"])
    seen = answer.json()
    assert {state: n for state, n in seen["counts"].items() if n} == {
        "queued": 3,
        "running": 1,
        "succeeded": 1,
        "failed": 1,
    }
    assert seen["progress"] == {"fraction": round(2.5 / 6, 4), "ended": 2}
    assert http.get(batch["urls"]["self"], headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    partial = http.get(batch["urls"]["jobs"], params={"state": "succeeded"}).json()["data"]
    assert [job["id"] for job in partial] == [first] and partial[0]["outputs"]
    worker.succeed(rest[0], held=held)
    for job_id in rest[1:]:
        worker.succeed(job_id)
    answer = http.get(batch["urls"]["self"], params={"wait": 5})
    ended = answer.json()
    assert (ended["state"], ended["counts"]["succeeded"], ended["progress"]["fraction"]) == ("completed", 5, 1.0)
    assert ended["finished_at"] and "retry-after" not in answer.headers
    again = http.post(batch["urls"]["cancel"])
    assert (again.status_code, again.json()["state"]) == (200, "completed")


def test_pages_go_through_all_jobs_in_order(http, post, matrix):
    batch = post(matrix).json()
    seen, cursor = [], None
    while True:
        page = http.get(batch["urls"]["jobs"], params={"limit": 5} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["batch"]["index"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(12))


def test_jobs_are_filtered_by_batch(http, post, matrix, edit):
    alone, batch = edit().json()["id"], post(matrix).json()["id"]
    found = http.get("/v1/jobs", params={"batch_id": batch}).json()["data"]
    assert len(found) == 12 and alone not in [job["id"] for job in found]
    assert http.get("/v1/jobs", params={"batch_id": "bat_x"}).json()["data"] == []


def test_cancel_stops_every_job_and_is_idempotent(http, post, matrix, worker):
    batch = post(matrix).json()
    job_ids = [job["id"] for job in http.get(batch["urls"]["jobs"]).json()["data"]]
    worker.succeed(job_ids[0])
    held = worker.claim(job_ids[1])
    answer = http.post(batch["urls"]["cancel"])
    assert (answer.status_code, answer.json()["state"]) == (202, "canceling")
    assert answer.json()["counts"]["canceled"] == 10
    worker.finish_canceled(held.job)
    answer = http.post(batch["urls"]["cancel"])
    assert (answer.status_code, answer.json()["state"]) == (200, "canceled")
    assert answer.json()["counts"]["succeeded"] == 1 and answer.json()["counts"]["canceled"] == 11


def test_the_same_key_makes_one_batch(http, post, matrix, problem):
    first = post(matrix, **{"Idempotency-Key": "k"}).json()["id"]
    again = post(matrix, **{"Idempotency-Key": "k"})
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first, "true")
    problem(post(matrix | {"params": {}}, **{"Idempotency-Key": "k"}), 422, "idempotency_key_reuse")
    assert len(http.get("/v1/jobs", params={"limit": 200}).json()["data"]) == 12


def test_batches_are_the_tenants_own(http, post, matrix, problem, as_beta):
    url = post(matrix).json()["urls"]["self"]
    for verb, path in (("GET", url), ("GET", url + "/jobs"), ("POST", url + "/cancel")):
        problem(http.request(verb, path, headers=as_beta), 404, "not_found")
    assert http.get("/v1/batches", headers=as_beta).json()["data"] == []


class Crash(Exception):
    """The process is gone."""


def crash_after(monkeypatch, jobs):
    """Let the process that creates jobs die when it has written so many manifests."""
    from jobs import manifest

    write, written = manifest.write, []

    def dying(store, accepted):
        if len(written) >= jobs:
            raise Crash
        written.append(accepted.id)
        return write(store, accepted)

    monkeypatch.setattr("jobs.manifest.write", dying)


def test_a_batch_half_created_is_finished_by_the_scheduler(http, post, matrix, engine, monkeypatch):
    monkeypatch.setattr("jobs.batch_work.CHUNK", 4)
    with monkeypatch.context() as dying:
        crash_after(dying, 6)
        assert post(matrix).status_code == 500
    [batch] = http.get("/v1/batches").json()["data"]
    assert (batch["state"], batch["created"], batch["total"]) == ("accepted", 4, 12)
    tend(engine, 5.0)
    batch = http.get(batch["urls"]["self"]).json()
    assert (batch["state"], batch["created"], batch["counts"]["queued"]) == ("running", 12, 12)
    assert len(http.get("/v1/jobs", params={"limit": 200}).json()["data"]) == 12


def test_a_cancel_of_a_half_created_batch_creates_no_more(http, post, matrix, engine, monkeypatch):
    monkeypatch.setattr("jobs.batch_work.CHUNK", 4)
    with monkeypatch.context() as dying:
        crash_after(dying, 6)
        assert post(matrix).status_code == 500
    [batch] = http.get("/v1/batches").json()["data"]
    canceled = http.post(batch["urls"]["cancel"]).json()
    assert (canceled["state"], canceled["counts"]["canceled"]) == ("canceled", 12)
    tend(engine, 5.0)
    engine.records.redis.flushall()
    recover(engine.records, engine.store, engine.bell)
    tend(engine, 5.0)
    after = http.get(batch["urls"]["self"]).json()
    assert (after["state"], after["counts"]["canceled"], after["counts"]["queued"]) == ("canceled", 12, 0)


def test_redis_lost_in_the_middle_of_a_batch(http, post, matrix, engine, worker, monkeypatch):
    """One job has ended, one was deleted, one runs; after the loss all others run, and none comes twice."""
    from workers.scheduler import Scheduler

    batch = post(matrix).json()
    job_ids = [job["id"] for job in http.get(batch["urls"]["jobs"]).json()["data"]]
    for job_id in job_ids[:2]:
        worker.succeed(job_id)
    Scheduler(engine.records.settings).tick()
    assert http.delete(f"/v1/jobs/{job_ids[1]}").status_code == 204
    worker.claim(job_ids[2])
    engine.records.redis.flushall()
    recover(engine.records, engine.store, engine.bell)
    after = http.get(batch["urls"]["self"]).json()
    assert {state: n for state, n in after["counts"].items() if n} == {"queued": 10, "succeeded": 1}
    assert (after["deleted"], after["state"], after["created"]) == (1, "running", 12)
    for job_id in job_ids[2:]:
        worker.succeed(job_id)
    assert http.get(batch["urls"]["self"]).json()["state"] == "completed"
    tend(engine, 5.0)
    engine.records.redis.flushall()
    recover(engine.records, engine.store, engine.bell)
    assert http.get(batch["urls"]["self"]).json()["counts"]["succeeded"] == 11


def test_the_end_of_a_batch_goes_into_the_outbox_once(http, post, matrix, engine, worker):
    Endpoints(engine.records, engine.store).create(
        "beta", "https://example.com", events=("job.failed",), description=""
    )
    made, _ = Endpoints(engine.records, engine.store).create(
        "alpha", "https://example.com", events=("job.failed",), description=""
    )
    hook = {"endpoint": made.id, "events": ["batch.completed"]}
    body = matrix | {"videos": matrix["videos"][:1], "methods": METHODS[:1], "webhook": hook}
    batch = post(body).json()["id"]
    assert advance(engine, "alpha", batch, 1.0)
    for index in range(3):
        worker.succeed(ids.numbered(ids.JOB, batch, index))
    rows = [row for row in Deliveries(engine.records).rows() if row.type == "batch.completed"]
    assert [(row.subject, WebhookRef.model_validate_json(row.webhook).endpoint) for row in rows] == [(batch, made.id)]
    told = json.loads(letter(rows[0], engine.records))["data"]
    assert (told["id"], told["state"], told["counts"]["succeeded"], told["labels"]) == (
        batch,
        "completed",
        3,
        {"a": "b"},
    )


def test_the_end_of_a_batch_is_told_again_after_redis_was_lost(http, post, matrix, engine):
    batch = post(matrix | {"prompts": [{"target": "a ball"}], "methods": METHODS[:1]}).json()
    http.post(batch["urls"]["cancel"])
    kept = engine.records.redis.hgetall(f"rf:batch:{batch['id']}")
    assert kept["state"] == "canceled"
    batch_manifest.write_ending(engine.store, "alpha", batch["id"], kept)
    engine.records.redis.flushall()
    recover(engine.records, engine.store, engine.bell)
    rows = [row for row in Deliveries(engine.records).rows() if row.type == "batch.completed"]
    assert [(row.subject, row.again, row.data["state"]) for row in rows] == [(batch["id"], True, "canceled")]
    assert rows[0].at.timestamp() == pytest.approx(int(kept["finished"]) / 1000, abs=0.01)


def test_a_batch_runs_no_more_at_once_than_it_was_allowed(post, http, matrix, engine):
    batch = post(matrix | {"max_concurrent": 2}).json()
    assert batch["max_concurrent"] == 2
    leases = Leases(engine.records)
    owners = [Owner(f"w{n}", f"w{n}@host", f"task-{n}") for n in range(3)]
    first = ids.numbered(ids.JOB, batch["id"], 0)
    claims = [leases.take(first, owner) for owner in owners]
    assert [claim is not None for claim in claims] == [True, True, False]
    waiting = http.get(batch["urls"]["jobs"], params={"state": "queued"}).json()["data"]
    assert {job["queue"]["reason"] for job in waiting} == {"batch_limit"}


def test_a_cancel_that_runs_out_of_time_is_finished_by_the_scheduler(post, http, matrix, engine, monkeypatch):
    batch = post(matrix).json()
    monkeypatch.setattr("jobs.batch_work.CHUNK", 5)
    Batches(engine.records).cancel(batch["id"], "alpha")
    assert not advance(engine, "alpha", batch["id"], -1.0)
    assert http.get(batch["urls"]["self"]).json()["counts"]["canceled"] == 5
    tend(engine, 5.0)
    assert http.get(batch["urls"]["self"]).json()["state"] == "canceled"
