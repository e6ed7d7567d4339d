"""Keys and their scopes over HTTP, `refilm keys`, and the webhooks' resource."""

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from api.auth import digest
from api.cli import app
from api.settings import ApiSettings
from jobs.deliveries import Deliveries

HOOK = {"url": "https://1.1.1.1/hook"}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(http):
    return http.app.state.services.keys


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("read",), {"GET /v1/jobs"}),
        (("write",), {"POST /v1/assets/from-hash"}),
        (("webhooks",), {"GET /v1/webhooks"}),
        (("admin",), {"GET /v1/jobs", "POST /v1/assets/from-hash", "GET /v1/webhooks", "GET /metrics"}),
    ],
)
def test_a_key_opens_what_its_scopes_say(http, keys, problem, scopes, allowed):
    _, key = keys.create("alpha", scopes=scopes)
    for call in ("GET /v1/jobs", "POST /v1/assets/from-hash", "GET /v1/webhooks", "GET /metrics"):
        verb, path = call.split()
        answer = http.request(verb, path, headers=bearer(key), json={"sha256": "0" * 64} if verb == "POST" else None)
        if call in allowed:
            assert answer.status_code in (200, 404), answer.text
        else:
            assert "needed" in problem(answer, 403, "forbidden_scope")["detail"]


def test_every_route_but_the_public_ones_needs_a_key(settings, problem):
    """A route that somebody adds without asking who calls is found here."""
    public = {"/healthz/live", "/healthz/ready", "/v1/methods", "/v1/methods/{method_id}", "/v1/errors"}
    public |= {"/v1/errors/{code}"}
    with TestClient(create_app(settings, ApiSettings())) as http:
        for path, operations in http.app.openapi()["paths"].items():
            for verb in operations:
                answer = http.request(verb, path.replace("{", "").replace("}", ""), json={})
                assert (answer.status_code == 401) == (path not in public), (verb, path, answer.status_code)


def test_a_revoked_key_is_refused_at_once(http, keys, problem):
    made, key = keys.create("alpha")
    assert http.get("/v1/jobs", headers=bearer(key)).status_code == 200
    keys.revoke(made.id)
    problem(http.get("/v1/jobs", headers=bearer(key)), 401, "unauthorized")


@pytest.mark.parametrize("entry", ["acme", "acme:abc", f"acme:{'0' * 64}:everything", f"a b:{'0' * 64}"])
def test_a_configured_key_that_cannot_work_is_told_at_the_start(entry):
    with pytest.raises(ValueError, match="entry 1"):
        ApiSettings(keys=(entry,))


def test_a_configured_key_may_be_limited(settings, problem):
    limited = ApiSettings(keys=(f"acme:{digest('k')}:read+webhooks",))
    with TestClient(create_app(settings, limited), headers=bearer("k")) as http:
        assert http.get("/v1/jobs").status_code == 200
        problem(http.post("/v1/assets/from-hash", json={"sha256": "0" * 64}), 403, "forbidden_scope")


def test_refilm_keys(http, settings, monkeypatch):
    monkeypatch.setenv("REFILM_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("REFILM_DATA_DIR", str(settings.data_dir))

    def run(*words):
        done = CliRunner().invoke(app, ["keys", *words])
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    first = run("create", "--tenant", "alpha", "--scope", "read", "--name", "ci")
    second = run("rotate", first[:16])
    assert first[:16] in run("list") and first not in run("list")
    assert [http.get("/v1/jobs", headers=bearer(key)).status_code for key in (first, second)] == [200, 200]
    run("revoke", first[:16])
    assert [http.get("/v1/jobs", headers=bearer(key)).status_code for key in (first, second)] == [401, 200]
    for wrong in (["revoke", "nosuchid"], ["create", "--tenant", "../x"], ["create", "--tenant", "a", "--scope", "x"]):
        assert CliRunner().invoke(app, ["keys", *wrong]).exit_code == 2


def test_pages_of_named_origins_may_call(settings, api):
    named = api.model_copy(update={"cors_origins": ("https://app.example",)})
    with TestClient(create_app(settings, named)) as http:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}
        mine = http.options("/v1/edits", headers=asks | {"Origin": "https://app.example"})
        assert mine.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in mine.headers
        other = http.options("/v1/edits", headers=asks | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_without_named_origins_no_page_may(http):
    answer = http.get("/v1/jobs", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_an_endpoint_shows_its_secret_once(http, problem):
    made = http.post("/v1/webhooks", json=HOOK | {"description": "ci"})
    assert made.status_code == 201 and made.json()["secret"].startswith("whsec_")
    url = made.headers["location"]
    assert "secret" not in http.get(url).json() and "whsec_" not in http.get("/v1/webhooks").text
    assert http.post(f"{url}/rotate").json()["secret"] != made.json()["secret"]
    assert http.post(f"{url}/enable").json()["disabled"] is None
    assert http.get(f"{url}/deliveries").json() == {"data": [], "next_cursor": None}
    assert http.delete(url).status_code == 204
    problem(http.get(url), 404, "not_found")


def test_bad_endpoints_are_refused(http, problem):
    problem(http.post("/v1/webhooks", json={"url": "ftp://1.1.1.1"}), 422, "url_not_allowed")
    problem(http.post("/v1/webhooks", json=HOOK | {"events": ["job.exploded"]}), 422, "validation_failed")
    problem(http.post("/v1/webhooks", json=HOOK | {"retry": 1}), 422, "validation_failed")
    for _ in range(20):
        assert http.post("/v1/webhooks", json=HOOK).status_code == 201
    problem(http.post("/v1/webhooks", json=HOOK), 429, "quota_exceeded")


def test_a_job_names_an_endpoint_of_its_own_tenant(http, edit, as_beta, problem):
    mine = http.post("/v1/webhooks", json=HOOK | {"events": []}).json()["id"]
    assert edit(webhook={"endpoint": mine}).status_code == 202
    theirs = http.post("/v1/webhooks", json=HOOK, headers=as_beta).json()["id"]
    for wrong in (theirs, "whe_" + "0" * 26):
        found = problem(edit(webhook={"endpoint": wrong}), 422, "validation_failed")
        assert found["errors"][0]["pointer"] == "#/webhook/endpoint"
    rows = Deliveries(http.app.state.services.records).rows()
    assert rows[0].type == "job.queued" and mine in rows[0].webhook


def test_deliveries_are_listed_page_by_page_and_sent_again(http, problem):
    held = http.app.state.services
    endpoint = http.post("/v1/webhooks", json=HOOK).json()["id"]
    sent, url = Deliveries(held.records), f"/v1/webhooks/{endpoint}/deliveries"
    for number in range(3):
        fields = {"tenant": "alpha", "type": "job.failed", "job": f"job_{number}", "version": 1, "at": 1}
        held.records.redis.xadd("rf:outbox", fields)
        sent.spread(sent.rows()[0], {endpoint: "{}"})
    first = http.get(url, params={"limit": 2}).json()
    rest = http.get(url, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert len(first["data"]) == 2 and len(rest["data"]) == 1 and rest["next_cursor"] is None
    oldest = rest["data"][0]
    sent.note(oldest["id"], None, "failed")
    again = http.post(oldest["urls"]["replay"])
    assert again.status_code == 202 and again.json()["state"] == "pending"
    problem(http.get(url, params={"cursor": "x"}), 400, "bad_cursor")
    problem(http.post(f"{url}/msg_{'0' * 26}/replay"), 404, "not_found")
