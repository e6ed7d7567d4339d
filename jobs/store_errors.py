"""What goes wrong between us and a bucket: every attempt that failed, also one that boto3 repeated with success."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jobs.connection import QueueUnavailable

if TYPE_CHECKING:
    from jobs.records import Records

Told = Callable[[str, str], None]
"""Called with the operation, as `PutObject`, and the store's code or the kind of exception, as `SlowDown`."""
TAKEN = frozenset({"412", "PreconditionFailed"})
RACING = frozenset({"409", "ConditionalRequestConflict"})
ABSENT = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
BEYOND = frozenset({"416", "InvalidRange"})
ANSWERS = TAKEN | RACING | ABSENT | BEYOND
"""Codes of errors that are answers: the object is there, or is not."""
CODE = re.compile(r"[A-Za-z0-9]{1,64}")


def tell_nobody(operation: str, code: str) -> None:
    """Take an error and keep nothing of it."""


def counted_by(records: "Records") -> Told:
    """Count errors in the records; one that comes while those are away is not counted."""

    def told(operation: str, code: str) -> None:
        name = code if CODE.fullmatch(code) else "other"
        with suppress(QueueUnavailable):
            records.ask("HINCRBY", f"{records.prefix}storage-errors", f"{operation}|{name}", 1)

    return told


def counted(records: "Records") -> dict[tuple[str, str], int]:
    """Return errors by operation and code since the records began. Raises QueueUnavailable."""
    found = records.ask("HGETALL", f"{records.prefix}storage-errors")
    return {(name.partition("|")[0], name.partition("|")[2]): int(number) for name, number in sorted(found.items())}


def watch(client: Any, told: Told) -> Any:
    """The boto3 client, each of whose failed attempts is told."""

    def heard(operation: Any, response: Any = None, caught_exception: Exception | None = None, **_: Any) -> None:
        code = type(caught_exception).__name__ if caught_exception is not None else _code(response)
        if code:
            told(operation.name, code)

    client.meta.events.register("needs-retry.s3", heard)
    return client


def _code(response: Any) -> str:
    """The code of a failure; empty for a success and for an answer."""
    http, parsed = response
    code = str(parsed.get("Error", {}).get("Code") or http.status_code)
    return "" if http.status_code < 400 or code in ANSWERS else code
