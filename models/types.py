"""The values that pass between stages: frozen, and storable as safetensors.

Frames are ``f c h w``, float 0…1. Latents are ``b c f h w`` in VAE space, scaled. Text is ``b n d``.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Frames = Float[Tensor, "f c h w"]
Latents = Float[Tensor, "b c f h w"]
Embeds = Float[Tensor, "b n d"]

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """A file given by the caller: where it lies, the sha256 of its content, and its name (metadata only)."""

    path: Path
    digest: str
    name: str = ""


@dataclass(frozen=True)
class Clip:
    """The source as the networks see it: frames at working size, their latents, and how to get back.

    ``source_width`` and ``source_height`` are pixels of the source as displayed; the edit is resized back to them.
    """

    frames: Frames
    latents: Latents
    fps: float
    source_width: int
    source_height: int


@dataclass(frozen=True)
class Fitted:
    """The result of tuning on one clip: only the weights that moved, by name, and the loss of every step."""

    weights: dict[str, Tensor]
    losses: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """An inversion: ``latents[i]`` (``n+1 b c f h w``) after *i* steps towards noise, ``[0]`` clean.

    ``timesteps`` (``n``) are the network's timesteps of those steps, cleanest first. ``null_embeds`` (``n b k d``),
    where a method optimises them, belong to the same steps, noisiest first, in sampling order.
    """

    latents: Float[Tensor, "n b c f h w"]
    timesteps: Tensor
    null_embeds: Tensor | None = None


@dataclass(frozen=True)
class Video:
    """The edited clip: frames at working size, frames per second, and the pixel size to write."""

    frames: Frames
    fps: float
    width: int
    height: int


def pack(artifact: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a frozen artifact into tensors and a JSON description, as a safetensors file wants them."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for field in fields(artifact):
        value = getattr(artifact, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value.detach()
        elif isinstance(value, dict):
            tensors.update({f"{field.name}/{name}": item.detach() for name, item in value.items()})
        else:
            plain[field.name] = value
    return tensors, {"artifact": type(artifact).__name__, "plain": json.dumps(plain, sort_keys=True)}


def unpack(kind: type[T], tensors: dict[str, Tensor], meta: dict[str, str]) -> T:
    """Rebuild an artifact of the given kind; raise ValueError when the file holds another kind."""
    if meta.get("artifact") != kind.__name__:
        raise ValueError(f"expected a stored {kind.__name__}, found {meta.get('artifact')!r}")
    values: dict[str, Any] = json.loads(meta["plain"])
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in tensors:
            values[field.name] = tensors[field.name]
        elif field.name not in values:
            prefix = f"{field.name}/"
            values[field.name] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return kind(**values)


def size_bytes(tensors: dict[str, Tensor]) -> int:
    """Memory held by a set of tensors, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def finite(tensor: Tensor) -> bool:
    """Whether every element is a number; a diverged edit must fail instead of being encoded as black frames."""
    return bool(torch.isfinite(tensor).all())
