"""What holds for every route: keys, headers, problem documents, health, methods, the OpenAPI document."""

import json
import subprocess
import sys

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.errors import KINDS
from api.settings import ApiSettings
from jobs.codes import JOB_CODES
from jobs.settings import Settings


@pytest.mark.parametrize("url", ["/v1/jobs", "/v1/assets/ast_x", "/v1/jobs/job_x", "/metrics"])
@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic key-of-alpha", "Bearer "])
def test_a_key_is_needed(http, problem, url, header):
    answer = http.get(url, headers={"Authorization": header})
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_an_open_server_answers_loopback_names_only(settings, problem):
    with TestClient(create_app(settings, ApiSettings(open=True)), base_url="http://127.0.0.1:7860") as http:
        assert http.get("/v1/jobs").status_code == 200
        problem(http.get("/v1/jobs", headers={"Host": "evil.example"}), 401, "unauthorized")
        problem(http.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}), 401, "unauthorized")


def test_every_answer_has_an_id_and_safe_headers(http):
    for url in ("/healthz/live", "/v1/jobs", "/no/such", "/openapi.json"):
        answer = http.get(url, headers={"X-Request-Id": "mine-1", "traceparent": "00-1-2-01"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert answer.headers["traceparent"] == "00-1-2-01"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert http.get("/healthz/live", headers={"X-Request-Id": "bad id"}).headers["x-request-id"].startswith("req_")


def test_unknown_routes_and_verbs_are_problems(http, problem):
    problem(http.get("/no/such"), 404, "not_found")
    answer = http.put("/v1/jobs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


def test_a_crash_is_a_problem_with_a_log_id(http, problem, monkeypatch):
    def crash(*_):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(http.app.state.services.records), "version", crash)
    answer = http.get("/v1/jobs/job_x")
    assert problem(answer, 500, "internal")["log_id"]
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_records_away_is_503(tmp_path, problem):
    settings = Settings(redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)
    with TestClient(create_app(settings, ApiSettings(open=True)), base_url="http://localhost") as http:
        assert http.get("/healthz/live").status_code == 200
        for url in ("/healthz/ready", "/v1/jobs", "/v1/jobs/job_x"):
            found = problem(http.get(url), 503, "queue_unavailable")
            assert found["retryable"] and found["retry_after"] > 0


def test_health(http):
    assert http.get("/healthz/ready").json() == {"status": "ok"}


def test_metrics_count(http, edit):
    edit()
    assert "rf_jobs_created_total 1.0" in http.get("/metrics").text


def test_methods_are_sent_compressed_to_whoever_reads_that(http):
    packed = http.get("/v1/methods/tokenflow", headers={"Accept-Encoding": "gzip"})
    plain = http.get("/v1/methods/tokenflow", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    assert 3 * int(packed.headers["content-length"]) < int(plain.headers["content-length"])


def test_methods_carry_their_schemas(http, problem):
    rows = http.get("/v1/methods").json()["data"]
    assert rows
    for row in rows:
        method = http.get(row["urls"]["self"]).json()
        assert method["params"]["properties"]["prompt"]["x-widget"] == "prompt"
        assert "video" in method["inputs"]["properties"]
    problem(http.get("/v1/methods/no_such"), 404, "not_found")


def test_every_code_is_explained(http, problem):
    assert set(JOB_CODES) <= set(KINDS)
    rows = {row["code"]: row for row in http.get("/v1/errors").json()["data"]}
    assert set(rows) == set(KINDS)
    for code, row in rows.items():
        assert http.get(row["type"]).json() == row
        assert row["fixed_by"] in ("caller", "operator", "nobody")
        assert 400 <= row["status"] < 600, code
    problem(http.get("/v1/errors/no_such"), 404, "not_found")


def test_every_code_of_the_models_is_known():
    from models import errors

    codes = {code for kind in errors.EditError.__subclasses__() for code in kind.codes}
    assert codes <= set(KINDS)


def test_the_openapi_document(http):
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert document["paths"]["/v1/edits"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert "ProblemView" in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["tags"] and operation.get("description"), path


def test_the_application_starts_without_torch():
    program = (
        "import sys, api.app; api.app.create_app; sys.exit(bool({'torch', 'diffusers', 'models'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_documents_are_json_without_html(http):
    assert json.loads(http.get("/openapi.json").text)["info"]["title"] == "Refilm"
    assert http.get("/docs").status_code == 404
    assert httpx.Headers(http.get("/v1/jobs").headers)["content-type"] == "application/json"
