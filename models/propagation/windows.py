"""Temporal co-denoising: a long clip in overlapping windows that agree after every step. arXiv:2305.18264, eq. 7 and 9.

Any method that can move a short clip one step can move a long one: each window is moved by itself, and a frame becomes
the mean of what the windows that hold it made of it, which is the closest clip to all of them (least squares). Only one
window is in the network at a time, so that memory does not grow with the clip.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from models.params import Params as BaseParams
from models.params import param
from models.types import Latents

VERSION = 1

Window = tuple[int, int]
"""First frame and the one after the last."""


class Params(BaseParams):
    """How the clip is divided."""

    window: int = param(16, ge=2, le=256, stage="fit", unit="frames")
    """Frames that are denoised together; a shorter clip is one window."""
    window_stride: int = param(4, ge=1, le=256, stage="fit", unit="frames")
    """Frames between the starts of two windows: smaller joins them more firmly and costs more."""


def windows(frames: int, size: int, stride: int, *, cover_tail: bool = True) -> list[Window]:
    """Windows of ``size`` frames (the clip's, when it is shorter), ``stride`` apart, the last one ending with the clip.

    Without ``cover_tail`` frames that no full stride reaches are in no window, as in the official code.
    """
    size = min(size, frames)
    stride = min(stride, size)  # no frame is left out between two windows
    starts = list(range(0, frames - size + 1, stride))
    if cover_tail and starts[-1] + size < frames:
        starts.append(frames - size)
    return [(start, start + size) for start in starts]


def merged(latents: Latents, over: Sequence[Window], move: Callable[[Latents, int], Latents]) -> Latents:
    """The mean, frame by frame, of ``move(window's latents, number of the window)``.

    Frames in no window become zero. The sum is in float32 or wider.
    """
    wide = torch.promote_types(latents.dtype, torch.float32)
    total = torch.zeros_like(latents, dtype=wide)
    count = torch.zeros(latents.shape[2], dtype=wide, device=latents.device)
    for number, (start, end) in enumerate(over):
        total[:, :, start:end] += move(latents[:, :, start:end], number).to(wide)
        count[start:end] += 1
    return total / count.clamp(min=1).view(-1, 1, 1)


def co_denoised(denoise: Callable[..., Tensor], over: Sequence[Window]) -> Callable[..., Tensor]:
    """A short clip's ``denoise(latents, t, …)`` as one for long clips: what it puts out is averaged over the windows.

    For any step that is affine in the network's output (DDIM without noise) this equals averaging the next latents, so
    that a method whose loop knows nothing of windows becomes one for long clips.
    """
    return lambda latents, *rest: merged(latents, over, lambda part, number: denoise(part, *rest))


def prompt_of(windows: int, prompts: int, size: int, stride: int) -> list[int]:
    """Which of several prompts along time each window has.

    Between prompt i and the next lie ``size // stride - 1`` entries, the first half of which, and one more, belong to
    prompt i. The published clips have as many windows as entries; other numbers are spread evenly over them.
    """
    gap = max(size // stride - 1, 0)
    entries = [i + (entry > gap // 2 + 1) for i in range(prompts - 1) for entry in range(gap + 1)] + [prompts - 1]
    last = max(windows - 1, 1)
    return [entries[round(window * (len(entries) - 1) / last)] for window in range(windows)]


def smoothed(latents: Latents, rounds: int = 5, rate: float = 0.001) -> Latents:
    """Each frame pulled a little towards the one before it, several times over, earlier frames first."""
    frames = list(latents.unbind(dim=2))
    for _ in range(rounds):
        for later in range(1, len(frames)):
            frames[later] = frames[later] + rate * (frames[later - 1] - frames[later])
    return torch.stack(frames, dim=2)


def drawn(over: Sequence[Window], generator: torch.Generator) -> Iterator[Window]:
    """Windows at random, without end: what a tuning sees of a long clip."""
    while True:
        yield over[int(torch.randint(len(over), (), generator=generator))]
