"""What is asked of the engine and what comes back: the seam between running jobs and editing video.

`Settings.engine` names a function `(Edit, Hooks, Settings) -> Made`; the service's own is `workers.engine:edit`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from jobs.request import PreviewOptions
from jobs.schema import Notice, StageProgress
from jobs.settings import Settings


@dataclass(frozen=True)
class Fetched:
    """An input on the worker's disk, its digest verified."""

    path: Path
    digest: str
    name: str


@dataclass(frozen=True)
class Edit:
    """One edit to perform. `salt` keeps tenants apart in the stage cache; results go into `folder`.

    `frugal` asks for a plan that needs less memory and more time.
    """

    method: str
    checkpoint: str
    params: dict[str, Any]
    inputs: dict[str, Fetched]
    container: str
    folder: Path
    salt: str
    frugal: bool = False
    preview: PreviewOptions | None = None


class StageCache(Protocol):
    """Finished stages by key. The tensors that `get` returns are the caller's own."""

    def get(self, stage: str, key: str) -> tuple[dict[str, Any], dict[str, str]] | None:
        """Return tensors and their description, or None."""
        ...

    def put(self, stage: str, key: str, tensors: dict[str, Any], meta: dict[str, str]) -> None:
        """Keep the result of a stage."""
        ...


Tensors = dict[str, Any]


class Handover(Protocol):
    """Where the state of an unfinished stage is kept, and when; see `models.resume`."""

    keeps_results: bool

    def wanted(self) -> bool:
        """Whether to stop before the next step and leave the rest to another attempt."""
        ...

    def due(self, seconds: float) -> bool:
        """Whether to keep the state now, so many seconds after it was last kept, and go on."""
        ...

    def get(self, key: str) -> tuple[Tensors, dict[str, str]] | None:
        """Return what was kept, or None."""
        ...

    def put(self, key: str, tensors: Tensors, meta: dict[str, str]) -> None:
        """Keep a state in place of an earlier one."""
        ...

    def drop(self, key: str) -> None:
        """Forget what was kept."""
        ...


@dataclass(frozen=True)
class MadeFile:
    """A file to publish, and what is known about it."""

    path: Path
    media_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    unsigned_sha256: str | None = None
    """Of the file before it was signed; None while it is not."""


def ignore_preview(file: MadeFile, step: int, steps: int) -> None:
    """Show a preview to nobody."""


@dataclass(frozen=True)
class Hooks:
    """How the engine talks to the worker while it runs.

    `tell(stage, state, step, steps)` with state `running`, `done`, `hit` or `skipped`; `cancelled()`, whether to stop
    for any reason, is asked before every step; `loading(checkpoint)` surrounds the reading of weights, which may take
    minutes without a step; an engine that can go on at a step keeps its state with `handover`; `preview(file, step,
    steps)` takes a picture of the edit under way, where the job asked for previews.
    """

    cache: StageCache
    tell: Callable[[str, str, int, int], None]
    cancelled: Callable[[], bool]
    loading: Callable[[str], AbstractContextManager[None]]
    handover: Handover
    preview: Callable[[MadeFile, int, int], None] = ignore_preview


@dataclass(frozen=True)
class Made:
    """The result of an edit. `stages` say what each verb cost, `warm` whether the weights were in memory,
    `loaded` which ones are now."""

    files: tuple[MadeFile, ...]
    stages: tuple[StageProgress, ...] = ()
    warnings: tuple[Notice, ...] = ()
    checkpoint: str | None = None
    device: str | None = None
    warm: bool | None = None
    loaded: tuple[str, ...] = ()
    gpu_seconds: float = 0.0
    peak_vram_bytes: int = 0
    receipt: dict[str, Any] = field(default_factory=dict)


Engine = Callable[[Edit, Hooks, Settings], Made]


def load_engine(name: str) -> Engine:
    """Return the function `module:function`. Raises ImportError, AttributeError or ValueError when there is none."""
    module, separator, function = name.partition(":")
    if not separator:
        raise ValueError(f"engine {name!r} is not module:function")
    engine: Engine = getattr(import_module(module), function)
    return engine
