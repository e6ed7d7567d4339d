"""The methods' parameters as the API knows them: `catalogue.json`, generated from the methods, validated by schema."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from jobs.request import JobRequest

CATALOGUE = Path(__file__).with_name("catalogue.json")

_CODES = {
    "additionalProperties": "unknown_field",
    "required": "missing",
    "type": "wrong_type",
    "anyOf": "wrong_type",
    "enum": "not_a_choice",
    "const": "not_a_choice",
    "minimum": "too_small",
    "exclusiveMinimum": "too_small",
    "maximum": "too_large",
    "exclusiveMaximum": "too_large",
    "minLength": "too_short",
    "maxLength": "too_long",
    "minItems": "too_short",
    "maxItems": "too_long",
    "pattern": "wrong_format",
    "multipleOf": "not_a_multiple",
}
_LIMITS = {
    "minimum": "min",
    "exclusiveMinimum": "more_than",
    "maximum": "max",
    "exclusiveMaximum": "less_than",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_items",
    "minItems": "min_items",
    "enum": "choices",
    "multipleOf": "multiple_of",
}


class UnknownMethod(KeyError):
    """No method has this id."""


class NoLadder(ValueError):
    """The method does not say what keeping to the source means for it."""


class Catalogue:
    """Methods by id, each with `inputs` and `params` schemas."""

    def __init__(self, methods: dict[str, dict[str, Any]]) -> None:
        """Wrap the `methods` object of `catalogue.json`."""
        self._methods = methods

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """All methods by id."""
        return self._methods

    def method(self, method_id: str) -> dict[str, Any]:
        """Return one method's entry. Raises UnknownMethod."""
        if method_id not in self._methods:
            raise UnknownMethod(method_id)
        return self._methods[method_id]

    def adhered(self, request: JobRequest) -> JobRequest:
        """The request with its rung of the method's ladder as parameters; those it has itself go before them.

        Raises NoLadder for a rung that the method does not have.
        """
        if request.adherence is None:
            return request
        ladder = self.method(request.method).get("adherence", {})
        if request.adherence not in ladder:
            raise NoLadder(request.method)
        return request.model_copy(update={"params": ladder[request.adherence] | request.params})

    def checkpoints(self, method_id: str, params: dict[str, Any]) -> dict[str, str]:
        """Parameters of a request that name a network to load, and which."""
        fields = self.method(method_id)["params"]["properties"]
        named = {name for name, schema in fields.items() if _names_checkpoint(schema)}
        given = {name: params[name] for name in sorted(named & params.keys())}
        return {name: value for name, value in given.items() if value and isinstance(value, str)}

    def errors(self, method_id: str, params: dict[str, Any], inputs: set[str]) -> list[dict[str, Any]]:
        """Return what is wrong with a request's engine parameters and input names; empty when it can be accepted.

        Input names are those of `JobRequest.assets`: `name`, or `name/0`, `name/1` … for the files of a list.
        Each error has `pointer` (into the request body), `code`, `message` and, where there is one, the limit.
        """
        entry = self.method(method_id)
        found = list(_errors(entry["params"], params, "#/params"))
        files: dict[str, Any] = {}
        for name, separator, _ in (given.partition("/") for given in sorted(inputs)):
            files[name] = [*files.get(name, ()), "asset"] if separator else "asset"
        for error in _errors(entry["inputs"], files, "#/input"):
            where = error["pointer"].removeprefix("#/input/")
            found.append(error if where == "video" else error | {"pointer": f"#/input/files/{where}"})
        return found


def _names_checkpoint(schema: dict[str, Any]) -> bool:
    return any(option.get("format") == "checkpoint" for option in (schema, *schema.get("anyOf", ())))


def _errors(schema: dict[str, Any], value: dict[str, Any], base: str) -> Iterator[dict[str, Any]]:
    problems = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda error: list(map(str, error.path)))
    for problem in problems:
        yield from _explain(problem, base)


def _explain(problem: ValidationError, base: str) -> Iterator[dict[str, Any]]:
    keyword = str(problem.validator)
    pointer = "/".join([base, *(_escaped(str(part)) for part in problem.absolute_path)])
    code = _CODES.get(keyword, "invalid")
    if keyword == "anyOf" and problem.context:
        best = max(problem.context, key=lambda inner: (inner.validator != "type", len(inner.path)))
        yield from _explain(best, base)
        return
    for name in _names(problem, keyword):
        yield {"pointer": f"{pointer}/{_escaped(name)}", "code": code, "message": f"{code.replace('_', ' ')}: {name}"}
    if keyword not in {"required", "additionalProperties"}:
        limit = {_LIMITS[keyword]: problem.validator_value} if keyword in _LIMITS else {}
        yield {"pointer": pointer, "code": code, "message": _sentence(problem, keyword), **limit}


def _escaped(name: str) -> str:
    """Escape a name for a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _names(problem: ValidationError, keyword: str) -> list[str]:
    given, schema = problem.instance, problem.schema
    if not isinstance(given, dict) or not isinstance(schema, dict):
        return []
    if keyword == "required":
        return [name for name in schema["required"] if name not in given and f"'{name}'" in problem.message]
    if keyword == "additionalProperties":
        return sorted(set(given) - set(schema.get("properties", ())))
    return []


def _sentence(problem: ValidationError, keyword: str) -> str:
    wanted = problem.validator_value
    match keyword:
        case "type":
            return f"must be of type {wanted}"
        case "enum":
            return f"must be one of {wanted}"
        case "minimum" | "exclusiveMinimum":
            return f"must be {'at least' if keyword == 'minimum' else 'more than'} {wanted}"
        case "maximum" | "exclusiveMaximum":
            return f"must be {'at most' if keyword == 'maximum' else 'less than'} {wanted}"
    return f"does not satisfy {keyword} {json.dumps(wanted)[:80]}"


@cache
def load(path: Path = CATALOGUE) -> Catalogue:
    """Return the committed catalogue."""
    return Catalogue(json.loads(path.read_text())["methods"])
