"""What a content policy is asked and answers: a function of the operator's, named by `REFILM_POLICY=module:function`.

It gets a `Subject` and answers a `Verdict`. Texts are judged when they are sent and again by the worker, which judges
the pictures too (`workers.policy`); so the function must be importable on both sides, or at least on the workers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["input.text", "input.video", "output.video"]
TEXTS = ("prompt", "source_prompt", "negative_prompt")


@dataclass(frozen=True)
class Subject:
    """What is judged: texts by name, or pictures (h w 3, bytes) spread over a clip."""

    kind: Kind
    method: str
    texts: dict[str, str] = field(default_factory=dict)
    pictures: tuple["NDArray[np.uint8]", ...] = ()


class Verdict(NamedTuple):
    """Whether it may be; the reason, a short word such as `violence`, is shown to the caller."""

    allowed: bool
    reason: str = ""


Judge = Callable[[Subject], Verdict]


def load_judge(name: str) -> Judge:
    """Return the function `module:function`. Raises ImportError, AttributeError or ValueError when there is none."""
    module, separator, function = name.partition(":")
    if not separator:
        raise ValueError(f"policy {name!r} is not module:function")
    judge: Judge = getattr(import_module(module), function)
    return judge


def texts_of(params: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a request among its engine's parameters."""
    return {name: str(params[name]) for name in TEXTS if params.get(name)}
