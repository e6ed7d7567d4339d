"""Trajectories of tokens along optical flow. arXiv:2310.05922, sec. 3.3.

On a grid of ``h w`` tokens a frame, flow links every token to one of the next frame. Where several arrive at the same
place one is kept, drawn at random, and the others end: so every token lies in exactly one trajectory.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.attention.trajectory import Table
from models.conditions.optical_flow import Flow

VERSION = 1


def displacements(flow: Flow, grid: tuple[int, int]) -> Int[Tensor, "g rows columns 2"]:
    """Flow in whole tokens of a grid (height, width), as (rows, columns): nearest pixel, rounded half to even."""
    height, width = flow.shape[-2:]
    ratios = torch.tensor([grid[1] / width, grid[0] / height]).view(1, 2, 1, 1)
    picked = functional.interpolate(flow.float().cpu(), size=grid, mode="nearest") * ratios
    return picked.round().long().flip(1).permute(0, 2, 3, 1)


def links(
    moves: Int[Tensor, "g h w 2"],
    priority: Float[Tensor, "g n"],
    lost: Tensor | None = None,
) -> Int[Tensor, "g n"]:
    """The token of the next frame (raster index) that each token goes on to, or -1 where its trajectory ends.

    Of several tokens that arrive at one place that of the highest ``priority`` goes on; random ones draw it at random.
    Tokens that are ``lost`` (``g h w``, occluded) end.
    """
    pairs, height, width, _ = moves.shape
    rows = torch.arange(height)[:, None] + moves[..., 0]
    columns = torch.arange(width) + moves[..., 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if lost is not None:
        inside &= ~lost
    inside = inside.flatten(1)
    target = torch.where(inside, (rows * width + columns).flatten(1), 0)  # g n
    rank = torch.where(inside, priority.argsort(dim=1).argsort(dim=1), -1)
    best = torch.full((pairs, height * width), -1).scatter_reduce(1, target, rank, "amax")
    return torch.where(inside & (rank == best.gather(1, target)), target, -1)


def random_priority(pairs: int, tokens: int, seed: int) -> Float[Tensor, "g n"]:
    """Priorities for `links`, the same wherever and whenever they are drawn with this seed."""
    return torch.rand(pairs, tokens, generator=torch.Generator("cpu").manual_seed(seed))


def chain(linked: Int[Tensor, "g n"]) -> Int[Tensor, "k f"]:
    """All trajectories: for each the raster index of its token in every frame, -1 where it is not."""
    pairs, tokens = linked.shape
    index = torch.arange(tokens)
    owner, started = [index], tokens
    for source in linked:
        held = source >= 0
        following = torch.full((tokens,), -1)
        following[source[held]] = owner[-1][held]
        fresh = following < 0
        following[fresh] = started + torch.arange(int(fresh.sum()))
        started += int(fresh.sum())
        owner.append(following)
    paths = torch.full((started, pairs + 1), -1)
    for frame, ids in enumerate(owner):
        paths[ids, frame] = index
    return paths


def table(linked: Int[Tensor, "g n"], grid: tuple[int, int], *, legacy_window: int | None = None) -> Table:
    """For every token (frame-major raster) itself and the other tokens of its trajectory, as indices into ``f n``.

    The official code reads as many entries as there are frames from a longer list in which the token's neighbours in
    its own frame come first: where the longest trajectory is shorter than the clip, some of them are read too.
    ``legacy_window`` reproduces that, with neighbours up to this many tokens away.
    """
    frames, tokens = len(linked) + 1, linked.shape[1]
    paths = chain(linked)
    offsets = torch.arange(frames) * tokens
    paths = torch.where(paths >= 0, paths + offsets, -1)  # k f, in the whole clip
    own = torch.arange(frames * tokens)
    rows = torch.empty((frames * tokens, frames), dtype=torch.long)
    where = (paths >= 0).nonzero()
    rows[paths[where[:, 0], where[:, 1]]] = paths[where[:, 0]]
    others, valid = _compact(rows, (rows >= 0) & (rows != own[:, None]))
    longest = int((paths >= 0).sum(dim=1).max())
    index, mask = [own[:, None]], [torch.ones(len(own), 1, dtype=torch.bool)]
    if legacy_window is not None:
        near, seen = window(grid, frames, legacy_window)
        kept = min(max(frames - longest, 0), near.shape[1])
        index.append(near[:, near.shape[1] - kept :])
        mask.append(seen[:, near.shape[1] - kept :])
    index.append(others[:, : longest - 1])
    mask.append(valid[:, : longest - 1])
    return Table(torch.cat(index, dim=1), torch.cat(mask, dim=1))


def window(grid: tuple[int, int], frames: int, reach: int) -> tuple[Int[Tensor, "m k"], Tensor]:
    """The neighbours of every token in its own frame, raster order, at most ``reach`` away, and which entries are."""
    height, width = grid
    steps = torch.arange(-reach, reach + 1)
    around = torch.cartesian_prod(steps, steps)
    around = around[(around != 0).any(dim=1)]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))[:, None] + around  # n k 2
    inside = ((places >= 0) & (places < torch.tensor(grid))).all(dim=-1)
    index, seen = _compact(places[..., 0] * width + places[..., 1], inside)
    offsets = (torch.arange(frames) * height * width).repeat_interleave(height * width)
    return torch.where(seen.repeat(frames, 1), index.repeat(frames, 1) + offsets[:, None], 0), seen.repeat(frames, 1)


def tables(
    flow: Flow,
    grid: tuple[int, int],
    levels: int,
    seed: int,
    *,
    lost: Tensor | None = None,
    legacy_window: bool = False,
) -> Mapping[int, Table]:
    """Tables by tokens in a frame, for the ``levels`` finest grids of a network whose latents are ``grid`` large."""
    made: dict[int, Table] = {}
    for level in range(levels):
        priority = random_priority(len(flow), grid[0] * grid[1], seed + level)
        gone = None if lost is None else functional.interpolate(lost[:, None].float(), size=grid)[:, 0] > 0
        linked = links(displacements(flow, grid), priority, gone)
        reach = (2 if level == 0 else 1) if legacy_window else None
        made[grid[0] * grid[1]] = table(linked, grid, legacy_window=reach)
        grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return made


def _compact(index: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Valid entries of each row first, in their order; the others 0."""
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    valid = valid.gather(1, order)
    return torch.where(valid, index.gather(1, order), 0), valid
