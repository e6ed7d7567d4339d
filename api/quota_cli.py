"""`refilm quota`: what an operator allows one tenant. Like `refilm keys` it works on Redis directly, not over HTTP."""

import math
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from api.operate import Folder, settings_of
from api.terminal import FAILED, USAGE, fail
from api.usage_cli import number
from jobs.caps import load_of, set_cap
from jobs.connection import QueueUnavailable
from jobs.layout import tenant_part
from jobs.quotas import Name, limit_of, set_quota
from jobs.records import Records

OUT = Console()
USUAL = "usual"
LIMITS: dict[str, Name] = {"jobs": "jobs", "gpu-seconds": "gpu_seconds", "bytes": "bytes"}


def quota(
    tenant: Annotated[str, typer.Argument(help="Whose limits.")],
    running: Annotated[str | None, typer.Option(help="Jobs that run at once; more wait.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Jobs that wait or run; more are refused.")] = None,
    gpu_seconds: Annotated[str | None, typer.Option(help="Device seconds a day.")] = None,
    stored: Annotated[str | None, typer.Option("--bytes", help="Bytes of uploads and results.")] = None,
    data_dir: Folder = None,
) -> None:
    """Show one tenant's limits, and change those that are given: a number, 0 for none, `usual` for the setting."""
    given = {"running": running, "jobs": jobs, "gpu-seconds": gpu_seconds, "bytes": stored}
    changes = {name: parsed(name, value) for name, value in given.items() if value is not None}
    try:
        tenant_part(tenant)
    except ValueError:
        raise fail(f"a tenant's name is of letters, digits and -, not {tenant!r}", USAGE) from None
    records = Records(settings_of(data_dir))
    try:
        change(records, tenant, changes)
        limits = {"running": float(load_of(records, tenant).cap)}
        limits |= {name: limit_of(records, tenant, known) for name, known in LIMITS.items()}
    except QueueUnavailable as error:
        raise fail(f"the service's records cannot be reached ({error}); does it run?", FAILED) from None
    finally:
        records.redis.close()
    table = Table(Column(tenant, no_wrap=True), Column("limit", justify="right"))
    for name, limit in limits.items():
        table.add_row(name, number(limit or None))
    OUT.print(table)


def parsed(name: str, value: str) -> float | None:
    """A limit as typed; None is the setting. Exits for what is none."""
    if value == USUAL:
        return None
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf or (name == "running" and limit != int(limit)):
        raise fail(f"--{name} takes a number from 0 up, or {USUAL!r}, not {value!r}", USAGE)
    return limit


def change(records: Records, tenant: str, changes: dict[str, float | None]) -> None:
    """Set the limits that are named. Raises QueueUnavailable."""
    for name, limit in changes.items():
        if name == "running":
            set_cap(records, tenant, None if limit is None else int(limit))
        else:
            set_quota(records, tenant, LIMITS[name], limit)
