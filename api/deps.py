"""What routes depend on, named once."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api import auth
from api.present import Advice
from api.settings import ApiSettings
from api.streams import Streams
from api.watch import Watch
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


def services(request: Request) -> Services:
    """The process's services."""
    held: Services = request.app.state.services
    return held


def tenant(request: Request) -> str:
    """The calling tenant. Raises `unauthorized`."""
    return auth.caller(request, services(request).api)


Held = Annotated[Services, Depends(services)]
Caller = Annotated[str, Depends(tenant)]
