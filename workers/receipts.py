"""The receipt of a job: everything its outputs were made from, and a request that makes them again."""

from datetime import UTC, datetime
from typing import Any

from jobs import VERSION
from jobs.leases import Claim
from jobs.manifest import InputFile
from jobs.schema import Output
from workers.work import Made

SCHEMA_VERSION = 1
WRITTEN_ELSEWHERE = {"prompt": "target", "source_prompt": "source", "negative_prompt": "negative"}
"""Parameters of methods that a request holds in its `prompt`."""


def pinned(claim: Claim, made: Made) -> dict[str, Any]:
    """The job's request with every default written out: sent again, it asks for the same, whatever defaults become."""
    asked = claim.job.request.model_dump(mode="json", exclude_none=True)
    for name in ("adherence", "deadline", "priority", "labels", "metadata"):
        asked.pop(name, None)
    params = dict(made.receipt.get("params") or claim.job.request.engine_params())
    prompt = {word: params.pop(name) for name, word in WRITTEN_ELSEWHERE.items() if params.get(name)}
    asked["input"].pop("trim", None)  # it is in the parameters, as seconds
    return asked | {"model": made.checkpoint or claim.job.request.model, "prompt": prompt, "params": params}


def receipt(claim: Claim, made: Made, inputs: dict[str, InputFile], outputs: tuple[Output, ...]) -> dict[str, Any]:
    """The receipt as it lies beside the outputs."""
    facts = dict(made.receipt)
    params = facts.pop("params", {})
    return {
        "schema_version": SCHEMA_VERSION,
        "refilm_version": VERSION,
        "created_at": datetime.now(UTC).isoformat(),
        "job": claim.job_id,
        "attempt": claim.job.attempt,
        "request": pinned(claim, made),
        "inputs": {name: given.model_dump(exclude={"name"}) for name, given in inputs.items()},
        "seed": params.get("seed"),
        "device": made.device,
        "outputs": [output.model_dump(exclude_none=True) for output in outputs],
        **facts,
    }
