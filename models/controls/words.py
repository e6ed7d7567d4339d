"""From words to tokens: which attention columns a word of the prompt owns, and while which steps.

Words are the pieces between white space, as people write them; a tokenizer may split a word into several tokens or
drop its punctuation. Nothing here depends on a particular tokenizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.errors import InvalidParams

VERSION = 1

Window = float | tuple[float, float]
"""Fractions of denoising: active from the start until this one, or between these two."""


@dataclass(frozen=True)
class Tokens:
    """A tokenised prompt: ``ids`` with begin and end but no padding, its ``words``, and the positions of each word."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    length: int
    """Tokens after padding: columns of a cross-attention map."""

    def positions(self, phrase: str) -> list[int]:
        """Positions of every occurrence of a word or phrase (see `find`).

        InvalidParams when the prompt does not hold it, or holds it beyond what the text encoder reads.
        """
        found = [p for word in find(self.words, phrase) for p in self.spans[word]]
        if not found:
            raise InvalidParams(f"{phrase!r} is not in what is read of {' '.join(self.words)!r}")
        return found


def find(words: Sequence[str], phrase: str) -> list[int]:
    """Indices of the words of every occurrence of a phrase, without regard to case or to punctuation around words."""
    wanted, bare = [_bare(word) for word in phrase.split()], [_bare(word) for word in words]
    starts = [i for i in range(len(bare)) if wanted and bare[i : i + len(wanted)] == wanted]
    return [i for start in starts for i in range(start, start + len(wanted))]


def require(prompt: str, phrase: str) -> None:
    """ValueError, for a parameter's validator, when the prompt does not hold the word or phrase."""
    if not find(prompt.split(), phrase):
        raise ValueError(f"{phrase!r} is not in the prompt {prompt!r}; name words as the prompt has them")


def tokenise(tokenizer: Any, prompt: str) -> Tokens:
    """Tokenise a prompt as `Backbone.encode_text` does: cut to what the text encoder reads.

    Each word is tokenised by itself to count its tokens: tokenizers split at white space before anything else.
    """
    length = int(tokenizer.model_max_length)
    cut = tokenizer(prompt, truncation=True, max_length=length, return_special_tokens_mask=True)
    ids, special = cut.input_ids, cut.special_tokens_mask
    words = prompt.split()
    counts = [len(tokenizer(word, add_special_tokens=False).input_ids) for word in words]
    if sum(counts) != len(tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids):
        raise InvalidParams(f"the tokenizer joins words of the prompt {prompt!r}; word-wise control is not possible")
    begin = next((i for i, mark in enumerate(special) if not mark), 0)
    ends = list(accumulate(counts, initial=begin))
    spans = [range(start, end) for start, end in pairwise(ends)]
    last = len(ids) - 1  # the end token
    kept = tuple(tuple(p for p in span if p < last) for span in spans)
    return Tokens(tuple(ids), tuple(words), kept, length)


def window(fractions: Window, total: int) -> tuple[int, int]:
    """Steps ``[start, end)`` of a window given as fractions of ``total`` steps; fractions of a step are cut off."""
    start, end = fractions if isinstance(fractions, tuple) else (0.0, fractions)
    return int(start * total), int(end * total)


def schedule(
    num_steps: int, until: Window, length: int, words: Sequence[tuple[Sequence[int], Window]] = ()
) -> Float[Tensor, "steps tokens"]:
    """``alpha[step, token]``: 1 while the source's map is used for this token, 0 after.

    ``until`` holds for all tokens, ``words`` (positions, window) for some. As in the published code the table has a row
    more than there are steps, and fractions are of that number.
    """
    alpha = torch.zeros(num_steps + 1, length)
    for positions, fractions in [(range(length), until), *words]:
        start, end = window(fractions, num_steps + 1)
        columns = torch.tensor(list(positions), dtype=torch.long)
        alpha[:, columns] = 0.0
        alpha[start:end, columns] = 1.0
    return alpha


def cross_schedule(
    num_steps: int, until: Window, target: Tokens, words: Mapping[str, Window]
) -> Float[Tensor, "steps tokens"]:
    """`schedule` with words of the target prompt by name."""
    return schedule(num_steps, until, target.length, [(target.positions(word), at) for word, at in words.items()])


def phrases(listed: str) -> list[str]:
    """Words or phrases with commas between."""
    return [phrase.strip() for phrase in listed.split(",") if phrase.strip()]


def columns(tokens: Tokens, listed: str) -> Float[Tensor, " tokens"]:
    """1 at the tokens of the listed words (see `phrases`), 0 elsewhere."""
    chosen = torch.zeros(tokens.length)
    for phrase in phrases(listed):
        chosen[tokens.positions(phrase)] = 1.0
    return chosen


def _bare(word: str) -> str:
    stripped = word.strip(".,;:!?\"'()[]").casefold()
    return stripped or word
