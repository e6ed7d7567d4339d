"""Sends webhooks: a thread of the scheduler's leader, so that a dead host stalls neither jobs nor sweeps.

At least once: a message is held for a minute while it is tried, and a scheduler that dies meanwhile only delays it.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog

from jobs import heard
from jobs.addresses import Rule, Unresolved, UrlRefused, rule
from jobs.connection import UNREACHABLE, QueueUnavailable
from jobs.deliveries import Deliveries, Delivery, DeliveryState, Row, Try
from jobs.records import Records
from jobs.request import WebhookRef
from jobs.settings import Settings
from jobs.store import Store, StoreUnavailable
from jobs.webhooks import Endpoint, Endpoints, wanted
from workers import egress
from workers.letters import letter

POLL_SECONDS = 0.25
AT_ONCE, AT_ONCE_TO_ONE = 128, 4
JITTER = 0.1
MOST_WAIT_SECONDS = 86400.0
TROUBLE = (QueueUnavailable, StoreUnavailable, *UNREACHABLE)
log = structlog.get_logger(__name__)


class Outbox:
    """Start it once; `lead` says whether this replica sends."""

    def __init__(self, settings: Settings, records: Records, store: Store, only: Rule | None = None) -> None:
        """Prepare; nothing is read yet. `only` overrides which addresses may be called."""
        self._settings = settings
        self._records = records
        self._store, self._endpoints = store, Endpoints(records, store)
        self._deliveries = Deliveries(records)
        self._rule = only or rule(settings.webhook_ports, loopback=settings.egress_loopback)
        self._leads, self._stop = threading.Event(), threading.Event()
        self._busy: Counter[str] = Counter()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to send as soon as this replica leads."""
        self._thread.start()

    def lead(self, leads: bool) -> None:
        """Say whether this replica is the one that sends."""
        if leads:
            self._leads.set()
        else:
            self._leads.clear()

    def stop(self) -> None:
        """Send nothing new, and wait a moment for what is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_ONCE // 2, "outbox"))
        sending: set[asyncio.Task[None]] = set()
        async with egress.client(self._rule, self._settings.webhook_timeout_seconds) as client:
            while not self._stop.is_set():
                for delivery in await asyncio.to_thread(self._due_or_none, AT_ONCE - len(sending)):
                    task = asyncio.create_task(self._deliver(client, delivery))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                await asyncio.sleep(POLL_SECONDS)

    def _due_or_none(self, most: int) -> list[Delivery]:
        try:
            return self._due(most) if self._leads.is_set() else []
        except TROUBLE as error:
            log.warning("webhooks wait", error=type(error).__name__)
        except Exception as error:  # the thread must outlive whatever one row or message holds
            log.error("webhooks stumbled", exc_info=error)
        return []

    def _due(self, most: int) -> list[Delivery]:
        """New rows become messages; then the messages whose time has come, a few for each endpoint."""
        self._endpoints.load()
        for row in self._deliveries.rows():
            self._deliveries.spread(row, self._messages(row))
        return [found for found in map(self._admitted, self._deliveries.take(most)) if found]

    def _messages(self, row: Row) -> dict[str, str]:
        """The body for every endpoint that wants the event: those subscribed, and the one the job named."""
        known = {endpoint.id: endpoint for endpoint in self._endpoints.list(row.tenant) if not endpoint.disabled}
        chosen = {name for name, endpoint in known.items() if endpoint.wants(row.type)}
        asked = WebhookRef.model_validate_json(row.webhook) if row.webhook else None
        if asked and asked.endpoint in known and wanted(row.type, asked.events):
            chosen.add(asked.endpoint)
        chosen = {name for name in chosen if not heard.by(self._store, row, name)}
        return dict.fromkeys(chosen, letter(row, self._records)) if chosen else {}

    def _admitted(self, message_id: str) -> Delivery | None:
        found = self._deliveries.find(message_id)
        if found is None:
            self._deliveries.note(message_id, None, "dropped")
        elif self._busy[found.endpoint] >= AT_ONCE_TO_ONE:
            self._deliveries.postpone(message_id, 1.0)
        else:
            self._busy[found.endpoint] += 1
            return found
        return None

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            endpoint = await asyncio.to_thread(self._endpoints.find, delivery.tenant, delivery.endpoint)
            if endpoint is None or endpoint.disabled:
                await asyncio.to_thread(self._deliveries.note, delivery.id, None, "dropped")
                return
            tried, advice = await self._send(client, endpoint, delivery)
            await asyncio.to_thread(self._settle, endpoint, delivery, tried, advice)
        except TROUBLE as error:  # the hold ends, and it is tried again
            log.warning("a webhook's outcome was not written", message=delivery.id, error=type(error).__name__)
        finally:
            self._busy[delivery.endpoint] -= 1

    async def _send(
        self, client: httpx.AsyncClient, endpoint: Endpoint, delivery: Delivery
    ) -> tuple[Try, float | None]:
        """One try: what came of it, and how long the receiver asks to wait."""
        began, now = time.monotonic(), datetime.now(UTC)
        body, stamp = delivery.body.encode(), int(now.timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": endpoint.signatures(delivery.id, stamp, body),
        }
        status, problem, advice = None, None, None
        try:
            async with (
                asyncio.timeout(self._settings.webhook_timeout_seconds),
                client.stream("POST", endpoint.url, content=body, headers=headers) as answer,
            ):
                status, advice = answer.status_code, asked_wait(answer)
        except (httpx.HTTPError, httpx.InvalidURL, UrlRefused, Unresolved, TimeoutError) as error:
            problem = str(error) if isinstance(error, UrlRefused | Unresolved) else type(error).__name__
        seconds = round(time.monotonic() - began, 3)
        return Try(at=now, status=status, error=problem, seconds=seconds), advice

    def _settle(self, endpoint: Endpoint, delivery: Delivery, tried: Try, advice: float | None) -> None:
        schedule, tries = self._settings.webhook_schedule, delivery.tries + 1
        status = tried.status or 0
        if 200 <= status < 300:
            self._end(delivery, tried, "delivered")
        elif status == 410:
            self._endpoints.disable(endpoint, "the receiver answered 410 Gone")
            self._end(delivery, tried, "failed")
        elif tries >= len(schedule):
            self._end(delivery, tried, "failed")
        else:
            spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads retries, keeps no secret
            wait = max(schedule[tries] * spread, advice or 0.0)
            self._deliveries.note(delivery.id, tried, "pending", wait)
        log.info("webhook", message=delivery.id, endpoint=endpoint.id, status=tried.status, error=tried.error)

    def _end(self, delivery: Delivery, tried: Try, state: DeliveryState) -> None:
        heard.note(self._store, delivery)
        self._deliveries.note(delivery.id, tried, state)


def asked_wait(answer: httpx.Response) -> float | None:
    """Seconds of `Retry-After` on a 429 or 503, a number or a date, at most a day."""
    given = answer.headers.get("retry-after", "").strip()
    if answer.status_code not in (429, 503) or not given:
        return None
    try:
        seconds = (
            float(given) if given.isdigit() else (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MOST_WAIT_SECONDS)
