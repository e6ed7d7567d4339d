"""The spans of one attempt: its own, and one for each stage in it."""

from types import TracebackType

from jobs import traces
from jobs.leases import Claim


class Spans:
    """Begins with the attempt, below the span of the request that brought the job. Use as a context manager."""

    def __init__(self, claim: Claim, worker: str) -> None:
        """Begin the attempt's span."""
        job = claim.job
        self._attempt = traces.start(
            "job.attempt",
            parent=job.traceparent or "",
            kind="consumer",
            job_id=job.id,
            tenant=job.tenant,
            method=job.method,
            pool=job.pool,
            attempt=job.attempt,
            fence=claim.fence,
            worker=worker,
        )
        self._stage: traces.Span | None = None

    def __enter__(self) -> "Spans":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End what has not ended; what is raised marks the attempt."""
        if kind is not None:
            self.fail(kind.__name__)
        self._end_stage("stopped")
        self._attempt.end()

    def tell(self, stage: str, state: str) -> None:
        """A stage runs, or ended as `done` or `hit`; one that is skipped leaves no span."""
        if state == "running":
            self._end_stage("stopped")
            self._begin_stage(stage)
        elif state != "skipped":
            if self._stage is None:  # a hit is told by its end alone
                self._begin_stage(stage)
            self._end_stage(state)

    def fail(self, code: str) -> None:
        """The attempt failed, and with it the stage that runs."""
        for span in (self._stage, self._attempt):
            if span is not None:
                span.fail(code)

    def ended(self, outcome: str) -> str:
        """How the attempt ended; returned as it is."""
        self._attempt.tell(outcome=outcome)
        return outcome

    def _begin_stage(self, stage: str) -> None:
        self._stage = traces.start(f"stage.{stage}", parent=self._attempt.traceparent, stage=stage)

    def _end_stage(self, outcome: str) -> None:
        if self._stage is not None:
            self._stage.tell(outcome=outcome)
            self._stage.end()
            self._stage = None
