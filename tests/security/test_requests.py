"""S10, S11, S13, S15 to S17 and S25: what a request can carry, whose things it can reach, and what is written of it."""

import io
import json
import logging
import re
from pathlib import Path

import pytest
import structlog
import yaml
from fastapi.testclient import TestClient

from api.app import create_app
from api.auth import digest
from api.settings import ApiSettings
from jobs import manifest
from jobs.deliveries import Deliveries
from jobs.log import configure
from jobs.settings import Settings

ROOT = Path(__file__).parents[2]
HOOK = {"url": "https://1.1.1.1/hook"}


@pytest.mark.parametrize(
    "over",
    [
        {"save_path": "/tmp/x"},
        {"output": {"path": "/tmp/x"}},
        {"output": {"save_path": "../x"}},
        {"output": {"container": "../../x"}},
        {"input": {"video": {"path": "/etc/passwd"}}},
        {"input": {"video": {"file": "/etc/passwd"}}},
        {"input": {"video": "/etc/passwd"}},
        {"input": {"video": {"url": "/etc/passwd"}}},
        {"input": {"video": {"asset": "../../../etc/passwd"}}},
        {"model": "/etc/passwd"},
        {"model": "../weights"},
        {"params": {"model_path": "/x"}},
        {"custom_pipeline": "someone/code"},
        {"params": {"trust_remote_code": True}},
    ],
)
def test_s11_no_path_is_taken_from_a_request(http, edit, settings, over):
    answer = edit(**over)
    assert answer.status_code == 422, answer.text
    assert http.get("/v1/jobs").json()["data"] == []
    assert not list((settings.data_dir / "store").glob("jobs/**/*.json"))


def test_s13_nothing_of_another_tenants_is_found(http, edit, worker, as_beta, problem):
    """Every route with an id, with ids of tenant alpha, asked as tenant beta: the same answer as for an unknown id."""
    held = http.app.state.services
    job = edit().json()
    asset = http.post("/v1/assets/from-hash", json={"sha256": "0" * 64})
    asset = job and next(iter(held.store.list("assets/alpha/meta/"))).key.rpartition("/")[2].removesuffix(".json")
    worker.succeed(job["id"])
    hook = http.post("/v1/webhooks", json=HOOK).json()["id"]
    sent = Deliveries(held.records)
    held.records.redis.xadd("rf:outbox", {"tenant": "alpha", "type": "job.failed", "job": "j", "version": 1, "at": 1})
    for row in sent.rows():
        sent.spread(row, {hook: "{}"})
    delivery = sent.of_endpoint(hook, before=None, limit=1)[0].id
    ours = {"job_id": job["id"], "asset_id": asset, "endpoint_id": hook, "delivery_id": delivery, "name": "video.mp4"}
    asked = 0
    for path, operations in http.app.openapi()["paths"].items():
        names = set(re.findall(r"{(\w+)}", path))
        if not names or not names <= set(ours):
            continue
        ours["name"] = "preview-1.webp" if "previews" in path else "video.mp4"
        url = path.format(**ours)
        unknown = path.format(**{name: value[:4] + "0" * 26 for name, value in ours.items()} | {"name": ours["name"]})
        for verb in operations:
            theirs, none = (http.request(verb, at, headers=as_beta) for at in (url, unknown))
            assert problem(theirs, 404, "not_found")["title"] == none.json()["title"], (verb, path)
            assert theirs.json()["detail"] == none.json()["detail"], (verb, path)
            asked += 1
    assert asked >= 14
    for listing in ("/v1/jobs", "/v1/webhooks", "/v1/batches"):
        answer = http.get(listing, headers=as_beta)
        assert answer.status_code == 404 or not answer.json().get("data"), listing
    assert http.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_s13_another_tenants_asset_cannot_be_edited_nor_its_hash_be_known(http, upload, as_beta, problem):
    asset = upload()
    body = {"method": "frame_by_frame", "input": {"video": {"asset": asset["id"]}}, "prompt": {"target": "x"}}
    problem(http.post("/v1/edits", json=body, headers=as_beta), 422, "missing_asset")
    known = http.post("/v1/assets/from-hash", json={"sha256": asset["sha256"]}, headers=as_beta)
    problem(known, 404, "not_found")


