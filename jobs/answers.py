"""First answers to requests that came with an idempotency key, kept so that a repeat gets the same answer."""

import json
import secrets
from dataclasses import dataclass

from jobs.records import Idempotency, IdempotencyReuse, Records


class InProgress(Exception):
    """The first request with this key has not been answered yet."""


@dataclass(frozen=True)
class Answer:
    """What was answered: status, headers as name and value, and the body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


class Answers:
    """The answers of all tenants. Raises QueueUnavailable when Redis cannot be reached."""

    def __init__(self, records: Records) -> None:
        """Keep answers beside these records."""
        self._records = records

    def begin(self, tenant: str, once: Idempotency, hold_seconds: float) -> Answer | str:
        """Return the first answer, or a token: then this request is the first and has so long to be answered.

        Raises IdempotencyReuse when the key came with another request, and InProgress.
        """
        token = secrets.token_hex(8)
        answer = self._run("begin", tenant, once, token, hold_seconds)
        if answer[0] == "reuse":
            raise IdempotencyReuse(once.key)
        if answer[0] == "busy":
            raise InProgress(once.key)
        if answer[0] == "go":
            return token
        _, status, headers, body = answer
        return Answer(int(status), tuple((name, value) for name, value in json.loads(headers)), body)

    def hold(self, tenant: str, once: Idempotency, token: str, seconds: float) -> None:
        """Say that the request is still being answered."""
        self._run("hold", tenant, once, token, seconds)

    def keep(self, tenant: str, once: Idempotency, token: str, answer: Answer) -> None:
        """Keep the answer for as long as the settings say."""
        life = self._records.settings.idempotency_ttl_seconds
        self._run("keep", tenant, once, token, life, answer.status, json.dumps(answer.headers), answer.body)

    def drop(self, tenant: str, once: Idempotency, token: str) -> None:
        """Forget that the request came, because nothing was done."""
        self._run("drop", tenant, once, token, 0.0)

    def _run(
        self, what: str, tenant: str, once: Idempotency, token: str, seconds: float, *more: str | int
    ) -> list[str]:
        found: list[str] = self._records.run(
            "answer", what, tenant, once.key, once.request_hash, token, int(seconds * 1000), *more
        )
        return found
