"""From a folder in the diffusers layout to networks: component by component, with the classes it names.

Only classes in `CLASSES` are built, whatever the folder asks for, so that a checkpoint is data and never code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import nn

from models.backbones.miniature_vae import MiniatureVAE
from models.errors import WeightsUnavailable

CLASSES: dict[str, type] = {
    "AutoencoderKL": diffusers.AutoencoderKL,
    "CLIPTextModel": transformers.CLIPTextModel,
    "CLIPTokenizer": transformers.CLIPTokenizer,
    "CLIPTokenizerFast": transformers.CLIPTokenizerFast,
    "MiniatureVAE": MiniatureVAE,
    "PreTrainedTokenizerFast": transformers.PreTrainedTokenizerFast,
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "UNet3DConditionModel": diffusers.UNet3DConditionModel,
}


def class_of(folder: Path, role: str) -> Any:
    """The class a folder's `model_index.json` names for a role; WeightsUnavailable when it is not one of ours."""
    index = read_json(folder / "model_index.json")
    try:
        name = index[role][1]
    except (KeyError, IndexError, TypeError) as error:
        raise _unusable(f"model_index.json names no class for {role}") from error
    if name not in CLASSES:
        raise _unusable(f"{role} is a {name}; this family is made of {', '.join(sorted(CLASSES))}")
    return CLASSES[name]


def load_network(folder: Path, role: str, dtype: torch.dtype) -> nn.Module:
    """Load one network's safetensors; WeightsUnavailable when a weight is missing or has another shape.

    Loaders would fill such a weight with random numbers and warn; an edit made with it would only look bad.
    """
    kind = class_of(folder, role)
    read_json(folder / role / "config.json")
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    options["dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype"] = dtype
    try:
        network, info = kind.from_pretrained(str(folder / role), **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise _unusable(f"{role} cannot be loaded: {str(error).splitlines()[0]}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, info[problem]))
        if names:
            raise _unusable(f"{role} has {len(names)} {problem.replace('_', ' ')}, the first {names[0]}")
    return cast(nn.Module, network)


@contextmanager
def quiet() -> Iterator[None]:
    """Load without transformers' progress bars, which would write into the caller's own display."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer; WeightsUnavailable when its files cannot be read."""
    try:
        return class_of(folder, "tokenizer").from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(f"the tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file; WeightsUnavailable when it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(f"{path.name} cannot be read") from error
    if not isinstance(value, dict):
        raise _unusable(f"{path.name} is not a JSON object")
    return value


def _unusable(message: str) -> WeightsUnavailable:
    hint = "Give a complete checkpoint of the Stable Diffusion 1 or 2 family in the diffusers layout."
    return WeightsUnavailable(message, code="model.integrity", hint=hint)
