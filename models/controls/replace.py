"""Word swap: carry the source's cross-attention columns to the words that took their place. arXiv:2208.01626, sec. 3.2.

Prompts must have the same number of words. Where a word and its replacement have different numbers of tokens, the
attention of the source's tokens is shared evenly among the target's, so that none is lost.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from models.controls.words import Tokens
from models.errors import InvalidParams

VERSION = 1


def mapper(source: Tokens, target: Tokens, *, shift_tail: bool = True) -> Float[Tensor, "source target"]:
    """Matrix ``m`` such that ``source_map @ m`` has the target's columns.

    ``shift_tail=False`` is the published code's behaviour: behind the last swapped word it pairs equal positions, which
    is one word off when the swap changed the number of tokens. InvalidParams when the numbers of words differ.
    """
    if len(source.words) != len(target.words):
        raise InvalidParams(
            f"a word swap needs as many words in both prompts, not {len(source.words)} and {len(target.words)}",
            hint='use control "refine", or write the prompts word for word',
        )
    length = target.length
    swapped = [
        (s, t)
        for s, t, before, after in zip(source.spans, target.spans, source.words, target.words, strict=True)
        if before != after and s and t
    ]
    matrix = torch.zeros(length, length)
    i = j = 0
    for s, t in swapped:
        _pair(matrix, range(i, s[0]), range(j, t[0]))
        same = len(s) == len(t)
        matrix[s[0] : s[-1] + 1, t[0] : t[-1] + 1] = torch.eye(len(s)) if same else 1 / len(t)
        i, j = s[-1] + 1, t[-1] + 1
    _pair(matrix, range(i if shift_tail else j, length), range(j, length))
    return matrix


def _pair(matrix: Tensor, rows: range, columns: range) -> None:
    """Pair positions in order; columns left over share the last row (padding is all alike)."""
    for k, column in enumerate(columns):
        matrix[rows[min(k, len(rows) - 1)] if rows else column, column] = 1.0
