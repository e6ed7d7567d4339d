"""What a job leaves to look at: log, receipt, previews, its origin; and how closely it keeps to the source."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from api.cli import app
from jobs import catalogue, journal, layout, manifest
from jobs.assets import digest_of
from jobs.schema import Preview

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def receipt(clip):
    """A receipt as a worker writes it, of an edit of the clip."""
    request = {
        "method": "frame_by_frame",
        "input": {"video": {"asset": "ast_01k9v3x7q8f4d2m6n0c5b1a7gh"}, "files": {}},
        "prompt": {"target": "x"},
        "params": {"seed": 5},
        "output": {"container": "mp4"},
    }
    return {"request": request, "inputs": {"video": {"sha256": digest_of(clip)}}}


def write_receipt(worker, job_id, receipt):
    held = worker.claim(job_id)
    worker.store.put_bytes(layout.receipt(worker.tenant, job_id, held.fence), json.dumps(receipt).encode())
    worker.succeed(job_id, held=held)


def test_a_log_is_read_in_pages_and_survives_the_records(http, edit, worker, as_beta, problem):
    job = edit().json()
    held = worker.claim(job["id"])
    worker.leases.write(held, [journal.draft("stage.begun", stage="fetch"), journal.draft("loading")])
    worker.succeed(job["id"], held=held)
    page = http.get(job["urls"]["logs"], params={"limit": 4}).json()
    assert [line["event"] for line in page["data"]] == ["state", "state", "state", "stage.begun"]
    rest = http.get(job["urls"]["logs"], params={"after": page["next_cursor"]}).json()
    assert [line["event"] for line in rest["data"]] == ["loading", "state", "attempt.ended", "state"]
    assert rest["data"][0] | {"id": "", "at": ""} == {
        **{"id": "", "at": "", "level": "info", "event": "loading", "attempt": 1, "worker": "w", "stage": None},
        "facts": {},
    }
    journal.keep(worker.store, worker.records, "alpha", job["id"])
    worker.records.ask("DEL", f"rf:log:{job['id']}")
    kept = http.get(job["urls"]["logs"]).json()["data"]
    assert kept == page["data"] + rest["data"]
    problem(http.get(job["urls"]["logs"], headers=as_beta), 404, "not_found")


@pytest.mark.parametrize("facts", [{"prompt": "x"}, {"code": "/root/clip.mp4"}, {"reason": "two words"}])
def test_a_log_takes_no_free_text(facts):
    with pytest.raises(ValueError, match="cannot be told"):
        journal.draft("failed", **facts)


def test_lines_and_previews_are_events_with_addresses(served, clip, local_worker):
    with httpx.Client(base_url=served) as http:
        asset = http.post("/v1/uploads", content=clip.read_bytes()).json()
        body = {"method": "frame_by_frame", "input": {"video": {"asset": asset["id"]}}, "prompt": {"target": "x"}}
        job = http.post("/v1/edits", json=body | {"output": {"preview": {"every_steps": 5}}}).json()
        held = local_worker.claim(job["id"])
        shape = {"width": 64, "height": 64, "frames": 4, "fps": 4.0, "fence": held.fence}
        preview = Preview(name="preview-5.webp", step=5, steps=9, attempt=1, **shape)
        local_worker.store.put_bytes(layout.attempt_folder("local", job["id"], held.fence) + preview.name, b"picture")
        local_worker.leases.show(held, preview)
        local_worker.leases.write(held, [journal.draft("preview", stage="edit", step=5)])
        shown = http.get(f"/v1/jobs/{job['id']}").json()["preview"]
        assert shown["url"] == f"/v1/jobs/{job['id']}/previews/preview-5.webp" and "fence" not in shown
        assert http.get(shown["url"]).content == b"picture"
        local_worker.succeed(job["id"], held=held)
        first = local_worker.records.first_event(job["id"])
        text = http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": first}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert events[kinds.index("preview")]["url"] == shown["url"]
    assert events[kinds.index("log")]["line"]["facts"] == {"step": 5}


def test_a_preview_of_an_attempt_that_was_lost_is_not_shown(http, edit, worker):
    job = edit().json()
    held = worker.claim(job["id"])
    shape = {"width": 64, "height": 64, "frames": 4, "fps": 4.0, "fence": held.fence}
    worker.leases.show(held, Preview(name="preview-5.webp", step=5, steps=9, **shape))
    assert http.get(job["urls"]["self"]).json()["preview"]["step"] == 5
    worker.leases.release(held, "worker_lost", hand_back=False)
    assert http.get(job["urls"]["self"]).json()["preview"] is None


def test_the_receipt_is_there_once_the_job_has_succeeded(http, edit, worker, receipt, problem, as_beta):
    job = edit().json()
    assert job["receipt"] is None
    problem(http.get(f"/v1/jobs/{job['id']}/receipt"), 404, "not_found")
    write_receipt(worker, job["id"], receipt)
    url = http.get(job["urls"]["self"]).json()["receipt"]
    answer = http.get(url)
    assert answer.json() == receipt and answer.headers["content-type"] == "application/json"
    problem(http.get(url, headers=as_beta), 404, "not_found")
    worker.records.run("media_gone", job["id"], "alpha")
    problem(http.get(url), 410, "expired")


def test_the_command_line_makes_a_receipt_again(served, clip, local_worker, receipt, tmp_path, monkeypatch):
    monkeypatch.setenv("REFILM_SERVER", served)
    paper = tmp_path / "receipt.json"
    paper.write_text(json.dumps(receipt))

    def refilm(*arguments):
        return CliRunner().invoke(app, ["edit", "--receipt", str(paper), *map(str, arguments)])

    missing = refilm("-o", tmp_path / "out.mp4")
    assert missing.exit_code == 2 and receipt["inputs"]["video"]["sha256"] in missing.stderr
    assert refilm("-o", tmp_path / "out.gif", clip).exit_code == 2
    other = tmp_path / "other.mp4"
    other.write_bytes(b"other")
    assert "its content is another" in refilm("-o", tmp_path / "out.mp4", other).stderr

    def follow(client, job):
        local_worker.succeed(job.id, b"made")
        return client.job(job.id)

    monkeypatch.setattr("api.cli.follow", follow)
    done = refilm("-o", tmp_path / "out.mp4", clip)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out.mp4").read_bytes() == b"made"
    [job] = httpx.get(f"{served}/v1/jobs").json()["data"]
    assert local_worker.records.get(job["id"]).request.params == {"seed": 5}


def test_where_a_job_came_from_is_kept(http, edit, worker):
    job = edit({"X-Request-Id": "req-7", "traceparent": TRACE}).json()
    assert (job["request_id"], job["traceparent"]) == ("req-7", TRACE)
    [first, *_] = http.get(job["urls"]["logs"]).json()["data"]
    assert first["facts"] == {"state": "accepted", "request_id": "req-7"}
    assert manifest.read(worker.store, "alpha", job["id"]).traceparent == TRACE
    other = edit({"traceparent": "00-zz"}, priority="batch")
    assert other.json()["traceparent"] is None and other.json()["request_id"] == other.headers["x-request-id"]


def test_adherence_sets_the_methods_own_parameters_below_explicit_ones(edit, worker, problem):
    job = edit(adherence="adhere_1").json()
    assert worker.records.get(job["id"]).request.params == {"strength": 0.3}
    job = edit(adherence="adhere_1", params={"strength": 0.9}).json()
    assert worker.records.get(job["id"]).request.params == {"strength": 0.9}
    wrong = problem(edit(method="tune_a_video", adherence="flex_1"), 422, "validation_failed")
    [error] = wrong["errors"]
    assert error["pointer"] == "#/adherence" and "frame_by_frame" in error["choices"]
    problem(edit(adherence="strict"), 422, "validation_failed")


def test_every_rung_of_every_ladder_is_valid():
    known = catalogue.load()
    ladders = {name: entry["adherence"] for name, entry in known.methods.items() if entry["adherence"]}
    assert len(ladders) >= 8
    for name, ladder in ladders.items():
        assert len(ladder) == 9
        for params in ladder.values():
            assert [e for e in known.errors(name, params, {"video"}) if e["code"] not in ("missing", "too_short")] == []
