"""The command line, `refilm --help`. Results on stdout, everything else on stderr.

Exit codes: 0 done, 1 the job failed or the server is not there, 2 wrong usage or input.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from api import batch_cli, usage_cli
from api.client import DEFAULT_SERVER
from api.operate import keys_app
from api.quota_cli import quota
from api.recover import recover
from api.terminal import FAILED, USAGE, Order, again, connected, fail, follow, pairs, send

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(keys_app, name="keys")
app.command()(batch_cli.batch)
app.command()(batch_cli.watch)
app.command()(usage_cli.usage)
app.command()(usage_cli.estimate)
app.command()(quota)
app.command()(recover)
OUT = Console()
DEFAULT_PORT = 7860
CONTAINERS = {".mp4": "mp4", ".gif": "gif", ".webp": "webp"}

Server = Annotated[str, typer.Option("--server", envvar="REFILM_SERVER", help="Base URL of the server.")]
Key = Annotated[str, typer.Option("--api-key", envvar="REFILM_API_KEY", help="Key, if the server wants one.")]
DataDir = Annotated[Path, typer.Option("--data-dir", envvar="REFILM_DATA_DIR", help="Where everything is kept.")]


@app.command()
def up(
    data_dir: DataDir = Path.home() / ".refilm",
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback wants API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free one.")] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from api.embedded import StackError, serve

    try:
        serve(data_dir, host=host, port=port, workers=workers)
    except StackError as error:
        raise fail(str(error), USAGE if error.usage else FAILED) from None


@app.command()
def edit(
    output: Annotated[Path, typer.Option("--output", "-o", help="Result: .mp4, .gif or .webp.")],
    clip: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, readable=True, help="The video to edit.")
    ] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="One of `refilm methods`.")] = "",
    prompt: Annotated[str, typer.Option(help="What the result shows.")] = "",
    receipt: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Make again what this receipt is of.")
    ] = None,
    adherence: Annotated[
        str | None, typer.Option(help="How closely to keep to the source: adhere_1 … reimagine_3.")
    ] = None,
    provenance: Annotated[
        str | None, typer.Option(help="Sign the result: c2pa or none; left out, the server's.")
    ] = None,
    source_prompt: Annotated[str, typer.Option(help="What the clip shows now.")] = "",
    negative_prompt: Annotated[str, typer.Option(help="What the result should not show.")] = "",
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value; may be repeated.")] = None,
    file: Annotated[list[str] | None, typer.Option("--input", "-i", help="name=file; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same video.")] = None,
    model: Annotated[str | None, typer.Option(help="Weights; left out, the server's.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """Edit one clip by text and write the result."""
    if output.suffix not in CONTAINERS:
        raise fail(f"the result's name ends in one of {', '.join(CONTAINERS)}", USAGE)
    if not output.absolute().parent.is_dir():
        raise fail(f"there is no folder {output.absolute().parent}", USAGE)
    if receipt is not None:
        with connected(server, api_key) as client:
            client.download(follow(client, again(client, receipt, clip, CONTAINERS[output.suffix])), output)
        return typer.echo(output)
    if clip is None or not method or not prompt:
        raise fail("an edit takes CLIP, --method and --prompt, or a --receipt", USAGE)
    result = {"provenance": provenance} if provenance else {}
    order = Order(
        clip=clip,
        method=method,
        prompts={"prompt": prompt, "source_prompt": source_prompt, "negative_prompt": negative_prompt},
        params=pairs(param or [], "--param") | ({"seed": str(seed)} if seed is not None else {}),
        files={name: Path(path) for name, path in pairs(file or [], "--input").items()},
        options={"model": model, "adherence": adherence, "output": result | {"container": CONTAINERS[output.suffix]}},
    )
    with connected(server, api_key) as client:
        job = follow(client, send(client, order))
        client.download(job, output)
    typer.echo(output)


@app.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """List the newest jobs."""
    with connected(server, api_key) as client:
        page = client.jobs(state=state, limit=limit)
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    table = Table(Column("job", no_wrap=True), "method", "state", "progress", "created")
    for job in page.data:
        done = f"{job.progress.fraction:.0%}" + (f" {job.progress.stage}" if job.progress.stage else "")
        table.add_row(job.id, job.method, job.state, done, f"{job.created_at:%Y-%m-%d %H:%M:%S}")
    OUT.print(table)


@app.command()
def methods(
    method_id: Annotated[str | None, typer.Argument(help="Show this one's parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """List the methods, or one method's parameters."""
    with connected(server, api_key) as client:
        found = client.method(method_id) if method_id else client.methods()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    elif method_id:
        OUT.print(parameter_table(found.model_dump()["params"]))
    else:
        table = Table(Column("method", no_wrap=True), "title", "backbones")
        for row in found.model_dump()["data"]:
            table.add_row(row["id"], row["title"], ", ".join(row["backbones"]))
        OUT.print(table)


def parameter_table(schema: dict[str, dict[str, dict[str, object]]]) -> Table:
    """A method's parameters: name, default, bounds, meaning."""
    table = Table(Column("parameter", no_wrap=True), "stage", "default", "bounds", "meaning")
    bounds = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf", "enum")
    for name, field in schema.get("properties", {}).items():
        limits = ", ".join(f"{word} {field[word]}" for word in bounds if word in field)
        default = json.dumps(field["default"]) if "default" in field else "required"
        table.add_row(name, str(field.get("x-stage", "")), default, limits, str(field.get("description", "")))
    return table


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the result goes.")] = Path("demo.mp4"),
) -> None:
    """Start the service in a temporary folder, edit the bundled sample clip, stop."""
    from api.demo import run

    run(output)


def main() -> None:
    """Entry point of the `refilm` command."""
    app()


if __name__ == "__main__":
    main()
