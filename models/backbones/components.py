"""From a folder in the diffusers layout to networks: component by component, with the classes it names.

Only classes in `CLASSES` are built, whatever the folder asks for, so that a checkpoint is data and never code.
"""

import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.backbones.miniature_unet3d import MiniatureUNet3D
from models.backbones.miniature_vae import MiniatureVAE
from models.errors import WeightsUnavailable
from models.weights import WEIGHT_STEMS, check_header, weight_files

CLASSES: dict[str, type] = {
    "AutoencoderKL": diffusers.AutoencoderKL,
    "CLIPTextModel": transformers.CLIPTextModel,
    "CLIPTokenizer": transformers.CLIPTokenizer,
    "CLIPTokenizerFast": transformers.CLIPTokenizerFast,
    "MiniatureUNet3D": MiniatureUNet3D,
    "MiniatureVAE": MiniatureVAE,
    "PreTrainedTokenizerFast": transformers.PreTrainedTokenizerFast,
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "UNet3DConditionModel": diffusers.UNet3DConditionModel,
}


@dataclass(frozen=True)
class Denoiser:
    """A denoiser that a checkpoint holds beside its own `unet`, for methods of another family.

    Its folder holds its configuration and the weights that are its own; all others are those of `unet`.
    """

    folder: str
    kind: type


def denoisers(folder: Path) -> dict[str, Denoiser]:
    """The denoisers beside `unet`, by family: `_denoisers` of `model_index.json` (diffusers skips the underscore)."""
    listed = read_json(folder / "model_index.json").get("_denoisers", {})
    try:
        return {family: Denoiser(entry[0], CLASSES[entry[1]]) for family, entry in listed.items()}
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise _unusable(
            "_denoisers of model_index.json is not {family: [folder, class]} with classes of ours"
        ) from error


def load_denoiser(folder: Path, denoiser: Denoiser, dtype: torch.dtype) -> nn.Module:
    """Load a denoiser that shares weights with `unet`; WeightsUnavailable when one has no or another shape."""
    own = folder / denoiser.folder
    if Path(denoiser.folder).name != denoiser.folder or not own.is_dir():
        raise _unusable(f"there is no folder {denoiser.folder}, which model_index.json names")
    for path in weight_files(own):
        check_header(path)
    weights = {name: value for role in (folder / "unet", own) for name, value in _weights(role).items()}
    network: nn.Module = cast(Any, denoiser.kind).from_config(read_json(own / "config.json"))
    try:
        share(network, weights)
    except RuntimeError as error:
        raise _unusable(f"{denoiser.folder} cannot be loaded: {str(error).splitlines()[-1].strip()}") from error
    return nn.Module.to(network, dtype=dtype)  # diffusers' own `to` warns at every dtype


def store_denoiser(network: nn.Module, own: Collection[str], folder: Path) -> None:
    """Write what `load_denoiser` reads of a network: its configuration, and the named weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = inspect.signature(type(network).__init__).parameters
    kept = {name: value for name, value in cast(Any, network).config.items() if name in taken}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items() if name in own}
    save_file(weights, folder / f"{WEIGHT_STEMS[0]}.safetensors", {"format": "pt"})


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in weight_files(folder) for name, value in load_file(path).items()}


def share(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network all of its weights by name; a convolution over one pixel may be a linear layer there."""
    present = network.state_dict()
    fitted = {
        name: value.reshape(present[name].shape)
        if name in present and value.numel() == present[name].numel()
        else value
        for name, value in weights.items()
    }
    network.load_state_dict(fitted)


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
    return build(class_of(folder, role), folder / role, role, dtype)


def class_named(folder: Path, allowed: Collection[str]) -> Any:
    """The class a network's own `config.json` names; WeightsUnavailable when it is not one of those allowed."""
    config = read_json(folder / "config.json")
    listed = config.get("architectures") or [None]
    name = str(config.get("_class_name") or (listed[0] if isinstance(listed, list) else None))
    if name not in allowed:
        raise _unusable(f"{folder.name} holds a {name}, not a {' or '.join(allowed)}")
    return getattr(diffusers, name, None) or getattr(transformers, name)


def build(kind: Any, folder: Path, called: str, dtype: torch.dtype) -> nn.Module:
    """A network of this class from its folder; errors speak of it as `called`."""
    read_json(folder / "config.json")
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    options["dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype"] = dtype
    try:
        network, info = kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise _unusable(f"{called} cannot be loaded: {str(error).splitlines()[0]}") from error
    for problem in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, info[problem]))
        if names:
            raise _unusable(f"{called} has {len(names)} {problem.replace('_', ' ')}, the first {names[0]}")
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
