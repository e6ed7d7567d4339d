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


@dataclass(frozen=True)
class Subject:
    """What is judged: texts by their place in the request, or pictures (h w 3, bytes) of one file, spread over a clip.

    ``name`` is the input that the pictures are of: `video`, `control_video`, `pictures/0` …; empty for a result.
    """

    kind: Kind
    method: str
    texts: dict[str, str] = field(default_factory=dict)
    pictures: tuple["NDArray[np.uint8]", ...] = ()
    name: str = ""


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


def texts_of(value: Any, place: str = "") -> dict[str, str]:
    """Every text among a request's parameters by its place: `prompt`, `later_prompts/0`, `phrases/1` …

    Words that only choose (`camera: zoom_in`) are among them: which parameters are free text is the methods' own
    affair, and a policy that saw the prompt alone would be passed by with any other.
    """
    if isinstance(value, str):
        return {place: value} if value else {}
    if isinstance(value, Mapping):
        parts = ((str(name), one) for name, one in value.items())
    elif isinstance(value, list | tuple):
        parts = ((str(number), one) for number, one in enumerate(value))
    else:
        return {}
    found = (texts_of(one, f"{place}/{name}" if place else name) for name, one in parts)
    return {where: text for texts in found for where, text in texts.items()}
