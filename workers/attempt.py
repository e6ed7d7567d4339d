"""One attempt at one job: fetch, edit, publish, finish. It ends in exactly one way, and always by its fence:

committed, failed with a code, canceled, handed back to the queue, or dropped because the job is someone else's.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from jobs import manifest
from jobs.leases import Claim, Outcome
from jobs.manifest import InputFile
from jobs.schema import Output, Placement, Usage
from jobs.settings import Settings
from jobs.store import ObjectMissing
from workers import provenance, publish
from workers.diary import Diary
from workers.failures import FetchFailed, explain, is_disk_full, is_fatal
from workers.heartbeat import ABANDONED, Heartbeat, Verdict
from workers.inputs import fetch
from workers.previews import Previews
from workers.reporter import Reporter
from workers.signs import note_trouble
from workers.spans import Spans
from workers.work import Edit, Fetched, Hooks, Made, StageCache

if TYPE_CHECKING:
    from workers.runner import Runner

PERSIST_SECONDS = 600.0
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Stopped(Exception):
    """The job must stop, seen between two stages."""


class Attempt:
    """Runs in the main thread of the worker's child, while the heartbeat holds the lease."""

    def __init__(self, runner: "Runner", claim: Claim, heart: Heartbeat, folder: Path) -> None:
        """Prepare to work on `claim` in an empty folder."""
        self._runner = runner
        self._settings: Settings = runner.settings
        self._claim = claim
        self._heart = heart
        self._folder = folder
        self._reporter = Reporter(heart.show)
        self._placement = Placement(worker=self._settings.worker_id)
        self._usage = Usage()
        self._told = ("", "")
        self._accepted: dict[str, InputFile] = {}
        self._inputs: dict[str, Fetched] = {}
        self._watch = provenance.Watch(heart.alive, heart.stop_wanted)
        self._diary = Diary(runner.leases, claim)
        heart.also.append(self._diary.flush)
        self._handover = runner.caches.handover(claim, heart)
        self._spans = Spans(claim, self._settings.worker_id)

    def run(self) -> str:
        """Work. Returns a final state, `queued` or `lost`. Raises QueueUnavailable when Redis stays away."""
        self._heart.place(self._placement)
        with self._spans:
            try:
                made = self._sign(self._edit())
                outputs = self._publish(made)
                return self._spans.ended(self._commit(made, outputs))
            except Exception as error:
                return self._spans.ended(self._end(error))

    def _edit(self) -> Made:
        request = self._claim.job.request
        provenance.check(request, self._settings, self._watch)
        self._inputs = self._fetch()
        salted = f"{self._settings.cache_salt.get_secret_value()}/{self._claim.job.tenant}"
        task = Edit(
            method=request.method,
            checkpoint=request.model or self._settings.checkpoint,
            params=request.engine_params(),
            inputs=self._inputs,
            container=request.output.container,
            folder=self._folder,
            preview=request.output.preview,
            salt=hashlib.sha256(salted.encode()).hexdigest(),
        )
        cache, flights = self._runner.caches.open(self._claim, self._heart)
        previews = Previews(self._runner.store, self._runner.leases, self._claim, self._diary)
        try:
            with previews:
                made = self._runner.engine(task, self._hooks(cache, previews), self._settings)
        finally:
            flights.end_all()
        self._reporter.settle(made.stages)
        return made

    def _fetch(self) -> dict[str, Fetched]:
        self._tell("fetch", "running")
        store, job = self._runner.store, self._claim.job

        def bring() -> dict[str, Fetched]:
            try:
                accepted = manifest.read(store, job.tenant, job.id)
            except ObjectMissing as error:
                raise FetchFailed("the job was deleted from the store") from error
            self._accepted = accepted.inputs
            return fetch(accepted, store, self._folder, self._heart.alive)

        inputs = self._persist(bring)
        size = sum(given.path.stat().st_size for given in inputs.values())
        self._usage = self._usage.model_copy(update={"bytes_in": size})
        self._tell("fetch", "done")
        return inputs

    def _hooks(self, cache: StageCache, previews: Previews) -> Hooks:
        @contextmanager
        def loading(checkpoint: str) -> Iterator[None]:
            log.info("loading checkpoint", checkpoint=checkpoint)
            self._diary.write("loading")
            with self._heart.loading(), self._runner.loading(checkpoint):
                yield

        return Hooks(
            cache=cache,
            tell=self._tell,
            cancelled=self._heart.stop_wanted,
            loading=loading,
            handover=self._handover,
            preview=previews.show,
        )

    def _sign(self, made: Made) -> Made:
        self._tell("publish", "running")
        self._check()
        return provenance.signed(made, self._claim.job.request, self._inputs, self._settings, self._watch)

    def _publish(self, made: Made) -> tuple[Output, ...]:
        outputs = self._persist(lambda: publish.upload(self._runner.store, self._claim, made, self._accepted))
        size = sum(output.size_bytes for output in outputs)
        self._diary.write("outputs.uploaded", size_bytes=size, files=len(outputs))
        self._tell("publish", "done")
        self._runner.announce(device=made.device, warm=made.loaded)
        self._usage = self._usage.model_copy(
            update={
                "bytes_out": size,
                "gpu_seconds": made.gpu_seconds,
                "peak_vram_bytes": made.peak_vram_bytes,
                "frame_evals": sum(stage.frame_evals or 0 for stage in made.stages),
                "saved_frame_evals": sum(stage.saved_frame_evals or 0 for stage in made.stages),
            }
        )
        facts = {"checkpoint": made.checkpoint, "device": made.device, "warm": made.warm}
        self._placement = self._placement.model_copy(update=facts)
        return outputs

    def _commit(self, made: Made, outputs: tuple[Output, ...]) -> str:
        self._diary.close()  # its lines come before that of the state, which is written with the state
        answer = self._persist(lambda: self._runner.leases.finalize(self._claim))
        if answer != "ok":
            return self._stop(answer)
        ended = self._finish(Outcome("succeeded", outputs=outputs, warnings=made.warnings))
        if ended == "lost":
            return self._stop("lost")
        publish.sweep(self._runner.store, self._claim, keep=True)
        self._handover.forget()
        return ended

    def _end(self, error: Exception) -> str:
        if self._heart.verdict is not None:
            return self._stop(self._heart.verdict)
        if is_fatal(error):
            log.error("the device failed, this process gives up", exc_info=error)
            note_trouble(self._settings, "device")
            away = self._runner.avoid_seconds(self._claim.job.pool)
            self._runner.leases.release(self._claim, "gpu.fatal", hand_back=False, avoid_seconds=away)
            os._exit(ABANDONED)
        if is_disk_full(error):
            note_trouble(self._settings, "disk")
            self._runner.caches.make_room()
        where = {"stage": self._reporter.stage, "attempt": self._claim.job.attempt, "worker": self._settings.worker_id}
        problem = explain(error, **where)
        self._spans.fail(problem.code)
        self._diary.write("failed", level="warning", stage=problem.stage, code=problem.code)
        ended = self._finish(Outcome("failed", error=problem))
        publish.sweep(self._runner.store, self._claim, keep=False)
        return ended

    def _stop(self, verdict: Verdict) -> str:
        """Leave the job for the reason the heartbeat, or the record itself, gave."""
        self._diary.write("stopped", reason=verdict)
        self._diary.close()
        publish.sweep(self._runner.store, self._claim, keep=False)
        if verdict == "lost":
            return "lost"
        if verdict == "cancel":
            self._handover.forget()
            return self._finish(Outcome("canceled"))
        return self._persist(
            lambda: self._runner.leases.release(self._claim, "stage_timeout", hand_back=verdict == "preempt")
        )

    def _finish(self, outcome: Outcome) -> str:
        whole = Outcome(
            outcome.state,
            outcome.outputs,
            outcome.error,
            outcome.warnings,
            progress=self._reporter.snapshot(),
            usage=self._usage,
            placement=self._placement,
        )
        self._diary.close()
        ended = self._persist(lambda: self._runner.leases.finish(self._claim, whole))
        self._heart.stop()
        return ended

    def _persist(self, action: Callable[[], T]) -> T:
        return publish.persist(
            action, seconds=PERSIST_SECONDS, give_up=self._heart.stop_wanted, alive=self._heart.alive
        )

    def _check(self) -> None:
        if self._heart.stop_wanted():
            raise Stopped

    def _tell(self, stage: str, state: str, step: int = 0, steps: int = 0) -> None:
        fresh, self._told = (stage, state) != self._told, (stage, state)
        self._reporter.tell(stage, state, step, steps)
        if fresh:
            self._spans.tell(stage, state)
        if fresh and state == "running":
            self._diary.write("stage.begun", stage=stage)
        elif fresh:
            done = next(item for item in self._reporter.snapshot().stages if item.name == stage)
            self._diary.write("stage.ended", stage=stage, outcome=state, cache=done.cache, seconds=done.seconds)
