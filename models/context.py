"""What a stage may use while it runs: the backbone, random numbers, progress and cancellation, cached conditions."""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from models.backbones.backbone import Backbone
from models.digest import digest_json
from models.errors import Cancelled
from models.params import Stage
from models.resume import Loops
from models.schedules.estimates import Watch
from models.types import Clip, File, Frames

Item = TypeVar("Item")
PREVIEW_FRAMES = 4
"""Frames of a clip that a preview decodes: enough to see the motion, few enough to cost little."""


class Cache(Protocol):
    """Where finished stages are kept. Tensors handed out are the caller's own: writing to them reaches nobody else."""

    def get(self, stage: str, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The stored tensors and description, or None."""

    def put(self, stage: str, key: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
        """Store the result of a stage under its key."""


@runtime_checkable
class Estimator(Protocol):
    """A per-frame signal computed from a clip (depth, edges, pose, flow …); ``VERSION`` in its module is in the key."""

    __module__: str
    __qualname__: str

    def __call__(self, clip: Clip) -> Tensor:
        """Compute the signal; the first axis is the frame."""


class NoCache:
    """Keeps nothing: every stage is computed."""

    def get(self, stage: str, key: str) -> None:
        """Find nothing."""

    def put(self, stage: str, key: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
        """Store nothing."""


class MemoryCache:
    """Keeps every stage in memory: for one process that edits a clip several times, and for tests."""

    def __init__(self) -> None:
        """Start empty."""
        self.stored: dict[tuple[str, str], tuple[dict[str, Tensor], dict[str, str]]] = {}

    def get(self, stage: str, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """A private copy of what was stored, or None."""
        found = self.stored.get((stage, key))
        return None if found is None else ({name: t.clone() for name, t in found[0].items()}, dict(found[1]))

    def put(self, stage: str, key: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
        """Keep a private copy."""
        self.stored[(stage, key)] = ({name: t.detach().clone() for name, t in tensors.items()}, dict(meta))


@dataclass(frozen=True)
class Warned:
    """Something the caller should know although the edit goes on: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Preview:
    """Shows what a loop has come to after every so many steps: ``show(frames, step, steps)``, frames ``f c h w``.

    The frames are a few of the clip, evenly spaced, decoded from the step's own clean estimate; nothing else is
    computed, and nothing of the edit depends on it.
    """

    every_steps: int
    show: Callable[[Frames, int, int], None]
    watch: Watch = field(default_factory=Watch)

    def begin(self, step: int, steps: int) -> None:
        """Before step number ``step`` (from 1): want its estimate if it is due; the last one is the edit itself."""
        self.watch.wanted, self.watch.newest = step % self.every_steps == 0 and step < steps, None

    def end(self, backbone: Backbone, step: int, steps: int) -> None:
        """After it: decode and show the estimate, if there is one of a clip."""
        x0, self.watch.newest = self.watch.newest, None
        if x0 is None or x0.ndim != 5:
            return
        count = x0.shape[2]
        picked = torch.linspace(0, count - 1, min(PREVIEW_FRAMES, count)).round().long()
        self.show(backbone.decode_latents(x0[-1:, :, picked]), step, steps)


@dataclass(frozen=True)
class Context:
    """Handed to every verb, one per stage.

    ``report(step, steps, label)`` and ``cancelled()`` come from whoever runs the engine; ``inputs`` are the caller's
    files by field name; ``clip_key`` identifies the prepared clip in the cache; ``loops`` are those of this stage.
    """

    backbone: Backbone
    stage: Stage
    inputs: dict[str, File | tuple[File, ...]] = field(default_factory=dict)
    report: Callable[[int, int, str], None] = lambda step, steps, label: None
    cancelled: Callable[[], bool] = lambda: False
    cache: Cache = field(default_factory=NoCache)
    clip_key: str = ""
    warnings: list[Warned] = field(default_factory=list)
    preview: Preview | None = None
    loops: Loops = field(default_factory=Loops)

    def generator(self, seed: int) -> torch.Generator:
        """A fresh CPU generator for this seed, salted with the stage so that a cache hit changes no later number."""
        salted = hashlib.sha256(f"{self.stage}:{seed}".encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(salted[:8], "little") >> 1)

    def steps(self, items: Iterable[Item], state: object, label: str = "") -> Iterator[Item]:
        """Yield the items, reporting each as one step of this stage; raise Cancelled before the next if asked to stop.

        ``state`` is a dataclass that holds all that one step hands to the next (see `models.resume`). Where an earlier
        run of this stage was stopped and its state kept, the first item is the one it stopped at and ``state`` is what
        it was there.
        """
        listed = list(items)
        for index in range(self.loops.enter(state, len(listed)), len(listed)):
            self.check()
            if self.loops.before(index):
                raise Cancelled(f"the edit was handed over before step {index + 1} of {len(listed)}")
            self.report(index, len(listed), label)
            if self.preview is None or self.stage != "edit":
                yield listed[index]
                continue
            self.preview.begin(index + 1, len(listed))
            yield listed[index]
            self.preview.end(self.backbone, index + 1, len(listed))
        self.loops.leave()
        self.report(len(listed), len(listed), label)

    def check(self) -> None:
        """Raise Cancelled if the caller asked to stop."""
        if self.cancelled():
            raise Cancelled("the edit was stopped on request")

    def warn(self, code: str, message: str) -> None:
        """Tell the caller something without stopping; stored with the stage, so that a cache hit tells it again."""
        self.warnings.append(Warned(code, message))

    def condition(self, estimator: Estimator, clip: Clip, about: Mapping[str, str | float] | None = None) -> Tensor:
        """``estimator(clip)``, cached by the estimator's name and VERSION and the prepared clip, for all methods.

        ``about`` is what the signal depends on beside them: thresholds, the digest of a network's weights.
        """
        name = f"{estimator.__module__}:{estimator.__qualname__}"
        version = getattr(importlib.import_module(estimator.__module__), "VERSION", 1)
        more = {"about": dict(about)} if about else {}
        key = digest_json({"condition": name, "version": version, "clip": self.clip_key, **more})
        stored = self.cache.get("condition", key) if self.clip_key else None
        if stored is not None:
            return stored[0]["value"]
        self.check()
        value = estimator(clip)
        if self.clip_key:
            self.cache.put("condition", key, {"value": value}, {"condition": name})
        return value
