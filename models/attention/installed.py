"""Lend a network other attention processors, and take them back.

A *policy* says which queries, keys and values an attention layer uses: it maps the projected tokens ``(b f) n d`` to
those that attend. It may regroup them, as long as the queries keep their order: ``b (f n) d`` lets all frames of a
branch attend together. Attention itself is computed by ``scaled_dot_product_attention``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Policy = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Processor = Callable[..., Tensor]
Choice = Callable[[str], Processor | None]


@contextmanager
def installed(unet: Any, choose: Choice) -> Iterator[None]:
    """Within the block, the attention layer ``name`` of a diffusers UNet uses ``choose(name)``; None leaves it alone.

    Names are module paths (``down_blocks.0.attentions.0.transformer_blocks.0.attn1``). On exit, also after an
    exception, every layer has the very processor it had before.
    """
    before = dict(unet.attn_processors)
    lent = {key: choose(key.removesuffix(".processor")) or processor for key, processor in before.items()}
    try:
        unet.set_attn_processor(lent)
        yield
    finally:
        unet.set_attn_processor(before)


def is_self_attention(name: str) -> bool:
    """Whether this layer of a Stable Diffusion UNet is spatial self-attention."""
    return name.endswith("attn1")


def is_cross_attention(name: str) -> bool:
    """Whether this layer of a Stable Diffusion UNet attends to the text."""
    return name.endswith("attn2")


def routed(policy: Policy, where: Callable[[str], bool] = is_self_attention) -> Choice:
    """Choose attention under this policy for the layers ``where`` holds."""
    processor = RoutedAttention(policy)
    return lambda name: processor if where(name) else None


class RoutedAttention:
    """An attention processor that asks a policy which tokens attend to which."""

    def __init__(self, policy: Policy) -> None:
        """Attend under this policy."""
        self.policy = policy

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer's output for tokens ``(b f) n d``."""
        query, key, value = self.policy(*project(attn, hidden_states, encoder_hidden_states))
        attended = attend(query, key, value, attn.heads)
        return finish(attn, attended.reshape(*hidden_states.shape[:2], -1))


def project(attn: Any, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's queries of ``tokens`` (``b n d``), and its keys and values of ``context`` (itself when absent)."""
    context = tokens if context is None else context
    return attn.to_q(tokens), attn.to_k(context), attn.to_v(context)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention, ``b n (h d)`` on ``b m (h d)``, without ever holding the ``n`` by ``m`` map."""
    query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")


def finish(attn: Any, attended: Tensor) -> Tensor:
    """The layer's output projection."""
    projected: Tensor = attn.to_out[1](attn.to_out[0](attended))
    return projected
