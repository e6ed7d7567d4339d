"""Taps: see, keep or replace what a module of a borrowed network puts out, by module path.

All taps are forward hooks, taken out again on exit, also after an exception.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, cat, nn

Tap = Callable[[Tensor], Tensor | None]


@contextmanager
def tapped(network: nn.Module, taps: Mapping[str, Tap]) -> Iterator[None]:
    """Within the block, the output of each named module goes through its tap; a tap that returns None only looks.

    Raises KeyError, before anything is touched, for a path the network does not have.
    """
    modules = dict(network.named_modules())
    chosen = [(modules[name], tap) for name, tap in taps.items()]
    with ExitStack() as stack:
        for module, tap in chosen:
            stack.callback(module.register_forward_hook(_hook(tap)).remove)
        yield


def _hook(tap: Tap) -> Callable[[Any, Any, Tensor], Tensor | None]:
    return lambda module, inputs, output: tap(output)


@contextmanager
def recorded(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, the last output of each named module is kept in the dictionary handed out."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Tap:
        def tap(output: Tensor) -> None:
            kept[name] = output.detach()

        return tap

    with tapped(network, {name: keep(name) for name in names}):
        yield kept


@contextmanager
def injected(network: nn.Module, features: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, each named module puts out the given tensor instead; one batch row serves all that follow it.

    A feature with fewer rows than the output is repeated as a whole.
    """

    def put(feature: Tensor) -> Tap:
        def tap(output: Tensor) -> Tensor:
            rows = len(output) // len(feature)
            return cat([feature.to(output)] * rows) if rows > 1 else feature.to(output)

        return tap

    with tapped(network, {name: put(feature) for name, feature in features.items()}):
        yield


@contextmanager
def shared(network: nn.Module, names: Sequence[str], branches: int) -> Iterator[None]:
    """Within the block, all branches of a batch get the first branch's output of each named module.

    The batch is branch-major: ``(branch …)``, the source first.
    """

    def copy(output: Tensor) -> Tensor:
        return cat([output.chunk(branches)[0]] * branches)

    with tapped(network, {name: copy for name in names}):
        yield
