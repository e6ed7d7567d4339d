"""Keys of stages: ``sha256(verb's module:qualname, its VERSION, own params and files, the key above)``.

A Merkle chain that starts at the digests of the inputs, the checkpoint and the numerics class. A new target prompt
therefore keeps the inversion, and two methods with the same assigned verb share it.
"""

import importlib
from typing import Any

import torch

from models.backbones.backbone import Backbone
from models.digest import digest_json
from models.method import Method, VideoInput
from models.params import STAGES, Stage, VideoParams, own
from models.types import File


def root(backbone: Backbone, salt: str) -> str:
    """Where the chain starts: the tenant's salt, the checkpoint, and how numbers are computed."""
    numerics = f"torch-{torch.__version__.split('+')[0]}/{backbone.device.type}/{backbone.dtype}"
    return digest_json({"salt": salt, "checkpoint": backbone.digest, "numerics": numerics})


def of_stage(kind: type[Method], params: VideoParams, inputs: VideoInput, stage: Stage, above: str) -> str:
    """The key of a stage: verb, VERSION, its own parameters and input files, and the key above."""
    verb = getattr(kind, stage)
    return digest_json(
        {
            "verb": f"{verb.__module__}:{verb.__qualname__}",
            "version": getattr(importlib.import_module(verb.__module__), "VERSION", 1),
            "params": own(params, stage),
            "inputs": {name: _digests(value) for name, value in files(inputs, stage, exact=True).items()},
            "above": above,
        }
    )


def files(inputs: VideoInput, stage: Stage, *, exact: bool) -> dict[str, Any]:
    """Files declared for this stage (``exact``) or up to it, by field name, those not given left out."""
    chosen: dict[str, Any] = {}
    for name, field in type(inputs).model_fields.items():
        declared = field.json_schema_extra["x-stage"]  # type: ignore[index]
        wanted = declared == stage if exact else STAGES.index(declared) <= STAGES.index(stage)
        if wanted and getattr(inputs, name) is not None:
            chosen[name] = getattr(inputs, name)
    return chosen


def _digests(value: File | tuple[File, ...]) -> list[str]:
    return [value.digest] if isinstance(value, File) else [item.digest for item in value]
