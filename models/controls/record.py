"""What is remembered of the source while an edit runs: never a map, only what maps are made of, and where words are.

All maps of 50 steps take tens of gigabytes. The source's latents are in the trajectory, so its maps can be had again.
"""

from dataclasses import dataclass, field
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from models.attention.installed import attend, is_cross_attention
from models.controls import blend, words
from models.controls.attend import Maps, maps_of

VERSION = 1

MAX_QUERIES = 32 * 32
"""Layers with more queries than this keep their own maps in the published code."""


@dataclass(frozen=True)
class Layers:
    """Which layers are changed and which show where a word is, for latents of this height and width.

    Changed are those with at most ``max_queries`` queries (None: all). Words show in those whose grid is the latents'
    divided by ``blend_ratio`` (None: `blend.ratio`).
    """

    height: int
    width: int
    max_queries: int | None = MAX_QUERIES
    blend_ratio: int | None = None

    def show_words(self, queries: int) -> bool:
        """Whether cross maps with this many queries are used to find regions."""
        ratio = self.blend_ratio or blend.ratio(self.height, self.width)
        return queries == -(-self.height // ratio) * -(-self.width // ratio)

    def change(self, queries: int) -> bool:
        """Whether maps with this many queries may be changed."""
        return self.max_queries is None or queries <= self.max_queries

    def grid(self, queries: int) -> tuple[int, int]:
        """Height and width of a layer with this many queries."""
        return blend.grid(queries, self.height, self.width)


@dataclass
class Watch:
    """How much each place of each frame attends to some words: a running sum over layers and steps (``f q``)."""

    layers: Layers
    columns: Float[Tensor, " tokens"]
    total: Tensor | None = None

    def see(self, maps: Maps) -> None:
        """Add one layer's cross maps (``f heads q n``), averaged over heads."""
        seen = blend.attended(maps, self.columns).mean(dim=1)
        self.total = seen if self.total is None else self.total + seen

    def clear(self) -> None:
        """Forget what was seen."""
        self.total = None

    def relevance(self) -> Float[Tensor, "f h w"]:
        """The sum as one picture a frame."""
        if self.total is None:
            raise ValueError("no cross-attention layer has been seen")
        height, width = self.layers.grid(self.total.shape[1])
        return rearrange(self.total, "f (h w) -> f h w", h=height, w=width)


def watch(tokenizer: Any, layers: Layers, prompt: str, listed: str) -> Watch | None:
    """A watch for the listed words of a prompt (see `words.phrases`), None when there are none."""
    if not words.phrases(listed):
        return None
    return Watch(layers, words.columns(words.tokenise(tokenizer, prompt), listed))


@dataclass
class Recorder:
    """A control for the source alone: attention as it is, while queries and keys of one step are kept for the edit."""

    layers: Layers
    watch: Watch | None = None
    kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin a step: the watch forgets the one before."""
        if self.watch is not None:
            self.watch.clear()

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Attend; keep queries and keys of a layer that is changed, and let the watch see a cross map."""
        if self.layers.change(query.shape[1]):
            self.kept[layer] = (query, key)
        if self.watch is not None and is_cross_attention(layer) and self.layers.show_words(query.shape[1]):
            self.watch.see(maps_of(query, key, heads))
        return attend(query, key, value, heads)
