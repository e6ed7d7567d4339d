"""Webhook deliveries: rows of the outbox become messages, one for each endpoint that wants the event, sent when due.

A message has one body for all its tries, and its id is the receiver's means to see a repeat.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs import ids
from jobs.records import Records
from jobs.schema import from_ms

DeliveryState = Literal["pending", "delivered", "failed", "dropped"]
DUE = "msgs-due"
HOLD_SECONDS = 60.0
TOLD_SECONDS = 3 * 86400.0
"""For so long after an end it is told, whatever is lost meanwhile."""
MOST_ATTEMPTS_SHOWN = 20
MOST_OF_ENDPOINT = 1000
BATCH = 100


@dataclass(frozen=True)
class Row:
    """One event in the outbox, about a job or a batch. `webhook` is what the job itself asked for, as JSON or ''.

    `again` marks what was restored with a lost Redis: some may have heard of it, see `jobs.heard`.
    """

    entry: str
    tenant: str
    type: str
    subject: str
    version: int
    webhook: str
    at: datetime
    data: dict[str, Any]
    again: bool = False


class Try(BaseModel):
    """One try to deliver: the status that came, or what went wrong instead."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    status: int | None = None
    error: str | None = None
    seconds: float = 0.0


class Delivery(BaseModel):
    """One message to one endpoint. `dropped` when the endpoint was disabled or deleted meanwhile."""

    model_config = ConfigDict(frozen=True)

    id: str
    endpoint: str
    tenant: str = Field(exclude=True)
    subject: str = Field(default="", exclude=True)
    type: str
    state: DeliveryState
    tries: int = 0
    created_at: datetime | None = None
    next_at: datetime | None = None
    attempts: tuple[Try, ...] = ()
    body: str = ""


class Deliveries:
    """The outbox and its messages. Raises QueueUnavailable."""

    def __init__(self, records: Records) -> None:
        """Keep them beside these records."""
        self._records = records
        self._prefix = records.prefix
        self._life_ms = int(records.settings.webhook_ttl_seconds * 1000)

    def rows(self) -> list[Row]:
        """Return the oldest rows of the outbox."""
        found = self._records.ask("XRANGE", f"{self._prefix}outbox", "-", "+", "COUNT", BATCH)
        return [_row(entry, fields) for entry, fields in found]

    def spread(self, row: Row, messages: dict[str, str]) -> bool:
        """Turn a row into messages (endpoint id to body), all at once and only once; False when it was done before."""
        facts = {"tenant": row.tenant, "type": row.type, "subject": row.subject}
        made = [
            facts | {"id": ids.new(ids.MESSAGE), "endpoint": endpoint, "body": body}
            for endpoint, body in messages.items()
        ]
        return bool(self._records.run("spread", row.entry, json.dumps(made), self._life_ms, MOST_OF_ENDPOINT))

    def take(self, most: int) -> list[str]:
        """Return messages that are due; nobody else gets them for `HOLD_SECONDS`."""
        return list(self._records.run("take_due", DUE, int(HOLD_SECONDS * 1000), most)) if most > 0 else []

    def postpone(self, message_id: str, seconds: float) -> None:
        """Look at a message again later; it was not tried."""
        self._records.run("postpone", DUE, message_id, int(seconds * 1000))

    def note(self, message_id: str, tried: Try | None, state: DeliveryState, wait_seconds: float = 0.0) -> None:
        """Write down how a try went, and whether there is to be another."""
        text = tried.model_dump_json(exclude_none=True) if tried else ""
        self._records.run("delivered", message_id, text, state, int(wait_seconds * 1000), MOST_ATTEMPTS_SHOWN)

    def find(self, message_id: str) -> Delivery | None:
        """Return the delivery, or None when it is gone."""
        row = self._records.ask("HGETALL", f"{self._prefix}msg:{message_id}")
        return _delivery(row) if row else None

    def of_endpoint(self, endpoint_id: str, *, before: str | None, limit: int) -> list[Delivery]:
        """Return an endpoint's deliveries, the newest first, from the one after `before` on."""
        key = f"{self._prefix}msgs:{endpoint_id}"
        rank = self._records.ask("ZREVRANK", key, before) if before else None
        start = 0 if rank is None else int(rank) + 1
        found = [self.find(message) for message in self._records.ask("ZREVRANGE", key, start, start + limit - 1)]
        return [delivery for delivery in found if delivery is not None]

    def replay(self, message_id: str) -> bool:
        """Send a message again now. False when it is gone."""
        return bool(self._records.run("replay", message_id))


def _row(entry: str, fields: dict[str, str]) -> Row:
    return Row(
        entry=entry,
        tenant=fields["tenant"],
        type=fields["type"],
        subject=fields.get("job") or fields.get("batch", ""),
        version=int(fields.get("version") or 0),
        webhook=fields.get("webhook", ""),
        at=from_ms(int(fields["at"])) or datetime.now(UTC),
        data=json.loads(fields.get("data") or "{}"),
        again=fields.get("again") == "1",
    )


def _delivery(row: dict[str, str]) -> Delivery:
    times = {f"{name}_at": from_ms(int(float(row.get(name) or 0))) for name in ("created", "next")}
    return Delivery.model_validate(row | times | {"attempts": json.loads(row.get("attempts") or "[]")})
