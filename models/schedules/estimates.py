"""What a loop has come to so far: the newest clean estimate that a sampler's step computed, for whoever shows previews.

Every step computes ``x0`` anyway and tells it here; unless someone watches, nothing is kept. A loop needs to know
nothing of it. Where source and edit are stepped one after the other, the edit comes last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Watch:
    """Keeps the newest estimate while `wanted`."""

    wanted: bool = False
    newest: Tensor | None = None


_watch: ContextVar[Watch | None] = ContextVar("estimates", default=None)


def tell(x0: Tensor) -> None:
    """Take an estimate of the clean latents, any shape; kept by reference, and only while one is wanted."""
    watch = _watch.get()
    if watch is not None and watch.wanted:
        watch.newest = x0.detach()


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Let this watch hear of estimates inside the block; None watches nothing."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
