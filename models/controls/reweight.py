"""Louder or quieter words: scale the columns of the edited cross-attention map. arXiv:2208.01626, sec. 3.2."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from models.controls.words import Tokens

VERSION = 1


def equalizer(target: Tokens, weights: Mapping[str, float]) -> Float[Tensor, " tokens"]:
    """A factor for each token: that of the word it belongs to, 1 for words not named."""
    factors = torch.ones(target.length)
    for word, weight in weights.items():
        factors[target.positions(word)] = weight
    return factors
