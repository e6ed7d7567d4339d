"""The edit follows the source: its attention maps are made from the source's while the schedule says so.

The source is a branch of the same batch, or it went through the network before and left its queries and keys
(`Recorder`). Either way a map lives no longer than its layer. Cross maps are explicit. Self- and temporal maps taken
from the source, whole or row by row, never are: attention is linear in the values, so what a row attends to is
exchanged instead of the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from models.attention.installed import attend, is_cross_attention
from models.controls import blend
from models.controls.attend import apply, branch, maps_of
from models.controls.cross import CrossEdit
from models.controls.record import Layers, Watch

VERSION = 1


@dataclass
class Follower:
    """A control for a batch of ``branches`` of which the last is the edit.

    ``source`` is the source's place in the batch; with None, ``kept`` holds its queries and keys. In steps
    ``rows[0] <= step < rows[1]`` the edit's self- or temporal attention is the source's, except inside a region: where
    ``inside``, relevance (``f h w``) and threshold, is given. Watches see the cross maps of source and edit, the
    edit's as they were or (``watch_edited``) as they became. The loop sets ``step``, and what changes with it.
    """

    layers: Layers
    cross: CrossEdit
    rows: tuple[int, int] = (0, 0)
    branches: int = 2
    source: int | None = None
    kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    inside: tuple[Tensor, float] | None = None
    source_watch: Watch | None = None
    edit_watch: Watch | None = None
    watch_edited: bool = True
    step: int = 0

    def copies_rows(self) -> bool:
        """Whether self- or temporal attention follows the source in this step."""
        return self.rows[0] <= self.step < self.rows[1]

    def needs_source(self) -> bool:
        """Whether anything of the source is used or watched in this step."""
        return self.copies_rows() or self.cross.active(self.step) or self.source_watch is not None

    def state_dict(self) -> dict[str, Tensor | None]:
        """What the watches have seen: all that one step leaves to the next."""
        watches = {"source": self.source_watch, "edit": self.edit_watch}
        return {name: watch.total for name, watch in watches.items() if watch is not None}

    def load_state_dict(self, state_dict: Mapping[str, Tensor | None]) -> None:
        """Let the watches have seen that."""
        for name, watch in (("source", self.source_watch), ("edit", self.edit_watch)):
            if watch is not None:
                watch.total = state_dict[name]

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Attend; the last branch as the control says."""
        queries = query.shape[1]
        changed = self.layers.change(queries)
        if is_cross_attention(layer):
            watched = self.edit_watch is not None and self.layers.show_words(queries)
            control = self._cross if watched or (changed and self.cross.active(self.step)) else None
        else:
            control = self._rows if changed and self.copies_rows() else None
        if control is None:
            return attend(query, key, value, heads)
        own = len(query) // self.branches
        edited = control(layer, query, key, value[-own:], heads)
        if self.branches == 1:
            return edited
        return torch.cat([attend(query[:-own], key[:-own], value[:-own], heads), edited])

    def _source(self, layer: str, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The source's queries and keys."""
        if self.source is None:
            return self.kept[layer]
        return branch(query, self.branches, self.source), branch(key, self.branches, self.source)

    def _edit(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The edit's own queries and keys."""
        return branch(query, self.branches, -1), branch(key, self.branches, -1)

    def _cross(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """What the edit attends to in the text."""
        queries = query.shape[1]
        changed = self.layers.change(queries) and self.cross.active(self.step)
        watched = self.layers.show_words(queries)
        maps = became = maps_of(*self._edit(query, key), heads)
        if changed or (watched and self.source_watch is not None):
            source = maps_of(*self._source(layer, query, key), heads)
            became = self.cross(source, maps, self.step) if changed else maps
            if watched and self.source_watch is not None:
                self.source_watch.see(source)
        if watched and self.edit_watch is not None:
            self.edit_watch.see(became if self.watch_edited else maps)
        return apply(became, value)

    def _rows(self, layer: str, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """What the source's rows attend to in the edit's values; inside the region, what the edit's own do."""
        followed = attend(*self._source(layer, query, key), value, heads)
        if self.inside is None:
            return followed
        relevance, threshold = self.inside
        region = blend.region(relevance, self.layers.grid(query.shape[1]), threshold)
        own = attend(*self._edit(query, key), value, heads)
        return torch.where(rearrange(region, "f h w -> f (h w) 1"), own, followed)
