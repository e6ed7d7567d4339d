"""How many event streams a tenant holds open on one process."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from api.errors import Problem


class Streams:
    """Open streams by tenant, bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Hold a place. Raises `too_many_streams`."""
        if self._open[tenant] >= self._most:
            raise Problem("too_many_streams", f"{self._most} are open")
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
