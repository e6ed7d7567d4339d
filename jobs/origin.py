"""Where a request came from: its id and its trace, carried from the API into the job, its log and its doorbell."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Origin:
    """Both are empty where nothing is known; `traceparent` is W3C Trace Context."""

    request_id: str = ""
    traceparent: str = ""

    def fields(self) -> dict[str, str]:
        """The fields of a job's record; nothing for what is not known."""
        return {name: value for name, value in asdict(self).items() if value}


UNKNOWN = Origin()
_current: ContextVar[Origin] = ContextVar("origin")


def current() -> Origin:
    """The origin of what is being done now."""
    return _current.get(UNKNOWN)


@contextmanager
def came_from(request_id: str, traceparent: str) -> Iterator[Origin]:
    """Let everything inside the block know its origin; what is malformed counts as unknown."""
    origin = Origin(
        request_id if REQUEST_ID.fullmatch(request_id) else "",
        traceparent if TRACEPARENT.fullmatch(traceparent) else "",
    )
    token = _current.set(origin)
    try:
        yield origin
    finally:
        _current.reset(token)
