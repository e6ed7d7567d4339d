"""The demonstration: the whole service in a temporary folder edits the bundled clip once, and is gone again."""

import json
import tempfile
from pathlib import Path

import typer

from api.embedded import Stack, StackError
from api.terminal import FAILED, Order, connected, fail, follow, send, tell
from api.views import JobView

SAMPLE = Path(__file__).with_name("sample.mp4")
ORDER = Path(__file__).with_name("sample.json")


def edit(server: str, order: Order, output: Path) -> JobView:
    """Do one edit at this server and fetch its result."""
    words = order.prompts
    tell(f"the service runs on {server}; {words['source_prompt']!r} becomes {words['prompt']!r}")
    with connected(server, "") as client:
        job = follow(client, send(client, order))
        client.download(job, output)
    return job


def run(output: Path) -> None:
    """Edit the sample into `output` and say where it is. Raises `typer.Exit` when something fails."""
    order = Order(clip=SAMPLE, **json.loads(ORDER.read_text()))
    with tempfile.TemporaryDirectory(prefix="refilm-demo-") as folder:
        try:
            with Stack(Path(folder), notify=tell) as stack:
                job = edit(stack.url, order, output)
        except StackError as error:
            raise fail(str(error), FAILED) from None
    tell(f"{job.usage.wall_seconds:.1f} s; source {SAMPLE}, result:")
    typer.echo(output.resolve())
