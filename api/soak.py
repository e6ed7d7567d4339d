"""A long run against the whole service on this machine: `python -m api.soak`.

Many clients send jobs while workers are killed at random. The engine only copies the clip, so what is measured is the
service. In the end every job must have succeeded exactly once; the exit code says so, the figures go to stdout as JSON.
"""

import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic_core import to_json

from api.embedded import Stack
from api.terminal import tell

CLIP = Path(__file__).with_name("sample.mp4")
ENGINE = {"engine": "workers.echo:edit", "lease_seconds": "5", "log_level": "WARNING"}
COPIED = ("prepare", "fit", "invert", "edit", "decode")
POLL_SECONDS = 0.5
CHANCE = random.SystemRandom()
STEPS = 10


@dataclass
class Tally:
    """What the clients saw. `reads` are seconds of each `GET /v1/jobs/{id}`."""

    reads: list[float] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeated: int = 0

    def add(self, job: dict[str, Any]) -> None:
        """Keep an ended job."""
        self.jobs[job["id"]] = job


def engine_seconds(job: dict[str, Any]) -> float:
    """What the engine alone took, as the worker measured it."""
    return sum(stage["seconds"] or 0.0 for stage in job["progress"]["stages"] if stage["name"] in COPIED)


class Caller:
    """One client: uploads the clip once, then sends edits one after the other and reads each until it ends."""

    def __init__(self, url: str, tally: Tally, name: str) -> None:
        """Connect."""
        self._http = httpx.Client(base_url=url, timeout=30)
        self._tally, self._name = tally, name
        self._asset = self._send("POST", "/v1/uploads", content=CLIP.read_bytes()).json()["id"]

    def edits(self, count: int) -> None:
        """Send so many edits; each is waited for."""
        for number in range(count):
            self.edit(number, POLL_SECONDS)

    def edit(self, number: int, poll_seconds: float) -> float:
        """Send an edit and read it until it ends; returns the seconds that took."""
        body = {
            "method": "frame_by_frame",
            "input": {"video": {"asset": self._asset}},
            "prompt": {"target": f"{self._name} {number}"},
            "params": {"num_inference_steps": STEPS},
            "labels": {"soak": self._name},
        }
        headers = {"Idempotency-Key": f"{self._name}-{number}"}
        began = time.monotonic()
        job = self._send("POST", "/v1/edits", json=body, headers=headers).json()
        while job["finished_at"] is None:
            time.sleep(poll_seconds)
            asked = time.monotonic()
            job = self._send("GET", f"/v1/jobs/{job['id']}").json()
            self._tally.reads.append(time.monotonic() - asked)
        self._tally.add(job)
        return time.monotonic() - began

    def _send(self, verb: str, path: str, **options: Any) -> httpx.Response:
        """An answer that is not an error; what may be repeated is."""
        while True:
            answer = self._http.request(verb, path, **options)
            if answer.status_code not in (429, 503):
                answer.raise_for_status()
                return answer
            self._tally.repeated += 1
            time.sleep(float(answer.headers.get("Retry-After", "1")))


