"""What routes depend on, named once."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api import auth
from api.auth import Access
from api.present import Advice
from api.settings import ApiSettings
from api.streams import Streams
from api.watch import Watch
from jobs.keys import Keys
from jobs.queue import Bell
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import Store


@dataclass(frozen=True)
class Services:
    """Everything one API process holds."""

    settings: Settings
    api: ApiSettings
    records: Records
    store: Store
    watch: Watch
    advice: Advice
    streams: Streams
    bell: Bell
    keys: Keys


def services(request: Request) -> Services:
    """The process's services."""
    held: Services = request.app.state.services
    return held


def admitted(request: Request) -> Access:
    """Who calls and what it may. Raises `unauthorized`."""
    held, known = services(request), getattr(request.state, "access", None)
    if not isinstance(known, Access):  # looked up once for a request
        request.state.access = known = auth.access(request, held.api, held.keys)
    return known


def tenant(request: Request, found: Annotated[Access, Depends(admitted)]) -> str:
    """The calling tenant: looking needs `read`, everything else `write`. Raises `unauthorized`, `forbidden_scope`."""
    return found.need("read" if request.method in ("GET", "HEAD") else "write").tenant


def webhook_tenant(found: Annotated[Access, Depends(admitted)]) -> str:
    """The calling tenant, allowed to manage its webhooks. Raises `unauthorized`, `forbidden_scope`."""
    return found.need("webhooks").tenant


def operator(found: Annotated[Access, Depends(admitted)]) -> str:
    """The caller, allowed to see the whole installation. Raises `unauthorized`, `forbidden_scope`."""
    return found.need("admin").tenant


Held = Annotated[Services, Depends(services)]
Caller = Annotated[str, Depends(tenant)]
WebhookCaller = Annotated[str, Depends(webhook_tenant)]
Operator = Annotated[str, Depends(operator)]
