"""Who is calling: an API key names a tenant. Keys are compared by hash, in constant time, and never logged."""

import hashlib
import hmac
import re

from fastapi import Request

from api.errors import Problem
from api.settings import ApiSettings

LOCAL_TENANT = "local"
LOOPBACK_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)


def digest(key: str) -> str:
    """What of a key is written in the settings."""
    return hashlib.sha256(key.encode()).hexdigest()


def tenant_of(key: str, settings: ApiSettings) -> str | None:
    """The tenant a key belongs to; every known key is compared, found or not."""
    found, mine = None, digest(key)
    for entry in settings.keys:
        tenant, _, known = entry.rpartition(":")
        if hmac.compare_digest(mine, known):
            found = tenant
    return found


def loopback(request: Request) -> bool:
    """Whether the request names this machine and does not come from another site's page."""
    named = LOOPBACK_HOST.fullmatch(request.headers.get("host", "")) is not None
    return named and request.headers.get("sec-fetch-site") != "cross-site"


def caller(request: Request, settings: ApiSettings) -> str:
    """The calling tenant; `unauthorized` without a valid key.

    An open server answers without a key, but only under a loopback name and not to pages of other sites, so that a
    browser on the same machine cannot be made to call it.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if key and scheme.lower() == "bearer":
        tenant = tenant_of(key.strip(), settings)
        if tenant is not None:
            return tenant
    elif settings.open and loopback(request):
        return LOCAL_TENANT
    raise Problem("unauthorized")
