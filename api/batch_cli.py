"""`refilm batch` and `refilm watch`: many jobs from one command, followed to their end, results in a folder."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from api.batch_views import BatchView
from api.client import DEFAULT_SERVER, Client
from api.terminal import ERR, FAILED, USAGE, connected, fail, follow, pairs, tell, typed
from api.views import JobView
from jobs.states import State

Server = Annotated[str, typer.Option("--server", envvar="REFILM_SERVER", help="Base URL of the server.")]
Key = Annotated[str, typer.Option("--api-key", envvar="REFILM_API_KEY", help="Key, if the server wants one.")]
Folder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results; made if it is not there.")]
SUMMARY = "summary.json"


def batch(
    edits: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="One edit a line (NDJSON).")] = None,
    video: Annotated[list[Path] | None, typer.Option("--video", "-v", help="May be repeated.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="What a result shows; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="May be repeated.")] = None,
    source_prompt: Annotated[list[str] | None, typer.Option(help="What each clip shows now, in their order.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value, for all methods.")] = None,
    at_once: Annotated[int | None, typer.Option("--max-concurrent", min=1, help="Jobs that may run at once.")] = None,
    output: Folder = None,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """Edit every video with every prompt and method, or the edits of a file; fetch the results.

    In a file, `{"file": "clip.mp4"}` may stand wherever an edit names an asset: it is uploaded.
    """
    with connected(server, api_key) as client:
        if edits is not None:
            made = client.batches.create_list(read_edits(client, edits))
        else:
            clips = clip_entries(client, video or [], source_prompt or [])
            if not (clips and prompt and method):
                raise fail("give a file of edits, or at least one --video, --prompt and --method", USAGE)
            params = shared_params(client, method, pairs(param or [], "--param"))
            made = client.batches.create(clips, prompt, method, params=params, max_concurrent=at_once)
        tell(f"{made.id}: {made.total} jobs")
        finish(client, made.id, output or Path(made.id))


def watch(
    which: Annotated[str, typer.Argument(metavar="JOB|BATCH", help="Id of a job or a batch.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File, or a batch's folder.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: Key = "",
) -> None:
    """Follow a job or a batch to its end; with --output, fetch what came of it."""
    with connected(server, api_key) as client:
        if which.startswith("bat_"):
            finish(client, which, output)
            return
        job = follow(client, client.job(which))
        if output is not None:
            typer.echo(client.download(job, output))
        else:
            typer.echo(f"{job.id} {job.state}")


def clip_entries(client: Client, videos: list[Path], sources: list[str]) -> list[dict[str, Any]]:
    """The clips, uploaded, each with what it shows."""
    if sources and len(sources) != len(videos):
        raise fail(f"there are {len(videos)} videos and {len(sources)} source prompts", USAGE)
    words = sources or [""] * len(videos)
    return [{"video": {"asset": sent(client, path)}, "source": text} for path, text in zip(videos, words, strict=True)]


def sent(client: Client, path: Path) -> str:
    """The asset that the file became."""
    if not path.is_file():
        raise fail(f"there is no file {path}", USAGE)
    with ERR.status(f"sending {path.name}"):
        return client.upload(path).id


def shared_params(client: Client, methods: list[str], given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as typed, read by the schema of the first method that knows them."""
    known: dict[str, Any] = {}
    for method in methods if given else []:
        known = client.method(method).params.get("properties", {}) | known
    return {name: typed(value, known.get(name, {})) for name, value in given.items()}


def read_edits(client: Client, path: Path) -> list[Any]:
    """The edits of a file, their files uploaded; paths are relative to it."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise fail(f"{path}, line {number}: {error}", USAGE) from None
    return [with_assets(client, edit, path.parent) for edit in found]


def with_assets(client: Client, value: Any, folder: Path) -> Any:
    """The value with every `{"file": …}` in it turned into the asset that the file became."""
    if isinstance(value, dict) and value.keys() == {"file"}:
        return {"asset": sent(client, folder / str(value["file"]))}
    if isinstance(value, dict):
        return {name: with_assets(client, item, folder) for name, item in value.items()}
    return [with_assets(client, item, folder) for item in value] if isinstance(value, list) else value


def finish(client: Client, batch_id: str, folder: Path | None) -> None:
    """Follow the batch, fetch its results, say how it went; a batch that did not wholly succeed ends the command."""
    try:
        ended = show(client, batch_id)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and not typer.confirm("\nCancel the batch?", default=True, err=True):
            raise fail(f"{batch_id} goes on; `refilm watch {batch_id}` follows it", FAILED) from None
        client.batches.cancel(batch_id)
        ended = show(client, batch_id)
    if folder is not None:
        typer.echo(fetch(client, ended, folder))
    told = ", ".join(f"{count} {state}" for state, count in ended.counts.items() if count)
    if ended.counts[State.SUCCEEDED] != ended.total:
        raise fail(f"{batch_id} {ended.state}: {told}", FAILED)
    tell(f"{batch_id} {ended.state}: {told}", "green")


def show(client: Client, batch_id: str) -> BatchView:
    """A bar, live on a terminal; on anything else a line whenever another job has ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[jobs]}"))
    last, newest = -1, client.batches.get(batch_id)
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal, transient=True) as bar:
        task = bar.add_task(newest.state, total=1.0, jobs="")
        for newest in client.batches.watch(batch_id):
            ended, failed = newest.progress.ended, newest.counts[State.FAILED]
            jobs = f"{ended}/{newest.total}" + (f", {failed} failed" if failed else "")
            bar.update(task, completed=newest.progress.fraction, description=newest.state, jobs=jobs)
            if not ERR.is_terminal and ended != last:
                tell(f"{newest.state} {jobs}")
            last = ended
    return newest


def fetch(client: Client, ended: BatchView, folder: Path) -> Path:
    """Bring every result into the folder, and a summary of all jobs beside them; the summary's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row_of(client, job, folder) for job in client.batches.jobs(ended.id)]
    summary: dict[str, Any] = {
        "batch": ended.id,
        "state": ended.state,
        "counts": ended.counts,
        "matrix": None,
        "jobs": rows,
    }
    whole = client.batches.get(ended.id)
    if whole.matrix is not None:
        summary["matrix"] = whole.matrix.model_dump()
    path = folder / SUMMARY
    path.write_text(json.dumps(summary, indent=1))
    return path


def row_of(client: Client, job: JobView, folder: Path) -> dict[str, Any]:
    """One line of the summary; the job's result lies in the folder when it succeeded."""
    row: dict[str, Any] = {"job": job.id, "state": job.state, "method": job.method}
    row |= job.batch.model_dump(exclude={"id"}) if job.batch else {}
    row |= {"wall_seconds": job.usage.wall_seconds, "gpu_seconds": job.usage.gpu_seconds}
    if job.error is not None:
        row["error"] = {"code": job.error.code, "detail": job.error.detail}
    if job.outputs:
        number = job.batch.index if job.batch else 0
        name = f"{number:05d}-{job.method}{Path(job.outputs[0].name).suffix}"
        target = folder / name
        if not target.exists() or target.stat().st_size != job.outputs[0].size_bytes:
            client.download(job, target)
        row["file"] = name
    return row
