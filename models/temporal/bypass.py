"""Take a network's layers over frames out, so that it sees each frame by itself. arXiv:2310.08465, sec. 3.3.

A video network so reduced is an image network: a clip's frames go through it as an unordered set.
"""

from collections.abc import Collection
from typing import Any

from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from models.temporal import inflation


def sees_frames(network: nn.Module) -> bool:
    """Whether the network has layers over frames of its own."""
    return any(isinstance(module, TransformerTemporalModel) for module in network.modules())


def without_frames(network: nn.Module, keep: Collection[str] = ()) -> Any:
    """A clone, its weights shared, whose transformers and convolutions over frames do nothing, but those in ``keep``.

    ``keep`` are module paths. An image network has none of them and is only cloned.
    """
    clone = inflation.inflate(network, 1, temporal=False, norm_over_frames=False)
    for name, module in list(clone.named_modules()):
        skipped = _skipped(module)
        if skipped is not None and name not in keep:
            parent, _, leaf = name.rpartition(".")
            clone.get_submodule(parent).register_module(leaf, skipped)
    return clone


def _skipped(module: nn.Module) -> nn.Module | None:
    if isinstance(module, TransformerTemporalModel):
        return SkippedTransformer()
    return SkippedConvolution() if isinstance(module, TemporalConvLayer) else None


class SkippedTransformer(nn.Module):
    """In the place of a transformer over frames: hands on what it gets."""

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor]:
        """Return the input, in a tuple as the transformer does."""
        return (hidden_states,)


class SkippedConvolution(nn.Module):
    """In the place of a convolution over frames: hands on what it gets."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        """Return the input."""
        return hidden_states