@contextmanager
def killing(stack: Stack, workers: int, every_seconds: float) -> Iterator[list[float]]:
    """Kill a random worker, parent and child, every few seconds; the supervisor starts it again. Yields the times."""
    over, killed = threading.Event(), list[float]()

    def kill() -> None:
        while not over.wait(CHANCE.uniform(0.5, 1.5) * every_seconds):
            child = stack.child(f"worker-{CHANCE.randint(1, workers)}")
            if child.pid:
                os.killpg(child.pid, signal.SIGKILL)
                killed.append(time.monotonic())

    thread = threading.Thread(target=kill, name="killer", daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent lie, in milliseconds."""
    return round(1000 * statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 1)


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """Processor time that the processes of each role have used so far, their children included."""
    groups = (
        {child.pid: child.name.partition("-")[0] for child in stack.supervisor.children} if stack.supervisor else {}
    )
    found = dict.fromkeys(groups.values(), 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            group, ticks = int(fields[2]), int(fields[11]) + int(fields[12])
            found[groups.get(group, "")] = found.get(groups.get(group, ""), 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return {role: seconds for role, seconds in found.items() if role}


def overhead(stack: Stack, count: int) -> dict[str, float]:
    """Jobs one after the other on an idle service: what each takes beyond the engine, in milliseconds.

    Processor time depends less on what else the machine does than the times a clock shows.
    """
    caller = Caller(stack.url, tally := Tally(), "alone")
    caller.edit(-1, 0.02)  # the first job waits for the workers to start
    tally.jobs.clear()
    before, began = cpu_seconds(stack), time.monotonic()
    spent = [caller.edit(number, 0.02) for number in range(count)]
    used, seconds = cpu_seconds(stack), time.monotonic() - began
    engine = [engine_seconds(job) for job in tally.jobs.values()]
    beyond = [total - own for total, own in zip(spent, engine, strict=True)]
    held = [job["usage"]["wall_seconds"] - own for job, own in zip(tally.jobs.values(), engine, strict=True)]
    return {
        "engine_ms": percentile(engine, 50),
        "seen_by_the_caller_ms": percentile(beyond, 50),
        "seen_by_the_caller_p95_ms": percentile(beyond, 95),
        "on_the_worker_ms": percentile(held, 50),
        "jobs_per_second": round(count / seconds, 2),
    } | {f"{role}_cpu_ms": round(1000 * (used[role] - before[role]) / count, 1) for role in sorted(used)}


def under_load(
    stack: Stack, jobs: int, clients: int, workers: int, kill_every: float
) -> tuple[Tally, dict[str, float]]:
    """The soak itself; returns what the clients saw and the figures."""
    tally, began = Tally(), time.monotonic()
    shares = [jobs // clients + (number < jobs % clients) for number in range(clients)]
    callers = [Caller(stack.url, tally, f"client-{number}") for number in range(clients)]
    with killing(stack, workers, kill_every) as killed, ThreadPoolExecutor(clients) as pool:
        list(pool.map(Caller.edits, callers, shares))
    spent = time.monotonic() - began
    attempts = sum(len(job["attempts"]) for job in tally.jobs.values())
    return tally, {
        "seconds": round(spent, 1),
        "jobs_per_second": round(jobs / spent, 2),
        "reads": len(tally.reads),
        "reads_per_second": round(len(tally.reads) / spent, 1),
        "read_p50_ms": percentile(tally.reads, 50),
        "read_p99_ms": percentile(tally.reads, 99),
        "workers_killed": len(killed),
        "attempts_lost": attempts - len(tally.jobs),
        "requests_repeated": tally.repeated,
    }


def wrongs(stack: Stack, tally: Tally, jobs: int) -> list[str]:
    """What speaks against "every job exactly once"; empty when nothing does."""
    found = []
    if len(tally.jobs) != jobs:
        found.append(f"{len(tally.jobs)} of {jobs} jobs")
    for job in tally.jobs.values():
        kept = [path.name for path in (stack.data_dir / "store/out/local" / job["id"]).rglob("*.mp4")]
        if job["state"] != "succeeded" or len(job["outputs"]) != 1 or len(kept) != 1:
            found.append(
                f"{job['id']} {job['state']}, {len(job['outputs'])} outputs, {len(kept)} files: {job['error']}"
            )
    counted = httpx.get(f"{stack.url}/metrics", timeout=10).text
    if f"\nrf_jobs_created_total {len(tally.jobs):.1f}" not in counted:
        found.append("the records count other jobs than the clients: some were doubled")
    return found


def run(
    jobs: Annotated[int, typer.Option(min=1)] = 2000,
    clients: Annotated[int, typer.Option(min=1)] = 20,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 3,
    kill_every: Annotated[float, typer.Option(min=0.1, help="Seconds between two kills, on average.")] = 5.0,
    alone: Annotated[int, typer.Option(min=2, help="Jobs sent one by one for the overhead, in a first run.")] = 100,
) -> None:
    """Run the soak in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="refilm-soak-") as folder:
        with Stack(Path(folder) / "alone", settings=ENGINE) as stack:
            figures: dict[str, Any] = {"overhead": overhead(stack, alone)}
        tell(f"overhead: {figures['overhead']}")
        with Stack(Path(folder) / "load", workers=workers, settings=ENGINE) as stack:
            tally, figures["load"] = under_load(stack, jobs, clients, workers, kill_every)
            figures |= {"jobs": jobs, "clients": clients, "workers": workers, "wrong": wrongs(stack, tally, jobs)}
    typer.echo(to_json(figures, indent=1).decode())
    raise typer.Exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    typer.run(run)
