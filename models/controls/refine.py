"""Added or changed phrases: keep the source's attention for the tokens both prompts share. arXiv:2208.01626, sec. 3.2.

The two token sequences are aligned globally (Needleman-Wunsch); a target token without a partner keeps its own map.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.controls.words import Tokens

VERSION = 1

GAP, MATCH, MISMATCH = 0, 1, -1
NEW = -1
"""Alignment of a target token that the source does not have."""


def mapper(source: Tokens, target: Tokens) -> tuple[Int[Tensor, " target"], Float[Tensor, " target"]]:
    """For each target token the source token it is aligned with (or -1), and 1 where there is one, else 0.

    Padding is aligned with the padding at the same position.
    """
    aligned = align(source.ids, target.ids)
    mapped = torch.cat([torch.tensor(aligned), torch.arange(len(aligned), target.length)])[: target.length]
    return mapped, (mapped != NEW).float()


def align(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """For each target item the index of the source item it is aligned with, or -1.

    Of alignments with equal scores the one that leaves target items new is preferred, then the one that skips source
    items, from the end of the sequences.
    """
    scores = _scores(source, target)
    aligned = [NEW] * len(target)
    i, j = len(source), len(target)
    while j > 0:
        best = scores[i][j]
        if best == scores[i][j - 1] + GAP:
            j -= 1
        elif best == scores[i - 1][j] + GAP:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return aligned


def _scores(source: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """``scores[i][j]``: the best alignment of the first ``i`` with the first ``j`` items."""
    scores = [[GAP * j for j in range(len(target) + 1)]]
    for i, item in enumerate(source, start=1):
        row = [GAP * i]
        for j, other in enumerate(target, start=1):
            diagonal = scores[i - 1][j - 1] + (MATCH if item == other else MISMATCH)
            row.append(max(row[j - 1] + GAP, scores[i - 1][j] + GAP, diagonal))
        scores.append(row)
    return scores
