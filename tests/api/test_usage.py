"""Quotas, use, and rates: what is told, what is refused, and when."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import ApiSettings
from jobs.caps import set_cap
from jobs.leases import Outcome
from jobs.quotas import set_quota
from jobs.schema import Usage


@pytest.fixture
def spend(worker):
    def end(job_id, seconds):
        held = worker.claim(job_id)
        worker.leases.finalize(held)
        outcome = Outcome("succeeded", usage=Usage(gpu_seconds=seconds))
        for _ in range(2):  # a repeated commit counts once
            worker.leases.finish(held, outcome)

    return end


def test_use_is_told_with_its_limits(http, edit, worker, spend, as_beta):
    first, second = (edit().json()["id"] for _ in range(2))
    spend(first, 12.5)
    worker.claim(edit().json()["id"])
    set_cap(worker.records, "alpha", 3)
    set_quota(worker.records, "alpha", "gpu_seconds", 100)
    use = http.get("/v1/usage").json()
    assert use["concurrent"]["used"] == 1 and use["concurrent"]["limit"] == 3
    assert (use["queued"]["used"], use["queued"]["limit"]) == (1, None)
    assert (use["gpu_seconds_today"]["used"], use["gpu_seconds_today"]["limit"]) == (12.5, 100)
    assert use["gpu_seconds_today"]["resets_at"] and use["bytes_stored"]["used"] > 0
    assert use["rate"] == {"reads_per_minute": 6000, "writes_per_minute": 600}
    others = http.get("/v1/usage", headers=as_beta).json()
    assert (others["concurrent"]["used"], others["gpu_seconds_today"]["used"]) == (0, 0)
    assert second


def test_quotas_refuse_and_say_when_to_come_again(http, edit, upload, worker, spend, problem, clip):
    asset = upload()["id"]
    set_quota(worker.records, "alpha", "jobs", 2)
    spend(edit().json()["id"], 5.0)
    waiting = edit().json()
    matrix = {"videos": [{"video": {"asset": asset}}], "methods": [{"method": "frame_by_frame"}]}
    batch = matrix | {"prompts": [{"target": "x"}, {"target": "y"}]}
    assert problem(http.post("/v1/batches", json=batch), 429, "concurrency_exceeded")["retry_after"] > 0
    edit()
    refused = problem(edit(), 429, "concurrency_exceeded")
    assert "2 of 2" in refused["detail"]
    http.post(waiting["urls"]["cancel"])
    assert edit().status_code == 202
    set_quota(worker.records, "alpha", "jobs", 0)
    set_quota(worker.records, "alpha", "gpu_seconds", 5.0)
    assert 0 < problem(edit(), 429, "quota_exceeded")["retry_after"] <= 86400
    set_quota(worker.records, "alpha", "gpu_seconds", None)
    set_quota(worker.records, "alpha", "bytes", 100)
    problem(http.post("/v1/uploads", content=clip.read_bytes()), 429, "quota_exceeded")
    announced = {"name": "a.mp4", "size_bytes": 1000, "media_type": "video/mp4"}
    problem(http.post("/v1/uploads", json=announced), 429, "quota_exceeded")


def test_reads_and_writes_have_buckets_of_their_own(settings, api, problem, monkeypatch):
    monkeypatch.setattr("api.rates.WINDOW_SECONDS", 86400)  # nothing comes back while the test runs
    limited = api.model_copy(update={"reads_per_minute": 3, "writes_per_minute": 1})
    headers = {"Authorization": "Bearer key-of-alpha"}
    with TestClient(create_app(settings, limited), headers=headers) as http:
        first = http.get("/v1/jobs")
        assert first.headers["ratelimit-policy"] == '"reads";q=3;w=86400'
        assert first.headers["ratelimit"].startswith('"reads";r=2;t=')
        assert http.get("/v1/jobs/job_x").headers["ratelimit"].startswith('"reads";r=1;')
        http.get("/v1/jobs")
        refused = http.get("/v1/jobs")
        assert 0 < problem(refused, 429, "rate_limited")["retry_after"] <= 28800
        assert refused.headers["ratelimit"].startswith('"reads";r=0;')
        assert http.post("/v1/jobs/job_x/cancel").status_code == 404
        problem(http.post("/v1/jobs/job_x/cancel"), 429, "rate_limited")
        assert http.get("/v1/jobs", headers={"Authorization": "Bearer key-of-beta"}).status_code == 200
        assert http.get("/healthz/live").status_code == 200
        problem(http.get("/v1/jobs", headers={"Authorization": "Bearer none"}), 401, "unauthorized")


def test_an_open_server_counts_only_when_told_to():
    assert (ApiSettings(open=True).rate("reads"), ApiSettings(open=True, reads_per_minute=5).rate("reads")) == (0, 5)
    assert (ApiSettings().rate("writes"), ApiSettings(writes_per_minute=0).rate("writes")) == (600, 0)
