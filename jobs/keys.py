"""API keys: which tenant calls, and what it may do. A key is shown once; its SHA-256 is kept, with a prefix to find it.

A key is 160 random bits, so a plain digest is as good as a slow one; digests are compared in constant time.
"""

import base64
import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs import layout
from jobs.records import Records
from jobs.registry import Registry
from jobs.store import Store

Scope = Literal["read", "write", "webhooks", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "webhooks", "admin")
"""`read` looks, `write` uploads, edits, cancels and deletes, `webhooks` manages endpoints, `admin` is all of it and
the counters of the whole installation."""
USUAL: tuple[Scope, ...] = ("read", "write", "webhooks")
MARK = "rf_live_"
KEY = re.compile(MARK + r"([a-z2-7]{8})[a-z2-7]{32}")
GROUP = "all"


class ApiKey(BaseModel):
    """What is kept of a key. `id` is its beginning, which may be shown; the rest is known to its holder alone."""

    model_config = ConfigDict(frozen=True)

    id: str
    sha256: str
    tenant: str
    scopes: tuple[Scope, ...] = USUAL
    name: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def live(self, now: datetime | None = None) -> bool:
        """True while the key opens anything."""
        ended = self.expires_at is not None and self.expires_at <= (now or datetime.now(UTC))
        return self.revoked_at is None and not ended


class UnknownKey(LookupError):
    """There is no key with this id."""


def digest(key: str) -> str:
    """What of a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """All keys of the installation. Raises QueueUnavailable and StoreUnavailable."""

    def __init__(self, records: Records, store: Store) -> None:
        """Read and keep keys here."""
        self._registry = Registry(records, store, "keys")

    def create(
        self, tenant: str, *, scopes: tuple[Scope, ...] = USUAL, name: str = "", life_seconds: float | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key; what is kept of it, and the key itself, which nobody can read again.

        Raises ValueError for a tenant's name that is not plain.
        """
        layout.tenant_part(tenant)
        secret = base64.b32encode(secrets.token_bytes(25)).decode().lower()
        key, now = MARK + secret, datetime.now(UTC)
        ends = None if life_seconds is None else now + timedelta(seconds=life_seconds)
        made = ApiKey(
            id=secret[:8], sha256=digest(key), tenant=tenant, scopes=scopes, name=name, created_at=now, expires_at=ends
        )
        self._registry.add(GROUP, made.id, made.model_dump_json())
        return made, key

    def find(self, key: str) -> ApiKey | None:
        """Return the live key that this is, or None."""
        match = KEY.fullmatch(key)
        text = self._registry.find(GROUP, match[1]) if match else None
        if text is None:
            return None
        known = ApiKey.model_validate_json(text)
        return known if hmac.compare_digest(known.sha256, digest(key)) and known.live() else None

    def list(self, tenant: str | None = None) -> list[ApiKey]:
        """Return all keys, also revoked ones, the oldest first; with `tenant`, only that tenant's."""
        every = map(ApiKey.model_validate_json, self._registry.group(GROUP).values())
        return sorted((key for key in every if tenant in (None, key.tenant)), key=lambda key: key.created_at)

    def revoke(self, key_id: str) -> ApiKey:
        """End a key now, for all API processes. Raises UnknownKey."""
        return self._end(key_id, revoked_at=datetime.now(UTC))

    def rotate(self, key_id: str, *, overlap_seconds: float) -> tuple[ApiKey, str]:
        """Make a second key like this one, which itself ends after the overlap. Raises UnknownKey."""
        old = self._get(key_id)
        made, key = self.create(old.tenant, scopes=old.scopes, name=old.name)
        self._end(key_id, expires_at=datetime.now(UTC) + timedelta(seconds=overlap_seconds))
        return made, key

    def _get(self, key_id: str) -> ApiKey:
        text = self._registry.find(GROUP, key_id.removeprefix(MARK))
        if text is None:
            raise UnknownKey(key_id)
        return ApiKey.model_validate_json(text)

    def _end(self, key_id: str, **when: datetime) -> ApiKey:
        ended = self._get(key_id).model_copy(update=when)
        self._registry.change(GROUP, ended.id, ended.model_dump_json())
        return ended
