"""Attention along trajectories, after dense attention: tokens of one moving thing look at each other.

arXiv:2310.05922, eq. 6 and 7.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from models.attention.installed import Choice, attend, finish, is_self_attention, project

VERSION = 1

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]

GATHERED = 2**24
"""Key and value elements, or map entries, held at a time (float32: 64 MiB)."""


@dataclass(frozen=True)
class Table:
    """For each of ``f n`` tokens of a clip the tokens it looks at, and which entries are real; the first is itself."""

    index: Int[Tensor, "m k"]
    mask: Bool[Tensor, "m k"]


def along(query: Tensor, key: Tensor, value: Tensor, table: Table, heads: int) -> Tensor:
    """Multi-head attention of every token ``b (f n) (h d)`` on the tokens of its row of the table."""
    rows = max(1, GATHERED // (table.index.shape[1] * query.shape[0] * query.shape[2]))
    index, mask = table.index.to(query.device), table.mask.to(query.device)
    done = []
    for part, seen, valid in zip(query.split(rows, dim=1), index.split(rows), mask.split(rows), strict=True):
        asked = rearrange(part, "b m (h d) -> b m h 1 d", h=heads)
        keys, values = (rearrange(x[:, seen], "b m k (h d) -> b m h k d", h=heads) for x in (key, value))
        attended = functional.scaled_dot_product_attention(asked, keys, values, attn_mask=valid[None, :, None, None])
        done.append(rearrange(attended, "b m h 1 d -> b m (h d)"))
    return torch.cat(done, dim=1)


def written_out(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """`attend` with the maps written out, rows at a time: slower, and rounds as the published numbers do."""
    query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query, key, value))
    rows = max(1, GATHERED // (query.shape[0] * heads * key.shape[2]))
    scale, keys = query.shape[-1] ** -0.5, key.transpose(-1, -2)
    done = [(part @ keys * scale).softmax(dim=-1) @ value for part in query.split(rows, dim=2)]
    return rearrange(torch.cat(done, dim=2), "b h n d -> b n (h d)")


class TrajectoryAttention:
    """Dense attention over all frames, then, on grids that have a table, attention along trajectories."""

    def __init__(
        self, frames: int, tables: Mapping[int, Table], *, old_qk: bool = False, dense: Attend = attend
    ) -> None:
        """Serve clips of this many frames; ``tables`` by tokens in a frame.

        ``old_qk`` lets trajectories look with the layer's queries and keys instead of what dense attention put out;
        ``dense`` computes the latter.
        """
        self.frames, self.tables, self.old_qk, self.dense = frames, tables, old_qk, dense

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer's output for tokens ``(b f) n c``."""
        clips = [rearrange(x, "(b f) n d -> b (f n) d", f=self.frames) for x in project(attn, hidden_states)]
        attended = self.dense(clips[0], clips[1], clips[2], attn.heads)
        table = self.tables.get(hidden_states.shape[1])
        if table is not None:
            query, key = clips[:2] if self.old_qk else (attended, attended)
            attended = along(query, key, attended, table, attn.heads)
        return finish(attn, rearrange(attended, "b (f n) d -> (b f) n d", f=self.frames))


def along_trajectories(
    frames: int,
    tables: Mapping[int, Table],
    *,
    old_qk: bool = False,
    where: Callable[[str], bool] = is_self_attention,
) -> Choice:
    """Choose dense attention followed by attention along trajectories for the layers ``where`` holds."""
    processor = TrajectoryAttention(frames, tables, old_qk=old_qk)
    return lambda name: processor if where(name) else None
