"""Loops that stop at a step and go on at it elsewhere, bit for bit as if nothing had happened.

A loop over `Context.steps` carries everything from one step to the next in one mutable dataclass, its state. When the
caller hands the work over, and now and then against a crash, the state is packed into tensors and JSON and kept under
the key of the unfinished stage; the next run of that stage begins at that step with that state.

When a state is restored its values (tensors, numbers, text, lists, tuples, dicts) are replaced, and what others hold on
to is changed in place: generators, parameters, and whatever has ``state_dict`` and ``load_state_dict``.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.types import Latents

FORMAT = "1"
WORTH_SECONDS = 5.0
"""The result of a stage that is stored nowhere else is kept when it took at least this long."""

Packed = tuple[dict[str, Tensor], dict[str, str]]


@dataclass
class Sampling:
    """The state of a loop that moves latents (``b c f h w``), with the generator it draws from, if any."""

    latents: Latents
    generator: torch.Generator | None = None


@runtime_checkable
class Stateful(Protocol):
    """An optimiser, a gradient scaler, a control: something a state holds that can say and take back how it stands."""

    def state_dict(self) -> Mapping[Any, Any]:
        """How it stands."""

    def load_state_dict(self, state_dict: Any) -> object:
        """Stand like this."""


class Handover(Protocol):
    """Where unfinished work is kept, and when. Tensors handed out by `get` are the caller's own."""

    keeps_results: bool
    """Whether finished stages are to be kept here too, since the cache does not keep them."""

    def wanted(self) -> bool:
        """Whether to stop before the next step and leave the rest to another run."""

    def due(self, seconds: float) -> bool:
        """Whether to keep the state now, so many seconds after it was last kept, and go on."""

    def get(self, key: str) -> Packed | None:
        """What was kept, or None."""

    def put(self, key: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
        """Keep a state in place of an earlier one."""

    def drop(self, key: str) -> None:
        """Forget what was kept, if anything."""


class Loops:
    """The loops of one stage, told apart by their order. ``spent()`` counts the UNet frame-evals of this run so far."""

    def __init__(
        self,
        handover: Handover | None = None,
        key: str = "",
        device: torch.device | str = "cpu",
        spent: Callable[[], int] = lambda: 0,
    ) -> None:
        """Begin a stage; without ``handover`` nothing is kept or found."""
        self.handover, self.key, self.device, self.spent = handover, key, device, spent
        self.resumed_frame_evals, self.resumed_seconds = 0, 0.0
        self._evals, self._begun = spent(), time.monotonic()
        self._kept_at = self._begun
        self._finished: dict[str, Packed] = {}
        self._open: tuple[object, int] | None = None
        self._count, self._first = 0, 0

    def enter(self, state: object, steps: int) -> int:
        """Begin the next loop; returns how many of its steps are done, with ``state`` as it was after them."""
        if self._open is not None:
            raise RuntimeError("a loop over ctx.steps must be run to its end before the next begins")
        self._open, self._first = (state, steps), 0
        found = self.handover.get(self._name()) if self.handover is not None else None
        if found is None or not _fits(found[1], state, steps):
            return 0
        tensors, meta = found
        restore(state, tensors, json.loads(meta["state"]), self.device)
        self.resumed_frame_evals, self.resumed_seconds = int(meta["frame_evals"]), float(meta["seconds"])
        self._evals, self._begun = self.spent(), time.monotonic()
        self._first = int(meta["step"])
        return self._first

    def before(self, step: int) -> bool:
        """Called between two steps: keep the state when it is due. True when the caller must stop here."""
        if self.handover is None:
            return False
        stop = self.handover.wanted()
        if stop or self.handover.due(time.monotonic() - self._kept_at):
            self.keep()
            if step > self._first:
                self.handover.put(self._name(), *self._packed(step))
        return stop

    def leave(self) -> None:
        """End the loop: its last state is kept if a later loop of the stage must stop."""
        if self.handover is not None and self._open is not None and self._first < self._open[1]:
            self._finished[self._name()] = self._packed(self._open[1])
        self._open = None
        self._count += 1

    def keep(self) -> None:
        """Keep the last states of the loops that have ended."""
        for name in list(self._finished) if self.handover is not None else ():
            self.handover.put(name, *self._finished.pop(name))  # type: ignore[union-attr]
        self._kept_at = time.monotonic()

    def end(self, *, stored: bool) -> None:
        """End the stage: drop what was kept when its result is ``stored``, else keep its loops if they took long."""
        if self.handover is None:
            return
        elapsed, own = time.monotonic() - self._kept_at, self.handover.keeps_results
        if stored and not own:
            for number in range(self._count):
                self.handover.drop(self._name(number))
            self._finished.clear()
        elif own or elapsed >= WORTH_SECONDS or self.handover.wanted() or self.handover.due(elapsed):
            self.keep()

    def _name(self, number: int | None = None) -> str:
        return f"{self.key}-{self._count if number is None else number}"

    def _packed(self, step: int) -> Packed:
        state, steps = self._open or (None, 0)
        tensors, tree = pack(state)
        meta = {
            "format": FORMAT,
            "state": json.dumps(tree),
            "step": str(step),
            "steps": str(steps),
            "frame_evals": str(self.resumed_frame_evals + self.spent() - self._evals),
            "seconds": str(self.resumed_seconds + time.monotonic() - self._begun),
        }
        return tensors, meta


def _fits(meta: Mapping[str, str], state: object, steps: int) -> bool:
    """Whether a state was kept by this very loop: another release may carry other things."""
    if meta.get("format") != FORMAT or meta.get("steps") != str(steps):
        return False
    return list(json.loads(meta["state"])) == list(vars(state))


def pack(state: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state by number, and a JSON tree of its fields that refers to them."""
    tensors: dict[str, Tensor] = {}
    return tensors, {name: _write(value, tensors) for name, value in vars(state).items()}


def restore(state: object, tensors: Mapping[str, Tensor], tree: Mapping[str, Any], device: torch.device | str) -> None:
    """Bring a state to what was packed; tensors that lay on an accelerator go to ``device``."""
    for name, node in tree.items():
        setattr(state, name, _read(node, getattr(state, name), tensors, device))


def _write(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(value, torch.Generator):
        return {"generator": _write(value.get_state(), tensors)}
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.detach()
        layout = None if value.is_contiguous() else [list(value.shape), list(value.stride())]
        return {"tensor": [str(len(tensors) - 1), layout, value.device.type != "cpu"]}
    if isinstance(value, Stateful):
        return {"object": _write(dict(value.state_dict()), tensors)}
    if isinstance(value, dict):
        return {"dict": [[key, _write(item, tensors)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_write(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    raise TypeError(f"the state of a loop cannot hold a {type(value).__name__}: {value!r}")


def _read(node: Mapping[str, Any], old: Any, tensors: Mapping[str, Tensor], device: torch.device | str) -> Any:
    ((kind, body),) = node.items()
    if kind == "plain":
        return body
    if kind == "tensor":
        return _tensor(body, old, tensors, device)
    if kind == "generator":
        old.set_state(_read(body, None, tensors, "cpu"))
        return old
    if kind == "object":
        old.load_state_dict(_read(body, None, tensors, device))
        return old
    if kind == "dict":
        held = old if isinstance(old, dict) else {}
        return {key: _read(item, held.get(key), tensors, device) for key, item in body}
    held_items = list(old) if isinstance(old, list | tuple) else []
    held_items += [None] * (len(body) - len(held_items))
    items = [_read(item, held_items[i], tensors, device) for i, item in enumerate(body)]
    return tuple(items) if kind == "tuple" else items


def _tensor(body: list[Any], old: Any, tensors: Mapping[str, Tensor], device: torch.device | str) -> Tensor:
    name, layout, accelerated = body
    value = tensors[name].to(device) if accelerated else tensors[name]
    if isinstance(old, nn.Parameter):
        old.data.copy_(value)
        return old
    return value if layout is None else _strided(value, *layout)


def _strided(value: Tensor, shape: list[int], stride: list[int]) -> Tensor:
    """The tensor laid out in memory as it was: sums over another layout round differently."""
    for dimension in (d for d, step in enumerate(stride) if step == 0):
        value = value.narrow(dimension, 0, 1)
    laid = torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device).copy_(value)
    return laid.expand(shape)
