"""What is said about time: before a job, while it waits and runs, and about methods; and how it is learnt."""

from datetime import UTC, datetime

import pytest

from jobs import presence
from jobs.leases import Outcome
from jobs.schema import STAGES, Placement, Progress, StageProgress

SECONDS = {"fetch": 0.5, "prepare": 2.0, "invert": 10.0, "edit": 20.0, "decode": 1.0, "publish": 0.5}


@pytest.fixture
def took(worker):
    """End a job as if its stages had taken so long; `hits` came from the cache in no time."""

    def end(job_id, scale=1.0, hits=()):
        held = worker.claim(job_id)
        stages = tuple(
            StageProgress(name=name, state="skipped")
            if name not in SECONDS
            else StageProgress(
                name=name,
                state="done",
                seconds=0.2 if name in hits else scale * SECONDS[name],
                cache="hit" if name in hits else "miss" if name in ("prepare", "invert") else None,
            )
            for name in STAGES
        )
        worker.leases.finalize(held)
        placement = Placement(worker="w", device="cpu")
        outcome = Outcome("succeeded", progress=Progress(fraction=1, stages=stages), placement=placement)
        assert worker.leases.finish(held, outcome) == "succeeded"
        worker.records.history._known.clear()

    return end


@pytest.fixture
def body(upload):
    asset = upload()["id"]

    def make(prompt="x", **over):
        made = {
            "method": "tokenflow",
            "input": {"video": {"asset": asset}},
            "prompt": {"target": prompt, "source": "s"},
        }
        return made | over

    return make


@pytest.fixture
def estimate(http):
    """Ask for an estimate, with what was read before forgotten."""

    def ask(body):
        http.app.state.services.records.history._known.clear()
        answer = http.post("/v1/estimates", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def seconds_from_now(moment):
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def test_without_history_nothing_is_claimed(http, body, estimate, problem):
    found = estimate(body())
    assert (found["seconds"], found["p90_seconds"], found["gpu_seconds"], found["stages"]) == (None, None, None, [])
    assert (found["eta"]["basis"], found["eta"]["confidence"], found["eta"]["finish"]) == ("none", "none", None)
    assert found["work"] == {"frames": 4, "width": 64, "height": 64, "steps": {"edit": 50, "invert": 500}}
    problem(http.post("/v1/estimates", json=body(params={"seed": "x"})), 422, "validation_failed")
    absent = {"input": {"video": {"asset": "ast_" + "0" * 26}}}
    problem(http.post("/v1/estimates", json=body() | absent), 422, "missing_asset")
    by_address = body(input={"video": {"url": "https://example.com/clip.mp4"}})
    assert (estimate(by_address)["work"], estimate(by_address)["eta"]["basis"]) == (None, "none")
    assert http.get("/v1/jobs").json()["data"] == []
    assert http.get("/v1/methods/tokenflow").json()["times"] is None


def test_jobs_like_it_tell_how_long_it_takes(http, body, estimate, took):
    for number, scale in enumerate((1.0, 1.1, 1.2)):
        job = http.post("/v1/edits", json=body(f"p{number}", cache={"inversion": "off"})).json()
        took(job["id"], scale)
    found = estimate(body(cache={"inversion": "refresh"}))
    assert found["seconds"] == pytest.approx(34 * 1.1)
    assert found["p90_seconds"] == pytest.approx(34 * 1.2)
    assert found["gpu_seconds"] == pytest.approx(33 * 1.1)
    assert found["eta"]["basis"] == "quantiles:tokenflow/miniature/cpu/4f@64x64x50+500"
    assert (found["eta"]["confidence"], found["samples"]) == ("medium", 3)
    assert {stage["name"]: stage["cache"] for stage in found["stages"]}["invert"] == "miss"
    times = http.get("/v1/methods/tokenflow").json()["times"]
    assert times == {"p50_seconds": pytest.approx(37.4), "p95_seconds": pytest.approx(40.8), "jobs": 3}


def test_work_of_another_size_is_scaled_and_says_so(http, body, estimate, took):
    took(http.post("/v1/edits", json=body()).json()["id"])
    found = estimate(body(params={"num_inference_steps": 100}))
    assert found["eta"]["basis"].endswith("/scaled") and found["eta"]["confidence"] == "low"
    stages = {stage["name"]: stage["seconds"] for stage in found["stages"]}
    assert (stages["edit"], stages["decode"]) == (40.0, 1.0)


def test_what_lies_in_the_cache_is_expected_to_be_found_there(http, body, estimate, took):
    for number in range(3):
        took(http.post("/v1/edits", json=body(f"p{number}")).json()["id"])
    found = estimate(body("another prompt"))
    assert {stage["name"] for stage in found["stages"] if stage["cache"] == "hit"} == {"prepare", "invert"}
    assert found["seconds"] == pytest.approx(0.5 + 0.1 + 0.1 + 20 + 1 + 0.5)
    other_source = body("another prompt") | {"prompt": {"target": "x", "source": "other"}}
    assert {stage["name"] for stage in estimate(other_source)["stages"] if stage["cache"] == "hit"} == {"prepare"}
    assert estimate(body("x", cache={"inversion": "refresh"}))["seconds"] == pytest.approx(34)


def test_a_waiting_job_knows_what_is_ahead_and_when_it_ends(http, body, took, worker):
    def live():
        presence.announce(worker.records, "w1", pools=["default"], job=None, device="cpu")

    live()
    for number in range(3):
        took(http.post("/v1/edits", json=body(f"p{number}", cache={"inversion": "off"})).json()["id"])
    live()
    http.app.state.services.records.history._known.clear()
    waiting = [http.post("/v1/edits", json=body(f"q{n}", cache={"inversion": "off"})).json() for n in range(3)]
    http.app.state.services.records.outlook._seen.clear()
    answer = http.get(waiting[2]["urls"]["self"])
    queue, eta = answer.json()["queue"], answer.json()["eta"]
    assert (queue["position"], queue["ahead_gpu_seconds"], queue["wait_seconds"]) == (3, 68.0, 68.0)
    assert seconds_from_now(eta["start"]) == pytest.approx(68, abs=10)
    assert seconds_from_now(eta["finish"]) == pytest.approx(102, abs=10)
    assert seconds_from_now(eta["p90_finish"]) >= seconds_from_now(eta["finish"])
    assert answer.headers["retry-after"] == "17"
    held = worker.claim(waiting[0]["id"])
    worker.progress(held, 0.5, "edit")
    running = http.get(waiting[0]["urls"]["self"]).json()
    assert seconds_from_now(running["eta"]["finish"]) == pytest.approx(8.5, abs=8)


def test_the_error_of_forecasts_is_counted(http, body, took, worker):
    for number in range(4):
        http.app.state.services.records.history._known.clear()
        took(http.post("/v1/edits", json=body(f"p{number}", cache={"inversion": "off"})).json()["id"], 1 + number)
    counters = worker.records.counters()
    assert counters["eta_jobs"] == 3
    assert counters["eta_error_ms"] == pytest.approx(1000 * (34 + 68 + 68), abs=50)
