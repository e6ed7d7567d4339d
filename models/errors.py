"""What can go wrong while editing.

EditError
├── InvalidInput        the clip or another file cannot be used: input.*
├── InvalidParams       a parameter is unknown, out of range or in conflict: validation_failed
├── MissingCondition    the method needs a mask, pose, audio … that was not given: missing_condition
├── WeightsUnavailable  a checkpoint cannot be found or is not what it says: model.*
├── OutOfMemory         the device ran out of memory: gpu.out_of_memory
└── Cancelled           the caller asked to stop: canceled

Every error carries a stable ``code``, whether trying again can help (``retryable``), and a ``hint``: what to do.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class EditError(Exception):
    """Base of all errors raised on purpose by this package; ``code`` must be one of the class's ``codes``."""

    codes: ClassVar[tuple[str, ...]] = ("internal",)
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, code: str | None = None, hint: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the message (what was expected and what came), the code, and the hint (what to do)."""
        super().__init__(message)
        self.code = code or self.codes[0]
        if self.code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {self.code!r}, only {', '.join(self.codes)}")
        self.message = message
        self.hint = hint
        self.details = dict(details or {})


class InvalidInput(EditError):
    """A file that was given cannot be used."""

    codes = (
        "input.invalid",
        "input.not_video",
        "input.decode_failed",
        "input.no_frames",
        "input.too_long",
        "input.too_large",
        "input.too_large_frame",
    )


class InvalidParams(EditError):
    """A parameter is unknown, out of range, missing, or in conflict with another; ``details['errors']`` lists them."""

    codes = ("validation_failed", "unknown_method")


class MissingCondition(EditError):
    """The method needs an input (mask, pose, audio …) that was not given."""

    codes = ("missing_condition",)


class WeightsUnavailable(EditError):
    """A checkpoint cannot be found (``model.unavailable``) or is not what it claims to be (``model.integrity``)."""

    codes = ("model.unavailable", "model.integrity")


class OutOfMemory(EditError):
    """The device ran out of memory; fewer frames or a smaller size may fit."""

    codes = ("gpu.out_of_memory",)
    retryable = True


class Cancelled(EditError):
    """The caller asked to stop; raised between two steps, never in the middle of one."""

    codes = ("canceled",)


def all_codes() -> dict[str, type[EditError]]:
    """Every code of the tree, with the class that raises it."""
    found: dict[str, type[EditError]] = {}
    for kind in (InvalidInput, InvalidParams, MissingCondition, WeightsUnavailable, OutOfMemory, Cancelled):
        found.update(dict.fromkeys(kind.codes, kind))
    return found
