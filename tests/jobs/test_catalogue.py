"""What the API says about wrong parameters, and how a request becomes the method's parameters."""

import re

import pytest
from pydantic import ValidationError

from jobs import ids
from jobs.catalogue import Catalogue, UnknownMethod, load
from jobs.codes import JOB_CODES
from jobs.request import JobRequest
from jobs.schema import JobError
from jobs.workload import ClipFacts, workload

PARAMS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "minLength": 1},
        "steps": {"type": "integer", "minimum": 1, "maximum": 200},
        "width": {"anyOf": [{"type": "integer", "minimum": 64, "multipleOf": 8}, {"type": "null"}]},
        "mode": {"enum": ["a", "b"]},
    },
}
INPUTS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["video"],
    "properties": {
        "video": {"type": "string", "format": "asset"},
        "mask": {"type": "string", "format": "asset"},
        "references": {"type": "array", "items": {"type": "string", "format": "asset"}, "maxItems": 2},
    },
}
CATALOGUE = Catalogue({"echo": {"params": PARAMS, "inputs": INPUTS}})


@pytest.mark.parametrize(
    ("params", "pointer", "code", "limit"),
    [
        ({"prompt": "x", "steps": 500}, "#/params/steps", "too_large", {"max": 200}),
        ({"prompt": "x", "steps": 0}, "#/params/steps", "too_small", {"min": 1}),
        ({"prompt": "x", "steps": "5"}, "#/params/steps", "wrong_type", {}),
        ({"prompt": "x", "width": 65}, "#/params/width", "not_a_multiple", {"multiple_of": 8}),
        ({"prompt": "x", "width": "w"}, "#/params/width", "wrong_type", {}),
        ({"prompt": "x", "mode": "c"}, "#/params/mode", "not_a_choice", {"choices": ["a", "b"]}),
        ({"prompt": ""}, "#/params/prompt", "too_short", {"min_length": 1}),
        ({}, "#/params/prompt", "missing", {}),
        ({"prompt": "x", "a/b": 1}, "#/params/a~1b", "unknown_field", {}),
    ],
)
def test_every_wrong_parameter_has_a_pointer_a_code_and_its_limit(
    params: dict[str, object], pointer: str, code: str, limit: dict[str, object]
) -> None:
    (error,) = CATALOGUE.errors("echo", params, {"video"})
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert {name: error[name] for name in limit} == limit
    assert error["message"]


def test_inputs_are_checked_by_name() -> None:
    assert CATALOGUE.errors("echo", {"prompt": "x"}, {"video", "mask"}) == []
    codes = {(error["pointer"], error["code"]) for error in CATALOGUE.errors("echo", {"prompt": "x"}, {"pose"})}
    assert codes == {("#/input/video", "missing"), ("#/input/files/pose", "unknown_field")}


def test_a_list_of_files_is_one_input() -> None:
    refs = [{"asset": ids.new(ids.ASSET)} for _ in range(3)]
    asked = request(input={"video": refs[0], "files": {"references": refs[:2], "mask": refs[2]}})
    names = set(asked.assets())
    assert names == {"video", "references/0", "references/1", "mask"}
    assert CATALOGUE.errors("echo", {"prompt": "x"}, names) == []
    (error,) = CATALOGUE.errors("echo", {"prompt": "x"}, names | {"references/2"})
    assert (error["pointer"], error["code"], error["max_items"]) == ("#/input/files/references", "too_long", 2)
    (error,) = CATALOGUE.errors("echo", {"prompt": "x"}, {"video", "references"})
    assert (error["pointer"], error["code"]) == ("#/input/files/references", "wrong_type")
    with pytest.raises(ValidationError):
        request(input={"video": refs[0], "files": {"references": refs * 30}})


def test_an_unknown_method_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownMethod):
        CATALOGUE.errors("nothing", {}, set())


def test_the_committed_catalogue_accepts_its_own_defaults() -> None:
    catalogue = load()
    assert catalogue.methods
    for method_id, entry in catalogue.methods.items():
        properties = entry["params"]["properties"]
        defaults = {name: field["default"] for name, field in properties.items() if "default" in field}
        wrong = catalogue.errors(method_id, defaults, set(entry["inputs"].get("required", ())))
        required = {f"#/params/{name}" for name in entry["params"].get("required", ())}
        assert {error["pointer"] for error in wrong if error["code"] == "missing"} == required
        assert {error["code"] for error in wrong} <= {"missing"}


def request(**more: object) -> JobRequest:
    return JobRequest.model_validate({"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}} | more)


def test_a_request_becomes_the_methods_parameters() -> None:
    asked = request(
        prompt={"target": "a", "source": "b"},
        params={"seed": 1, "size": "512x320"},
        input={"video": {"asset": ids.new(ids.ASSET)}, "trim": {"start": 1.0, "end": 2.5}},
    )
    assert asked.engine_params() == {
        "prompt": "a",
        "source_prompt": "b",
        "seed": 1,
        "width": 512,
        "height": 320,
        "start_seconds": 1.0,
        "end_seconds": 2.5,
    }
    assert request(params={"size": "huge"}).engine_params() == {"size": "huge"}


@pytest.mark.parametrize(
    "body",
    [
        {"save_path": "/etc/passwd"},
        {"input": {"video": {"path": "/etc/passwd"}}},
        {"input": {"video": {"asset": "../x"}}},
        {"input": {"video": {"asset": ids.new(ids.ASSET)}, "trim": {"start": 2, "end": 1}}},
        {"priority": "now"},
        {"metadata": {"x": "y" * 5000}},
        {"params": {"x": float("nan")}},
        {"method": "../x"},
    ],
)
def test_what_the_contract_does_not_have_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        request(**body)


def test_ids_sort_by_time_and_are_not_guessed() -> None:
    made = [ids.new(ids.JOB) for _ in range(200)]
    assert len(set(made)) == 200 and made == sorted(made)
    assert all(ids.valid(one, ids.JOB) and not ids.valid(one, ids.ASSET) for one in made)
    assert abs(ids.created_ms(made[0]) - ids.created_ms(made[-1])) < 5000
    assert not ids.valid("job_../../x", ids.JOB)


def test_every_job_code_is_explained() -> None:
    for code, facts in JOB_CODES.items():
        assert re.fullmatch(r"[a-z]+(?:[._][a-z]+)*", code)
        error = JobError.of(code, "detail")
        assert (error.title, error.retryable) == (facts.title, facts.retryable)
    with pytest.raises(KeyError):
        JobError.of("no_such_code")


def test_an_error_always_says_what_to_do_its_own_advice_first() -> None:
    for code in JOB_CODES:
        assert JobError.of(code).hint, code
    assert JobError.of("input.no_frames", "too short", hint="").hint == JOB_CODES["input.no_frames"].hint
    assert JobError.of("input.no_frames", hint="begin at 0").hint == "begin at 0"


def test_networks_that_parameters_name_are_told_and_are_a_class_of_work_of_their_own() -> None:
    named = {"control_net": "a/net", "depth_estimator": None, "condition": "canny"}
    assert load().checkpoints("medm", named) == {"control_net": "a/net"}
    assert load().checkpoints("medm", {"control_net": ""}) == {} == load().checkpoints("fatezero", named)
    given = {"method": "medm", "input": {"video": {"asset": f"ast_{26 * '0'}"}}}
    plain, steered = (
        workload(JobRequest.model_validate(given | {"params": params}), ClipFacts(frames=8)).kind
        for params in ({}, {"control_net": "a/net"})
    )
    assert steered == f"{plain}&1"
