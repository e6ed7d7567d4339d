"""The OpenAPI document is valid, names its operations, and describes what clients rely on."""

from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import create_app
from api.settings import ApiSettings
from jobs.settings import Settings

DOCUMENT = create_app(Settings(), ApiSettings()).openapi()
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def test_the_document_is_valid_openapi_3_1():
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_operations_have_names_that_a_generated_client_can_bear():
    names = [operation["operationId"] for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert {"edits_create_edit", "batches_create_batch", "jobs_get_job"} <= set(names)
    assert [name for name in names if "v1" in name] == []


def test_every_refusal_is_a_problem_document():
    for operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], operation["operationId"]
