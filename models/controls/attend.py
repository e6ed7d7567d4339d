"""Attention layers under a control: each hands its queries, keys and values to a function that may look elsewhere.

A batch holds branches, each a whole clip: dimension 0 of every tensor is ``(branch rest)``, where ``rest`` are frames,
places (temporal attention) or nothing (dense attention).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from models.attention.installed import Policy, Processor, RoutedAttention, finish, installed, is_self_attention, project

VERSION = 1

Maps = Float[Tensor, "b heads q n"]
Policies = Callable[[str], Policy | None]
"""The policy of each self-attention layer; None leaves every frame to itself."""


@runtime_checkable
class Control(Protocol):
    """What happens in a layer: attention of ``b n (h d)`` on ``b m (h d)``, possibly not its own."""

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return what was attended to, ``b n (h d)``."""


class ControlledAttention:
    """The attention processor of one layer under a control and a policy."""

    def __init__(self, layer: str, control: Control, policy: Policy | None) -> None:
        """Serve the layer of this name."""
        self.layer, self.control, self.policy = layer, control, policy

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer's output for tokens ``b n c``."""
        query, key, value = project(attn, hidden_states, encoder_hidden_states)
        if self.policy is not None:
            query, key, value = self.policy(query, key, value)
        attended = self.control(self.layer, query, key, value, int(attn.heads))
        return finish(attn, attended.reshape(*hidden_states.shape[:2], -1))


def no_policy(_: str) -> None:
    """Every frame looks at itself."""


def routed(unet: Any, policies: Policies) -> AbstractContextManager[None]:
    """Within the block, these policies hold for self-attention and nothing is controlled."""

    def choose(name: str) -> Processor | None:
        policy = policies(name) if is_self_attention(name) else None
        return None if policy is None else RoutedAttention(policy)

    return installed(unet, choose)


def controlled(
    unet: Any, control: Control, layers: tuple[str, ...], policies: Policies = no_policy
) -> AbstractContextManager[None]:
    """Within the block, layers whose name ends with one of ``layers`` are controlled, and the policies hold.

    On exit, also after an exception, every layer has the processor it had before.
    """

    def choose(name: str) -> Processor | None:
        policy = policies(name) if is_self_attention(name) else None
        if name.endswith(layers):
            return ControlledAttention(name, control, policy)
        return None if policy is None else RoutedAttention(policy)

    return installed(unet, choose)


def maps_of(query: Tensor, key: Tensor, heads: int) -> Maps:
    """Explicit attention maps of ``b n (h d)`` on ``b m (h d)``, softmax in float32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    query, key = (rearrange(x, "b n (h d) -> b h n d", h=heads).to(wide) for x in (query, key))
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1)


def apply(maps: Maps, value: Tensor) -> Tensor:
    """What maps attend to in ``b m (h d)``: ``b n (h d)``."""
    split = rearrange(value, "b m (h d) -> b h m d", h=maps.shape[1])
    attended: Tensor = rearrange(maps.to(value.dtype) @ split, "b h n d -> b n (h d)")
    return attended


def branch(tensor: Tensor, branches: int, index: int) -> Tensor:
    """One branch of a batch that holds several."""
    return tensor.chunk(branches)[index]
