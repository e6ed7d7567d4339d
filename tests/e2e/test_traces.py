"""One trace from the request to the stages of its job, through the record that the worker reads."""

import json
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from api.app import create_app
from api.auth import digest
from api.settings import ApiSettings
from jobs import traces
from jobs.leases import Owner
from jobs.settings import Settings
from workers.runner import Runner

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEY = "rf_live_hidden"
SECRET = "a prompt that nobody else reads"


@pytest.fixture
def exported():
    """Spans of this process, as an exporter gets them."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    traces.use(provider)
    yield memory.get_finished_spans
    traces.use(None)


@pytest.fixture
def settings(settings) -> Settings:
    return settings.model_copy(update={"engine": "tests.workers.echo_engine:edit"})


def edited(settings, clip, headers, **params):
    """Send a clip and its edit, and let a worker's process run it; the job."""
    api = ApiSettings(keys=(f"local:{digest(KEY)}:read+write",))
    with TestClient(create_app(settings, api), headers={"Authorization": f"Bearer {KEY}"} | headers) as http:
        asset = http.post("/v1/uploads", content=clip.read_bytes()).json()
        body = {"method": "frame_by_frame", "input": {"video": {"asset": asset["id"]}}, "prompt": {"target": SECRET}}
        answer = http.post("/v1/edits", json=body | {"cache": {"inversion": "off"}}, params={"token": "s3cret"})
        job = answer.json()
        assert answer.status_code == 202, answer.text
        records = http.app.state.services.records
        for name, value in params.items():
            request = json.loads(records.ask("HGET", f"rf:job:{job['id']}", "request"))
            request["params"][name] = value
            records.ask("HSET", f"rf:job:{job['id']}", "request", json.dumps(request))
        Runner(settings).run(job["id"], Owner("test", "node", "task"), "default")
        return http.get(f"/v1/jobs/{job['id']}").json()


def named(exported, name):
    [found] = [span for span in exported() if span.name == name]
    return found


def test_one_trace_leads_from_the_request_to_the_stages_of_its_job(settings, ball, exported):
    job = edited(settings, ball, {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    assert job["state"] == "succeeded", job["error"]
    spans = {span.name: span for span in exported() if format_trace_id(span.context.trace_id) == TRACE}
    parents = {name: format_span_id(span.parent.span_id) for name, span in spans.items()}
    ids = {format_span_id(span.context.span_id): name for name, span in spans.items()} | {CALLER: "the caller"}
    above = {name: ids[parent] for name, parent in parents.items()}
    stages = {f"stage.{name}" for name in ("fetch", "prepare", "invert", "edit", "decode", "publish")}
    assert above.pop("POST /v1/edits") == "the caller"
    assert above.pop("job") == "POST /v1/edits"
    assert above.pop("job.attempt") == "job"
    assert {name for name, parent in above.items() if parent == "job.attempt"} == stages
    assert job["traceparent"] == f"00-{TRACE}-{format_span_id(spans['job'].context.span_id)}-01"
    attempt = spans["job.attempt"]
    assert attempt.attributes["refilm.job_id"] == job["id"] and attempt.attributes["refilm.outcome"] == "succeeded"
    assert all(attempt.start_time <= spans[name].start_time <= spans[name].end_time for name in stages)


def test_no_text_and_no_secret_is_in_a_trace(settings, ball, exported):
    edited(settings, ball, {})
    assert named(exported, "POST /v1/edits").attributes["url.query"] == "REDACTED"
    told = " ".join(span.to_json() for span in exported())
    assert SECRET not in told and "s3cret" not in told and KEY not in told and "ball.mp4" not in told


def test_a_failure_marks_the_attempt_and_the_stage_by_its_code(settings, ball, exported):
    job = edited(settings, ball, {}, fault="not_video")
    assert job["state"] == "failed"
    for name in ("job.attempt", "stage.edit"):
        span = named(exported, name)
        assert span.status.status_code == StatusCode.ERROR and span.attributes["error.type"] == "input.not_video"
        assert not span.events, "an exception's words may be a caller's"
    assert named(exported, "stage.edit").attributes["refilm.outcome"] == "stopped"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "mine"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, ("otlp_proto_http",)),
        (
            {"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ("otlp_proto_grpc", "console"),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, ()),
    ],
)
def test_the_standard_variables_decide(environment, wanted):
    assert traces.exporters(environment) == wanted


def test_what_is_not_installed_leaves_traces_off(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nowhere")
    assert traces.begin("refilm-test") is None
    with traces.span("job") as span:
        assert span.traceparent == ""


def test_spans_are_sent_to_the_collector_that_the_environment_names(monkeypatch, receive):
    collector = receive(200)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    assert traces.begin("refilm-test") is not None
    with traces.span("job", parent=f"00-{TRACE}-{CALLER}-01"):
        pass
    traces.end()
    [(path, _, body)] = collector.seen
    assert path.endswith("/v1/traces") and b"refilm-test" in body and bytes.fromhex(TRACE) in body


def test_nothing_is_imported_while_traces_are_off():
    names = "[name for name in ('opentelemetry.sdk.trace', 'opentelemetry.exporter') if name in sys.modules]"
    code = f"import sys, workers.spans; from api.app import create_app; create_app(); print({names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
