"""Control of cross-attention maps: replace or refine, then reweight, while the schedule says so.

Prompt-to-Prompt, arXiv:2208.01626, sec. 3.2. Edited rows no longer sum to one; as in the published code they are not
normalised again.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from models.controls import refine, replace, reweight, words
from models.guidance import cfg
from models.params import param

VERSION = 1

Maps = Float[Tensor, "... q n"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Params(cfg.Params):
    """What of the source's cross-attention the edit keeps."""

    source_prompt: str = param(..., min_length=1, max_length=2000, stage="invert", widget="prompt")
    """What the source clip shows; words it shares with the prompt keep their place."""
    control: Literal["auto", "replace", "refine"] = param("auto", stage="edit")
    """Swap words one for one (replace), or keep shared words and add others (refine); auto: by the number of words."""
    cross_replace_until: float = param(0.8, ge=0, le=1, stage="edit", widget="slider")
    """Fraction of denoising during which words attend to where the source's do; more keeps the layout."""
    cross_replace_words: dict[Word, Fraction | tuple[Fraction, Fraction]] = param(
        {}, stage="edit", advanced=True, examples=[{"red": 0.4, "bear": [0.1, 0.6]}]
    )
    """The same for single words of the prompt: until a fraction, or from one to another."""
    reweight: dict[Word, Annotated[float, Field(ge=-20, le=20)]] = param(
        {}, stage="edit", advanced=True, examples=[{"red": 2.0}]
    )
    """Factors for words of the prompt: above 1 stronger, below weaker, negative away from it."""
    legacy_alignment: bool = param(False, stage="edit", advanced=True)
    """Behind a swapped word of another number of tokens, pair equal positions as the published code does."""

    @model_validator(mode="after")
    def words_are_there(self) -> Self:
        """Words that are named must be in the prompt, and a swap needs as many words on both sides."""
        for phrase in (*self.cross_replace_words, *self.reweight):
            words.require(self.prompt, phrase)
        before, after = len(self.source_prompt.split()), len(self.prompt.split())
        if self.control == "replace" and before != after:
            raise ValueError(f"control 'replace' needs as many words in both prompts, not {before} and {after}")
        return self


@dataclass(frozen=True)
class CrossEdit:
    """How cross-attention maps of the edit are made from those of the source.

    ``mapper`` is the matrix of `replace.mapper`, or the alignment of `refine.mapper` with ``shared`` (1 for tokens both
    prompts have). ``factors`` scale columns. ``alpha[step, token]`` is how much of it is used.
    """

    mapper: Float[Tensor, "source target"] | Int[Tensor, " target"]
    alpha: Float[Tensor, "steps tokens"]
    shared: Float[Tensor, " target"] | None = None
    factors: Float[Tensor, " target"] | None = None

    def active(self, step: int) -> bool:
        """Whether anything is changed in this step (counted from the noisiest)."""
        return bool(self.alpha[step].any())

    def __call__(self, source: Maps, target: Maps, step: int) -> Maps:
        """The edit's maps in this step."""
        mapper, alpha = self.mapper.to(source.device), self.alpha[step].to(source)
        if self.shared is None:
            mapped = source @ mapper.to(source.dtype)
        else:
            shared = self.shared.to(source)
            mapped = source[..., mapper] * shared + target * (1 - shared)
        if self.factors is not None:
            mapped = mapped * self.factors.to(source)
        return alpha * mapped + (1 - alpha) * target


def cross_edit(tokenizer: Any, p: Params, num_steps: int) -> CrossEdit:
    """The control these parameters ask for. InvalidParams when a named word is beyond what the encoder reads."""
    source, target = words.tokenise(tokenizer, p.source_prompt), words.tokenise(tokenizer, p.prompt)
    alpha = words.cross_schedule(num_steps, p.cross_replace_until, target, p.cross_replace_words)
    factors = reweight.equalizer(target, p.reweight) if p.reweight else None
    same_count = len(source.words) == len(target.words)
    if p.control == "replace" or (p.control == "auto" and same_count):
        return CrossEdit(replace.mapper(source, target, shift_tail=not p.legacy_alignment), alpha, None, factors)
    mapper, shared = refine.mapper(source, target)
    return CrossEdit(mapper, alpha, shared, factors)
