"""Low-rank adaptation of linear layers. arXiv:2106.09685.

``W x`` becomes ``W x + scale * up(down(x))``. The network is never changed: the low-rank term is added by forward hooks
that are taken out again. Weights are named as diffusers names them: ``<layer>.lora_A.weight`` (down, ``r in``) and
``<layer>.lora_B.weight`` (up, ``out r``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VERSION = 1


def targets(network: nn.Module, where: Callable[[str], bool]) -> list[str]:
    """Paths of the linear layers whose path ``where`` holds for, in the network's order."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and where(name)]


def create(
    network: nn.Module, names: Sequence[str], rank: int, generator: torch.Generator | None = None
) -> dict[str, nn.Parameter]:
    """New trainable float32 weights for these layers, on their device: down normal with deviation ``1/rank``, up zero.

    Raises KeyError for a path that is not a linear layer.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    weights = {}
    for name in names:
        layer = layers[name]
        down = torch.randn(rank, layer.in_features, generator=generator) / rank
        up = torch.zeros(layer.out_features, rank)
        weights[f"{name}.lora_A.weight"] = nn.Parameter(down.to(layer.weight.device))
        weights[f"{name}.lora_B.weight"] = nn.Parameter(up.to(layer.weight.device))
    return weights


@contextmanager
def applied(
    network: nn.Module, weights: Mapping[str, Tensor], *, scale: float = 1.0, dropout: float = 0.0
) -> Iterator[None]:
    """Within the block, the named layers of the network have their low-rank term; afterwards they have not.

    ``dropout`` acts on the term while tuning. Gradients reach ``weights``. Raises KeyError when a layer or one of its
    two weights is missing.
    """
    layers = dict(network.named_modules())
    names = dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in weights)
    with ExitStack() as stack:
        for name in names:
            down, up = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
            hook = _low_rank(down, up, scale, dropout)
            stack.callback(layers[name].register_forward_hook(hook).remove)
        yield


def _low_rank(down: Tensor, up: Tensor, scale: float, dropout: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(down.dtype) if not torch.is_autocast_enabled(output.device.type) else inputs[0]
        change = F.linear(F.linear(F.dropout(x, dropout), down), up)
        return output + scale * change.to(output.dtype)

    return add


def merged(network: nn.Module, weights: Mapping[str, Tensor], *, scale: float = 1.0) -> dict[str, Tensor]:
    """The full weights of the adapted layers, ``W + scale * up @ down``, by parameter name: for a clone to own."""
    full = dict(network.named_parameters())
    result = {}
    for name in dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in weights):
        down, up = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
        weight = full[f"{name}.weight"]
        result[f"{name}.weight"] = weight + scale * (up @ down).to(weight)
    return result
