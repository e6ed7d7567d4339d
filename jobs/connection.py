"""Connections to Redis or Valkey, and the Lua scripts. Every change of a job is one script."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.request import BROKER_PRIORITY
from jobs.states import OWNED, TERMINAL, TRANSITIONS

LUA = Path(__file__).parent / "lua"
SHARED = ("common.lua", "line.lua")


class QueueUnavailable(Exception):
    """Redis cannot be reached or refuses writes. Nothing was half done: a script runs whole or not at all."""


MOST_CONNECTIONS = 4
"""Of one process. Threads share them: a command takes a fraction of a millisecond, and Redis serves one at a time."""
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError)
REFUSING = ("OOM", "maxmemory", "LOADING", "MISCONF", "READONLY")
"""Words of answers that mean "not now": no memory left, still reading its file, cannot persist, a replica."""


@contextlib.contextmanager
def available() -> Iterator[None]:
    """Raise QueueUnavailable for every way in which Redis is not there for us."""
    try:
        yield
    except UNREACHABLE as error:
        raise QueueUnavailable(str(error)) from error
    except redis.ResponseError as error:
        if any(word in str(error) for word in REFUSING):
            raise QueueUnavailable(str(error)) from error
        raise


def connect(url: str, *, timeout_seconds: float = 2.0) -> Any:
    """Return a thread-safe client of few connections that answers strings and gives up after `timeout_seconds`.

    The type is Any because redis-py types every answer as "value or awaitable of value".
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=timeout_seconds,
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(1.0, timeout_seconds),
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )
    return redis.Redis(connection_pool=pool)


def _prelude(numbers: Mapping[str, int]) -> str:
    table = {state: sorted(after) for state, after in TRANSITIONS.items()}
    return "\n".join(
        [
            f"local TRANSITIONS = cjson.decode([==[{json.dumps(table)}]==])",
            f"local TERMINAL = cjson.decode([==[{json.dumps(dict.fromkeys(sorted(TERMINAL), True))}]==])",
            f"local OWNED = cjson.decode([==[{json.dumps(dict.fromkeys(sorted(OWNED), True))}]==])",
            f"local TIERS = cjson.decode('{sorted(BROKER_PRIORITY.values())}')",
            *(f"local {name} = {value}" for name, value in numbers.items()),
            *((LUA / name).read_text() for name in SHARED),
        ]
    )


class Scripts:
    """The scripts of `jobs/lua`, each prefixed with the transition table, `common.lua` and `line.lua`.

    A script takes the key prefix as its only key and everything else as arguments. Running one on a client that was
    restarted loads it again by itself.
    """

    def __init__(self, client: Any, prefix: str, numbers: Mapping[str, int]) -> None:
        """Register every script with the client, `numbers` being its constants; nothing is sent yet."""
        prelude = _prelude(numbers)
        self._prefix = prefix
        self._client = client
        self._scripts = {
            path.stem: client.register_script(prelude + path.read_text())
            for path in sorted(LUA.glob("*.lua"))
            if path.name not in SHARED
        }

    def __call__(self, name: str, *arguments: str | int | float) -> Any:
        """Run one script. Raises QueueUnavailable when Redis is unreachable, out of memory or loading."""
        with available():
            return self._scripts[name](keys=[self._prefix], args=list(arguments))

    def many(self, calls: Iterable[tuple[str, tuple[str | int | float, ...]]]) -> list[Any]:
        """Run scripts one after the other in one round trip. Raises QueueUnavailable; some may have run then."""
        with available():
            pipe = self._client.pipeline(transaction=False)
            for name, arguments in calls:
                self._scripts[name](keys=[self._prefix], args=list(arguments), client=pipe)
            return list(pipe.execute())
