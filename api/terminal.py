"""What the commands share: the client with its exit codes, the order of an edit, and the live progress bar."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from api import calls
from api.client import Client, RefilmError
from api.views import JobView
from jobs.assets import digest_of
from jobs.states import State

FAILED, USAGE = 1, 2
ERR = Console(stderr=True)


def tell(message: str, style: str = "") -> None:
    """One line on stderr."""
    ERR.print(Text.assemble(("refilm: ", style), message), soft_wrap=True)


def fail(message: str, code: int) -> typer.Exit:
    """Say what is wrong on stderr; raise what is returned."""
    tell(message, "red")
    return typer.Exit(code)


@contextmanager
def connected(server: str, api_key: str) -> Iterator[Client]:
    """A client; refusals of the server become exit codes."""
    with Client(server, api_key or None) as client:
        try:
            yield client
        except RefilmError as error:
            hint = error.problem.get("hint") or ("start one with `refilm up`" if error.code == "unreachable" else "")
            told = f"{error.detail} [{error.code}]" + (f": {hint}" if hint else "")
            wrong_input = 400 <= error.status < 500 and error.status not in (409, 429)
            raise fail(told, USAGE if wrong_input else FAILED) from None


def pairs(given: list[str], option: str) -> dict[str, str]:
    """`name=value` options as a mapping."""
    split = [item.partition("=") for item in given]
    for name, equals, _ in split:
        if not name or not equals:
            raise fail(f"{option} takes name=value", USAGE)
    return {name: value for name, _, value in split}


@dataclass(frozen=True)
class Order:
    """One edit as typed: paths and texts, before anything is uploaded."""

    clip: Path
    method: str
    prompts: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def typed(value: str, schema: Mapping[str, Any]) -> Any:
    """A parameter's value as its schema wants it: text stays text, everything else is read as JSON."""
    kinds = {schema.get("type"), *(branch.get("type") for branch in schema.get("anyOf", []))}
    try:
        return value if kinds <= {"string", "null", None} and "string" in kinds else json.loads(value)
    except ValueError:
        return value


def send(client: Client, order: Order) -> JobView:
    """Upload what the order names and create the job."""
    return client.edit(**prepared(client, order))


def prepared(client: Client, order: Order) -> dict[str, Any]:
    """Upload what the order names; the keywords of `Client.edit` and `Client.estimate`."""
    for path in order.files.values():
        if not path.is_file():
            raise fail(f"there is no file {path}", USAGE)
    known = client.method(order.method).params.get("properties", {})
    params = {name: typed(value, known.get(name, {})) for name, value in order.params.items()}
    with ERR.status(f"sending {order.clip.name}"):
        clip = client.upload(order.clip)
        files = {name: client.upload(path).id for name, path in order.files.items()}
    request: dict[str, Any] = {"method": order.method, "video": clip.id, "params": params, "files": files}
    return request | dict(order.prompts) | dict(order.options)


def again(client: Client, receipt: Path, clip: Path | None, container: str) -> JobView:
    """Create the job that a receipt is of, from files that the server has or from this clip."""
    try:
        held = json.loads(receipt.read_text())
        wanted, made = held["inputs"], held["request"]["output"]["container"]
        digests = {name: str(given["sha256"]) for name, given in wanted.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise fail(f"{receipt} is not a receipt", USAGE) from None
    if made != container:
        raise fail(f"the receipt is of a result in .{made}", USAGE)
    if clip is not None and digest_of(clip) not in digests.values():
        raise fail(f"{clip} is none of the receipt's inputs: its content is another", USAGE)
    if clip is not None:
        client.upload(clip)
    assets = {name: client.send(calls.asset_from_hash(digest)) for name, digest in digests.items()}
    missing = [f"{name} (sha256 {digests[name]})" for name, asset in assets.items() if asset is None]
    if missing:
        raise fail(f"the server does not have {', '.join(missing)}: give it as CLIP", USAGE)
    ids = {name: asset.id for name, asset in assets.items() if asset is not None}
    return client.send(calls.create(calls.edit_again(held, ids)))


def follow(client: Client, job: JobView) -> JobView:
    """Show the job until it has ended; a job that did not succeed ends the command. Ctrl-C offers cancel."""
    try:
        job = show(client, job)
    except KeyboardInterrupt:
        job = interrupted(client, job)
    if job.state is not State.SUCCEEDED:
        why = f"{job.error.title} ({job.error.code}) {job.error.detail}" if job.error else ""
        raise fail(f"{job.id} {job.state} {why}".rstrip(), FAILED)
    for warning in job.warnings:
        tell(f"warning: {warning.code}: {warning.message}", "yellow")
    return job


def interrupted(client: Client, job: JobView) -> JobView:
    """Cancel, or leave it running if the user says so."""
    if sys.stdin.isatty() and not typer.confirm("\nCancel the job?", default=True, err=True):
        raise fail(f"{job.id} goes on; `refilm jobs` shows it", FAILED)
    client.cancel(job.id)
    return show(client, job)


def remaining(job: JobView) -> str:
    """Time to go, from the fraction done and the time since the start."""
    if job.started_at is None or not 0.02 < job.progress.fraction < 1:
        return ""
    passed = (datetime.now(UTC) - job.started_at).total_seconds()
    seconds = max(0, int(passed * (1 / job.progress.fraction - 1)))
    return f"{seconds // 60}:{seconds % 60:02d} left"


def status(job: JobView) -> str:
    """The line beside the bar: stage and step, or the place in the queue."""
    if job.progress.stage is None or job.state in (State.QUEUED, State.ACCEPTED):
        place = f", {job.queue.position} ahead" if job.queue.position > 1 else ""
        return f"{job.state}{place}"
    stage = next((stage for stage in job.progress.stages if stage.name == job.progress.stage), None)
    step = f" {stage.step}/{stage.steps}" if stage is not None and stage.steps else ""
    return f"{job.progress.stage}{step}"


def show(client: Client, job: JobView) -> JobView:
    """The bar, live on a terminal; on anything else one line for each stage."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    last = ""
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal, transient=True) as bar:
        task: TaskID = bar.add_task(status(job), total=1.0, eta="")
        for newest in client.watch(job.id):
            job = newest
            bar.update(task, completed=job.progress.fraction, description=status(job), eta=remaining(job))
            line = f"{job.state} {job.progress.stage or ''}".rstrip()
            if not ERR.is_terminal and line != last:
                tell(line)
            last = line
    return job
