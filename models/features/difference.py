"""Carry features part of the way to the source's. arXiv:2308.00135, sec. 3.1; whole: arXiv:2211.12572."""

import re
from collections.abc import Collection
from contextlib import AbstractContextManager

from torch import Tensor, cat, nn

from models.features.taps import tapped

VERSION = 1

RESIDUAL = re.compile(r"^up_blocks\.(\d+)\.resnets\.\d+\.conv2$")


def residual_layers(unet: nn.Module, blocks: Collection[int]) -> list[str]:
    """Paths of the last convolution of every ResNet in these blocks of the decoder, 0 the coarsest."""
    found = ((name, RESIDUAL.match(name)) for name, _ in unet.named_modules())
    return [name for name, match in found if match and int(match[1]) in blocks]


def towards_source(
    network: nn.Module, names: Collection[str], *, branches: int, source: int, amount: float
) -> AbstractContextManager[None]:
    """Within the block, the outputs of the named modules become ``x + amount (x_source - x)`` in every branch.

    The batch is branch-major; ``source`` is the source's place. An amount of 1 replaces, 0 changes nothing.
    """

    def move(output: Tensor) -> Tensor:
        wanted = cat([output.chunk(branches)[source]] * branches)
        return wanted if amount == 1 else output + amount * (wanted - output)

    return tapped(network, {name: move for name in names})
