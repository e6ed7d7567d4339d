"""Generated requests over the OpenAPI document: no 5xx, no undocumented status, no answer that breaks its schema."""

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.client import Client
from api.settings import ApiSettings
from jobs import ids
from jobs.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PATIENCE_SECONDS = 60  # a busy machine is not a hanging server
DOCUMENT = create_app(Settings(), ApiSettings()).openapi()
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
# An open stream has no end to wait for; its own tests read it.
ANSWERED = [operation for operation in OPERATIONS if not operation.path.endswith("/events")]


ABOUT_SOMETHING = [operation for operation in ANSWERED if "{" in operation.path]
bounded = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("operation", ANSWERED, ids=lambda operation: operation.label)
def test_every_answer_is_documented(operation, served):
    """Ids are generated like everything else, so many answers are refusals."""

    @bounded
    @hypothesis.given(case=operation.as_strategy())
    def check(case):
        case.call_and_validate(base_url=served, checks=CHECKS, timeout=PATIENCE_SECONDS)

    check()


@pytest.mark.parametrize("operation", ABOUT_SOMETHING, ids=lambda operation: operation.label)
def test_answers_about_what_is_there_are_documented(operation, served, clip, local_worker, local_delivery):
    with Client(served) as client:
        asset = client.upload(clip)
        job = client.edit(method="frame_by_frame", video=asset.id, prompt="x")
    matrix = {"videos": [{"video": {"asset": asset.id}}], "methods": [{"method": "frame_by_frame"}]}
    batch = httpx.post(f"{served}/v1/batches", json=matrix | {"prompts": [{"target": "x"}]}).json()
    announced = {"size_bytes": clip.stat().st_size}
    upload = httpx.post(f"{served}/v1/uploads", json=announced).json()
    for ended in (job.id, ids.numbered(ids.JOB, batch["id"], 0)):
        local_worker.succeed(ended)
    there = {
        "method_id": "frame_by_frame",
        "asset_id": asset.id,
        "job_id": job.id,
        "batch_id": batch["id"],
        "upload_id": upload["id"],
        "name": "video.mp4",
        "code": "not_found",
        "endpoint_id": local_delivery.endpoint,
        "delivery_id": local_delivery.id,
    }

    @bounded
    @hypothesis.given(case=operation.as_strategy())
    def check(case):
        case.path_parameters = {name: there[name] for name in case.path_parameters}
        case.call_and_validate(base_url=served, checks=CHECKS, timeout=PATIENCE_SECONDS)

    check()


def test_edits_of_a_clip_that_is_there_are_documented(served, clip):
    with Client(served) as client:
        asset = client.upload(clip).id
    [create] = [operation for operation in ANSWERED if operation.label == "POST /v1/edits"]

    @bounded
    @hypothesis.given(case=create.as_strategy())
    def check(case):
        if isinstance(case.body, dict):
            case.body |= {"method": "frame_by_frame", "input": {"video": {"asset": asset}}}
            case.body["prompt"] = {"target": "a blue ball"}
        case.call_and_validate(base_url=served, checks=CHECKS, timeout=PATIENCE_SECONDS)

    check()
