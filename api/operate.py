"""What an operator does beside the running service: `refilm keys`. Works on store and Redis directly, not over HTTP.

In a container the settings lead there; on one machine the data folder does, whether the service runs or not.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from api.terminal import FAILED, USAGE, fail, tell
from jobs.connection import QueueUnavailable
from jobs.keys import MARK, SCOPES, USUAL, ApiKey, Keys, UnknownKey
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import StoreUnavailable, open_store

keys_app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke API keys, beside the running service.")
OUT = Console()
HOUR_SECONDS = 3600.0
Folder = Annotated[
    Path | None, typer.Option("--data-dir", envvar="REFILM_DATA_DIR", help="Folder of `refilm up`, if that runs it.")
]
KeyId = Annotated[str, typer.Argument(help="The key's id: its first letters, as `refilm keys list` shows them.")]


def settings_of(data_dir: Path | None) -> Settings:
    """The settings that lead to an installation: the environment's, or those of the stack in a data folder."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    config, password = settings.data_dir / "valkey" / "valkey.conf", settings.data_dir / "valkey.password"
    if "redis_url" in settings.model_fields_set or not config.exists():
        return settings
    port = re.search(r"^port (\d+)$", config.read_text(), re.MULTILINE)
    url = f"redis://:{password.read_text()}@127.0.0.1:{port[1] if port else 6379}/0"
    return settings.model_copy(update={"redis_url": url})


@contextmanager
def opened(data_dir: Path | None) -> Iterator[Keys]:
    """The installation's keys; what is out of reach becomes an exit code."""
    settings = settings_of(data_dir)
    records = Records(settings)
    try:
        yield Keys(records, open_store(settings))
    except UnknownKey as error:
        raise fail(f"there is no key {error}", USAGE) from None
    except (QueueUnavailable, StoreUnavailable) as error:
        raise fail(f"the service's records cannot be reached ({error}); does it run?", FAILED) from None
    finally:
        records.redis.close()


def show(made: ApiKey, key: str) -> None:
    """The key alone on stdout, what it is on stderr."""
    tell(f"key {MARK}{made.id}… of {made.tenant} may {', '.join(made.scopes)}; it is shown only now")
    typer.echo(key)


@keys_app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose jobs and assets the key opens: letters, digits and -.")],
    scope: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SCOPES)}; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float | None, typer.Option(min=0.0, help="It ends by itself after so many days.")] = None,
    data_dir: Folder = None,
) -> None:
    """Make a key and write it to stdout."""
    unknown = set(scope or ()) - set(SCOPES)
    if unknown:
        raise fail(f"there is no scope {', '.join(sorted(unknown))}: use {', '.join(SCOPES)}", USAGE)
    scopes = tuple(known for known in SCOPES if known in (scope or USUAL))
    life = None if days is None else days * 24 * HOUR_SECONDS
    with opened(data_dir) as keys:
        try:
            made, key = keys.create(tenant, scopes=scopes, name=name, life_seconds=life)
        except ValueError:
            raise fail(f"a tenant's name is of letters, digits and -, not {tenant!r}", USAGE) from None
    show(made, key)


@keys_app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None, data_dir: Folder = None
) -> None:
    """List all keys, without their secrets."""
    with opened(data_dir) as keys:
        found = keys.list(tenant)
    table = Table(Column("key", no_wrap=True), "tenant", "scopes", "name", "made", "state")
    for key in found:
        ends = f"until {key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "live"
        state = ends if key.live(datetime.now(UTC)) else "ended"
        table.add_row(f"{MARK}{key.id}", key.tenant, ", ".join(key.scopes), key.name, f"{key.created_at:%F}", state)
    OUT.print(table)


@keys_app.command()
def rotate(
    key_id: KeyId,
    hours: Annotated[float, typer.Option(min=0.0, help="How long the old key works beside the new one.")] = 24.0,
    data_dir: Folder = None,
) -> None:
    """Make a second key like this one; the old one ends later."""
    with opened(data_dir) as keys:
        made, key = keys.rotate(key_id, overlap_seconds=hours * HOUR_SECONDS)
    show(made, key)


@keys_app.command()
def revoke(key_id: KeyId, data_dir: Folder = None) -> None:
    """End a key now."""
    with opened(data_dir) as keys:
        keys.revoke(key_id)
    tell(f"{key_id} opens nothing any more")
