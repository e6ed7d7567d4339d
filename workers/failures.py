"""Exceptions to job errors: the engine's by their code, the store's by name, everything else as `internal`."""

import errno
import secrets
from collections.abc import Iterable
from typing import Any

import structlog

from jobs.codes import JOB_CODES
from jobs.media import MediaRefused
from jobs.schema import JobError
from jobs.store import StoreUnavailable
from models.errors import EditError, OutOfMemory

FATAL = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
"""Words of errors after which a device answers nothing but errors: the process must be replaced."""

log = structlog.get_logger(__name__)


class PolicyRefused(Exception):
    """The content policy forbids the text or the pictures. `reason` is the policy's own word for it."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code)
        self.code, self.reason = code, reason


class SigningFailed(Exception):
    """A result cannot be signed. `code` is one of `provenance.*`, `reason` is shown to the caller."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code)
        self.code, self.reason = code, reason


class FetchFailed(Exception):
    """An input is not in the store any more, or is not what was accepted."""


def is_fatal(error: BaseException) -> bool:
    """True when the error has poisoned the device's context for this process."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in FATAL)


def is_disk_full(error: BaseException) -> bool:
    """True when the machine has no room left for files, or no more for this user."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception, **where: Any) -> JobError:
    """Return the error a caller may see, with `where` it happened (stage, attempt, worker).

    An unknown exception is logged with its traceback under a log id, and only the id is told.
    """
    if isinstance(error, EditError):
        code = error.code if error.code in JOB_CODES else "internal"
        retryable = {"retryable": error.retryable} if error.retryable else {}
        extra = retryable | {"hint": error.hint, "errors": tuple(_plain(error.details.get("errors", ())))}
        return JobError.of(code, error.message, **where, **extra)
    if isinstance(error, FetchFailed):
        return JobError.of("input.fetch_failed", str(error), **where)
    if isinstance(error, MediaRefused):
        return JobError.of(error.code, error.detail, **where)
    if isinstance(error, PolicyRefused | SigningFailed):
        return JobError.of(error.code, error.reason, **where)
    if isinstance(error, StoreUnavailable):
        return JobError.of("storage_unavailable", "the object store cannot be reached", **where)
    if isinstance(error, MemoryError):
        hint = "edit fewer frames (max_frames) or a smaller size (width, height)"
        return JobError.of(OutOfMemory.codes[0], "the worker ran out of memory", hint=hint, **where)
    if is_disk_full(error):
        log.error("the worker's disk is full", exc_info=error)
        return JobError.of("internal", "the worker's disk is full", hint="send the job again", **where)
    log_id = secrets.token_hex(8)
    log.error("job failed with an unexpected error", log_id=log_id, exc_info=error)
    return JobError.of("internal", "an unexpected error", log_id=log_id, **where)


def _plain(errors: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep what JSON can say; limits may be any object in the engine's own details."""
    simple = (str, int, float, bool, type(None))
    return [
        {name: value if isinstance(value, simple) else str(value) for name, value in item.items()} for item in errors
    ]
