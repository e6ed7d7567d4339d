"""`refilm usage` and `refilm estimate`: what is used and allowed, and what an edit would take."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from api.batch_cli import Key, Server
from api.client import DEFAULT_SERVER
from api.estimate_views import EstimateView
from api.terminal import Order, connected, pairs, prepared
from api.usage_views import QuotaView

OUT = Console()
JSON = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def usage(as_json: JSON = False, server: Server = DEFAULT_SERVER, api_key: Key = "") -> None:
    """Show what you have running, waiting, used today and stored, and your limits."""
    with connected(server, api_key) as client:
        found = client.usage()
    if as_json:
        return typer.echo(found.model_dump_json(indent=2))
    table = Table(Column(found.tenant, no_wrap=True), Column("used", justify="right"), Column("limit", justify="right"))
    rows: dict[str, QuotaView] = {
        "jobs running": found.concurrent,
        "jobs waiting": found.queued,
        "device seconds today": found.gpu_seconds_today,
        "bytes stored": found.bytes_stored,
    }
    for name, quota in rows.items():
        until = f" until {quota.resets_at:%H:%M} UTC" if quota.resets_at and quota.limit is not None else ""
        table.add_row(name, number(quota.used), number(quota.limit) + until)
    table.add_row("reads a minute", "", number(found.rate.reads_per_minute))
    table.add_row("writes a minute", "", number(found.rate.writes_per_minute))
    OUT.print(table)


def estimate(
    clip: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The video to edit.")],
    method: Annotated[str, typer.Option("--method", "-m", help="One of `refilm methods`.")],
    prompt: Annotated[str, typer.Option(help="What the result would show.")],
    adherence: Annotated[
        str | None, typer.Option(help="How closely to keep to the source: adhere_1 … reimagine_3.")
    ] = None,
    source_prompt: Annotated[str, typer.Option(help="What the clip shows now.")] = "",
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value; may be repeated.")] = None,
    file: Annotated[list[str] | None, typer.Option("--input", "-i", help="name=file; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Weights; left out, the server's.")] = None,
    as_json: JSON = False,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """Tell what an edit would take if it were sent now. The clip is uploaded, no job is made."""
    order = Order(
        clip=clip,
        method=method,
        prompts={"prompt": prompt, "source_prompt": source_prompt},
        params=pairs(param or [], "--param"),
        files={name: Path(path) for name, path in pairs(file or [], "--input").items()},
        options={"model": model, "adherence": adherence},
    )
    with connected(server, api_key) as client:
        found = client.estimate(**prepared(client, order))
    if as_json:
        return typer.echo(found.model_dump_json(indent=2))
    OUT.print(foreseen(found))


def foreseen(found: EstimateView) -> Table:
    """An estimate, stage by stage and as a whole; a line where nothing is known."""
    table = Table(Column(found.method, no_wrap=True), Column("seconds", justify="right"), "cache")
    for stage in found.stages:
        table.add_row(stage.name, f"{stage.seconds:.1f}", stage.cache or "")
    whole = (
        f"{found.seconds:.1f}, 9 of 10 within {found.p90_seconds:.1f}" if found.seconds and found.p90_seconds else "-"
    )
    table.add_row("the whole edit", whole, f"from {found.samples} edits like it")
    wait = found.queue.wait_seconds
    where = f"place {found.queue.position}, {found.queue.workers} workers"
    table.add_row("until it starts", "-" if wait is None else f"{wait:.1f}", where)
    return table


def number(value: float | None) -> str:
    """A number with its thousands apart, as short as it is exact enough; no limit is a word."""
    return "no limit" if value is None else f"{value:,.1f}".removesuffix(".0")
