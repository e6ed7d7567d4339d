"""Webhook endpoints of tenants, and the signatures of Standard Webhooks 1.0 (standardwebhooks.com).

A secret must be read to sign with it, so it is kept as it is, beside the endpoint; it is shown only when it is made.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from jobs import ids
from jobs.records import Records
from jobs.registry import Registry
from jobs.request import ENDINGS, EventName
from jobs.store import Store

MARK = "whsec_"
SECRET_BYTES = 32
MOST_ENDPOINTS = 20


class Secret(BaseModel):
    """One secret that signs; an old one until its time is over."""

    model_config = ConfigDict(frozen=True)

    value: str = Field(repr=False)
    until: datetime | None = None


class Endpoint(BaseModel):
    """Where a tenant wants to hear of events. `disabled` says why nothing is sent any more."""

    model_config = ConfigDict(frozen=True)

    id: str
    tenant: str
    url: str
    events: tuple[EventName, ...] = ENDINGS
    description: str = ""
    created_at: datetime
    disabled: str | None = None
    secrets: tuple[Secret, ...] = Field(repr=False)

    def wants(self, event: str) -> bool:
        """True when the endpoint subscribes to this event."""
        return wanted(event, self.events)

    def signatures(self, message_id: str, timestamp: int, body: bytes) -> str:
        """The `webhook-signature` header: one signature for each secret that is still good."""
        now = datetime.now(UTC)
        live = [secret.value for secret in self.secrets if secret.until is None or secret.until > now]
        return " ".join(signature(secret, message_id, timestamp, body) for secret in live)


class TooMany(Exception):
    """The tenant has as many endpoints as it may."""


def wanted(event: str, events: tuple[str, ...]) -> bool:
    """True when an event is in the list, by name or by `job.*`."""
    return event in events or f"{event.partition('.')[0]}.*" in events


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix(MARK))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _fresh_secret() -> str:
    return MARK + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


class Endpoints:
    """The endpoints of all tenants. Raises QueueUnavailable and StoreUnavailable."""

    def __init__(self, records: Records, store: Store) -> None:
        """Read and keep endpoints here."""
        self._registry = Registry(records, store, "webhooks")

    def create(self, tenant: str, url: str, *, events: tuple[EventName, ...], description: str) -> tuple[Endpoint, str]:
        """Make an endpoint; it, and its secret. The URL was checked. Raises TooMany."""
        if len(self._registry.group(tenant)) >= MOST_ENDPOINTS:
            raise TooMany(tenant)
        secret = _fresh_secret()
        made = Endpoint(
            id=ids.new(ids.WEBHOOK),
            tenant=tenant,
            url=url,
            events=events,
            description=description,
            created_at=datetime.now(UTC),
            secrets=(Secret(value=secret),),
        )
        self._registry.add(tenant, made.id, made.model_dump_json())
        return made, secret

    def find(self, tenant: str, endpoint_id: str) -> Endpoint | None:
        """Return the tenant's endpoint, or None."""
        text = self._registry.find(tenant, endpoint_id) if ids.valid(endpoint_id, ids.WEBHOOK) else None
        return Endpoint.model_validate_json(text) if text is not None else None

    def list(self, tenant: str) -> list[Endpoint]:
        """Return the tenant's endpoints, the oldest first."""
        every = map(Endpoint.model_validate_json, self._registry.group(tenant).values())
        return sorted(every, key=lambda endpoint: endpoint.id)

    def delete(self, endpoint: Endpoint) -> None:
        """Forget the endpoint; what was still to be sent there is dropped."""
        self._registry.remove(endpoint.tenant, endpoint.id)

    def disable(self, endpoint: Endpoint, reason: str) -> Endpoint:
        """Send nothing there any more, for this reason."""
        return self._keep(endpoint, disabled=reason)

    def enable(self, endpoint: Endpoint) -> Endpoint:
        """Send there again."""
        return self._keep(endpoint, disabled=None)

    def rotate(self, endpoint: Endpoint, *, overlap_seconds: float) -> tuple[Endpoint, str]:
        """Give the endpoint another secret; the one before signs too until the overlap is over."""
        until = datetime.now(UTC) + timedelta(seconds=overlap_seconds)
        secret = _fresh_secret()
        before = Secret(value=endpoint.secrets[0].value, until=until)
        return self._keep(endpoint, secrets=(Secret(value=secret), before)), secret

    def load(self) -> bool:
        """Read the endpoints from the store if Redis has forgotten them."""
        return self._registry.load()

    def _keep(self, endpoint: Endpoint, **changed: object) -> Endpoint:
        whole = endpoint.model_copy(update=changed)
        self._registry.change(whole.tenant, whole.id, whole.model_dump_json())
        return whole
