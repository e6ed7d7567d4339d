"""Attention in phases: the source's keys and values first, then fused maps inside and outside a region.

InFusion, arXiv:2308.00135. The first phase sees the source through keys and values in all of the edit's branches; the
second is a `Follower` whose region comes from the words that differ.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from models.attention.installed import attend, is_cross_attention
from models.controls import refine, words
from models.controls.attend import branch
from models.controls.cross import CrossEdit
from models.controls.follow import Follower
from models.controls.record import Watch

VERSION = 1


@dataclass
class Phased:
    """A control: in steps ``keys[0] <= step < keys[1]`` self-attention of every branch looks at the source's tokens.

    In all other steps, and in cross-attention, it is the follower's. The loop sets the follower's ``step``.
    """

    follower: Follower
    keys: tuple[int, int]

    def borrows(self) -> bool:
        """Whether keys and values are the source's in this step."""
        return self.keys[0] <= self.follower.step < self.keys[1]

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Attend."""
        follower = self.follower
        if is_cross_attention(layer) or not self.borrows() or not follower.layers.change(query.shape[1]):
            return follower(layer, query, key, value, heads)
        if follower.source is None:
            raise ValueError("the source is not in the batch")
        lent = [branch(tokens, follower.branches, follower.source) for tokens in (key, value)]
        key, value = (torch.cat([tokens] * follower.branches) for tokens in lent)
        return attend(query, key, value, heads)


def shared_words(source: words.Tokens, target: words.Tokens, num_steps: int, start: int) -> CrossEdit:
    """From step ``start`` on, tokens both prompts have attend where the source's do, new ones where they would."""
    alpha = torch.zeros(num_steps + 1, target.length)
    alpha[start:] = 1.0
    mapper, shared = refine.mapper(source, target)
    return CrossEdit(mapper, alpha, shared)


def different_words(
    source: words.Tokens, target: words.Tokens
) -> tuple[Float[Tensor, " source"], Float[Tensor, " target"]]:
    """1 at the tokens that only the source has, and 1 at those only the target has, 0 elsewhere."""
    mapper, shared = refine.mapper(source, target)
    left = torch.ones(source.length)
    left[mapper[shared > 0]] = 0.0
    left[len(source.ids) :] = 0.0  # padding
    return left, 1 - shared


def joint_relevance(watches: list[Watch]) -> Float[Tensor, "f h w"]:
    """What several watches saw, each frame of each divided by its maximum, and of these the largest at every place.

    Its region at a threshold is the union of theirs.
    """
    seen = [watch.relevance() for watch in watches]
    tiny = torch.finfo(seen[0].dtype).tiny
    return torch.stack([one / one.amax(dim=(1, 2), keepdim=True).clamp(min=tiny) for one in seen]).amax(dim=0)