BOMBS = {
    "deep": (b'{"method":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 413),
    "deep and small": (b'{"method":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
    "long prompt": (json.dumps({"prompt": {"target": "x" * (10 << 20)}}).encode(), 413),
    "prompt": (json.dumps({"method": "frame_by_frame", "prompt": {"target": "x" * 10_000}}).encode(), 422),
    "nan": (b'{"method": "frame_by_frame", "params": {"seed": NaN}}', 400),
    "infinity": (b'{"params": {"guidance_scale": Infinity}}', 400),
    "overflow": (b'{"method": "frame_by_frame", "params": {"guidance_scale": 1e999}}', 422),
    "twice": (b'{"method": "frame_by_frame", "method": "tokenflow"}', 400),
    "digits": (b'{"params": {"seed": ' + b"9" * 50_000 + b"}}", 400),
    "many keys": (json.dumps({"params": {str(n): 1 for n in range(3000)}}).encode(), 422),
    "not utf-8": (b'{"method": "\xff\xfe"}', 400),
}


@pytest.mark.parametrize("name", BOMBS)
def test_s16_bombs_are_refused_before_they_cost_anything(http, name):
    body, status = BOMBS[name]
    answer = http.post("/v1/edits", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    assert http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("params", [{"num_inference_steps": 10**9}, {"num_inference_steps": -1}, {"fps": 1e9}])
def test_s16_numbers_have_bounds(edit, problem, params):
    assert problem(edit(params=params), 422, "validation_failed")["errors"]


ODD = [
    "\x1b[2J\x1b]0;owned\x07",
    "Authorization: Bearer rf_live_x\r\nX-Evil: 1",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "%s%s%n {0.__class__} {job}",
    "'; rm -rf / #$(touch /tmp/owned)`touch /tmp/owned`",
    "-vf drawtext=textfile=/etc/passwd",
    "a\u0000b\u202e\ufeff",
    "</script><script>alert(1)</script>",
]


@pytest.mark.parametrize("prompt", ODD)
def test_s17_a_prompt_is_data_and_nothing_else(http, edit, prompt):
    made = edit(prompt={"target": prompt}, labels={"note": prompt[:100]}, metadata={"note": prompt})
    assert made.status_code == 202, made.text
    held, job_id = http.app.state.services, made.json()["id"]
    kept = manifest.read(held.store, "alpha", job_id).request
    assert kept.prompt.target == kept.metadata["note"] == prompt
    job = http.get(f"/v1/jobs/{job_id}")
    assert job.json()["metadata"]["note"] == prompt and job.headers["content-type"] == "application/json"
    assert "x-evil" not in job.headers


@pytest.fixture
def written(settings: Settings) -> io.StringIO:
    """Everything that is logged while the test runs, at the most talkative level."""
    stream, before = io.StringIO(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure(settings.model_copy(update={"log_level": "INFO"}))
    structlog.configure(cache_logger_on_first_use=False)
    root.handlers[0].setStream(stream)
    logging.getLogger("httpx2").setLevel("WARNING")  # the test's own client
    yield stream
    structlog.configure(**before)
    root.handlers, root.level = handlers, level


def test_s15_requests_leave_no_secret_in_the_log(written, settings, clip):
    """Keys in headers, query and body, prompts, names of files, endpoint secrets, addresses with tokens."""
    key = "rf_live_" + "s" * 40
    api = ApiSettings(keys=(f"alpha:{digest(key)}:read+write+webhooks+admin",))
    secrets = [key, "a secret prompt", "private name", "token-in-url", "hook-token"]
    with TestClient(create_app(settings, api), headers={"Authorization": f"Bearer {key}"}) as http:
        headers = {"Refilm-Filename": "private%20name.mp4"}
        asset = http.post("/v1/uploads", content=clip.read_bytes(), headers=headers).json()["id"]
        body = {"method": "frame_by_frame", "prompt": {"target": "a secret prompt"}}
        http.post("/v1/edits", json=body | {"input": {"video": {"asset": asset}}})
        http.post("/v1/edits", json=body | {"input": {"video": {"url": "https://example.com/?token-in-url"}}})
        made = http.post("/v1/webhooks", json={"url": "https://1.1.1.1/?hook-token"}).json()
        http.get(f"/v1/jobs?key={key}&api_key={key}")
        http.get("/v1/jobs", headers={"Authorization": "Bearer rf_live_" + "t" * 40})
        http.app.state.services.records.version = None  # the next read of a job crashes, with everything in its frames
        crashed = TestClient(http.app, raise_server_exceptions=False)
        assert crashed.get(f"/v1/jobs/job_x?key={key}", headers=dict(http.headers)).status_code == 500
    log = written.getvalue()
    assert "request.crashed" in log
    for secret in [*secrets, made["secret"], "t" * 40]:
        assert secret not in log, secret


def test_s15_secrets_do_not_show_in_settings_and_records(settings: Settings):
    shown = repr(
        settings.model_copy(
            update={"s3_secret_access_key": Settings(s3_secret_access_key="hidden-1").s3_secret_access_key}
        )
    )
    assert "hidden-1" not in shown
    from jobs.webhooks import Secret

    assert "whsec_x" not in repr(Secret(value="whsec_x"))


def test_s15_a_key_in_the_address_opens_nothing(http, problem):
    for query in ("key=key-of-alpha", "api_key=key-of-alpha", "access_token=key-of-alpha"):
        problem(http.get(f"/v1/jobs?{query}", headers={"Authorization": ""}), 401, "unauthorized")


def test_s25_operations_are_not_for_everyone(http, as_beta, settings, problem):
    limited = ApiSettings(keys=(f"alpha:{digest('k')}",))
    with TestClient(create_app(settings, limited)) as other:
        problem(other.get("/metrics"), 401, "unauthorized")
        problem(other.get("/metrics", headers={"Authorization": "Bearer k"}), 403, "forbidden_scope")
        for path in ("/docs", "/redoc", "/flower", "/debug", "/admin", "/server-status", "/.env", "/.git/config"):
            assert other.get(path).status_code == 404, path


def test_s25_nothing_ships_flower_or_opens_more_than_the_api():
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    opened = {name for name, service in compose["services"].items() if service.get("ports")}
    assert opened == {"api", "s3"}  # the store, because results are downloaded from it
    shipped = (ROOT / "requirements.lock").read_text() + (ROOT / "pyproject.toml").read_text()
    assert "flower" not in shipped.lower()
    assert not any("flower" in path.name for path in (ROOT / "helm").rglob("*"))
