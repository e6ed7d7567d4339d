"""Who is calling, and what it may do: an API key names a tenant and scopes. Keys are never logged.

Keys come from the settings (an installation's first ones) and from `jobs.keys`. Both are compared by digest, in
constant time.
"""

import hmac
import re
from dataclasses import dataclass

from fastapi import Request

from api.errors import Problem
from api.settings import ApiSettings
from jobs.keys import SCOPES, USUAL, Keys, Scope, digest

LOCAL_TENANT = "local"
LOOPBACK_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
__all__ = ["LOCAL_TENANT", "Access", "access", "digest", "loopback"]


@dataclass(frozen=True)
class Access:
    """What a caller was let in with. `key` is the id of the key, for limits and logs; empty without one."""

    tenant: str
    scopes: frozenset[Scope]
    key: str = ""

    def need(self, scope: Scope) -> "Access":
        """This, if the scope is in it or `admin` is. Raises `forbidden_scope`."""
        if not {scope, "admin"} & self.scopes:
            has = ", ".join(sorted(self.scopes)) or "nothing"
            raise Problem("forbidden_scope", f"this key may {has}; {scope} is needed")
        return self


def configured(key: str, settings: ApiSettings) -> Access | None:
    """What a key of the settings opens; every one is compared, found or not."""
    found, mine = None, digest(key)
    for entry in settings.keys:
        tenant, known, scopes = (*entry.split(":"), "")[:3]
        if hmac.compare_digest(mine, known):
            chosen = frozenset(scope for scope in SCOPES if scope in scopes.split("+"))
            found = Access(tenant, chosen or frozenset(USUAL), known[:8])
    return found


def kept(key: str, keys: Keys) -> Access | None:
    """What a key that was made by `refilm keys` opens."""
    known = keys.find(key)
    return Access(known.tenant, frozenset(known.scopes), known.id) if known is not None else None


def loopback(request: Request) -> bool:
    """Whether the request names this machine and does not come from another site's page."""
    named = LOOPBACK_HOST.fullmatch(request.headers.get("host", "")) is not None
    return named and request.headers.get("sec-fetch-site") != "cross-site"


def access(request: Request, settings: ApiSettings, keys: Keys) -> Access:
    """What the caller may do; `unauthorized` without a valid key.

    An open server answers without a key, but only under a loopback name and not to pages of other sites, so that a
    browser on the same machine cannot be made to call it.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = given.strip()
    if key and scheme.lower() == "bearer":
        found = configured(key, settings) or kept(key, keys)
        if found is not None:
            return found
    elif settings.open and loopback(request):
        return Access(LOCAL_TENANT, frozenset(SCOPES))
    raise Problem("unauthorized")
