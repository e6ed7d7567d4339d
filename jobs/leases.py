"""A worker's hold on a job: claim, beat, finalize, finish, release. Every call carries the fence it got from the claim.

A fence that is no longer the record's is answered with `lost`: the work is then someone else's and must be dropped.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jobs.connection import QueueUnavailable
from jobs.outlook import learn
from jobs.records import Records
from jobs.rows import SCHEMA_VERSION, dump_notices, dump_outputs
from jobs.schema import Job, JobError, Notice, Output, Placement, Preview, Progress, Usage

Beat = Literal["ok", "cancel", "lost"]


@dataclass(frozen=True)
class Claim:
    """A job that is now this worker's, until the lease runs out."""

    job: Job
    fence: int

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id


class Owner(NamedTuple):
    """Who claims: the worker's id, its Celery node name, and the doorbell's task id."""

    worker: str
    node: str
    task: str


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: outputs when it succeeded, an error when it failed, neither when it was canceled."""

    state: Literal["succeeded", "failed", "canceled"]
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    warnings: tuple[Notice, ...] = ()
    progress: Progress | None = None
    usage: Usage | None = None
    placement: Placement | None = None


class Leases:
    """The worker's side of the records. Raises QueueUnavailable when Redis cannot be reached; retrying is safe."""

    def __init__(self, records: Records) -> None:
        """Hold jobs of these records."""
        self._records = records
        self._settings = records.settings
        self._lease_ms = int(records.settings.lease_seconds * 1000)

    def claim(self, job_id: str, owner: Owner) -> Claim | None:
        """Take this very job, whoever's turn it is; None when it is gone, held, ended, or too late."""
        return self._claim(job_id, owner, "", "")

    def take(self, rung_for: str, owner: Owner, *, pool: str = "", warm: Iterable[str] = ()) -> Claim | None:
        """Answer a bell: take whichever job of the pool has its turn, which need not be the one the bell rang for.

        Tenants take turns inside a priority; who has as many jobs running as allowed is passed over. Among the next
        few a job is preferred whose model is `warm` ("" stands for the default). Without `pool` it is the job's own.
        """
        return self._claim(rung_for, owner, pool, json.dumps({"warm": list(warm), "schema": SCHEMA_VERSION}))

    def _claim(self, job_id: str, owner: Owner, pool: str, worker: str) -> Claim | None:
        late = JobError.of("deadline_start").dump()
        answer = self._run("claim", job_id, *owner, self._lease_ms, late, pool, worker)
        if answer[0] != "ok":
            return None
        return Claim(self._records.get(answer[2]), int(answer[1]))

    def beat(self, claim: Claim, *, progress: Progress | None = None, placement: Placement | None = None) -> Beat:
        """Keep the lease, and write progress along with it when given. Progress counts as a visible change."""
        fields = {}
        if progress is not None:
            fields["progress"] = progress.model_dump_json(exclude_none=True)
        if placement is not None:
            fields["placement"] = placement.model_dump_json(exclude_none=True)
        packed = json.dumps(fields) if fields else ""
        answer: Beat = self._run("beat", claim.job_id, claim.fence, self._lease_ms, packed)
        return answer

    def write(self, claim: Claim, lines: Sequence[Mapping[str, Any]]) -> Beat:
        """Add lines, as `jobs.journal.draft` makes them, to the job's log."""
        answer: Beat = self._run("log", claim.job_id, claim.fence, json.dumps(list(lines)))
        return answer

    def show(self, claim: Claim, preview: Preview) -> Beat:
        """Announce a preview that lies in the store."""
        data = preview.model_dump_json(exclude_none=True)
        packed = json.dumps(json.loads(data) | {"fence": claim.fence})
        answer: Beat = self._run("preview", claim.job_id, claim.fence, packed)
        return answer

    def finalize(self, claim: Claim) -> Beat:
        """Announce that outputs are uploaded and the commit is under way: from here a cancel comes too late."""
        answer: Beat = self._run("finalize", claim.job_id, claim.fence, self._lease_ms)
        return answer

    def finish(self, claim: Claim, outcome: Outcome) -> str:
        """Commit. Returns the final state, or `lost`: then nothing was written and the outputs must be removed."""
        fields = {"outputs": dump_outputs(outcome.outputs), "warnings": dump_notices(outcome.warnings)}
        for name in ("error", "progress", "usage", "placement"):
            value = getattr(outcome, name)
            if value is not None:
                fields[name] = value.model_dump_json(exclude_none=True)
        how = outcome.error.code if outcome.error is not None else outcome.state
        ended = str(self._run("finish", claim.job_id, claim.fence, outcome.state, json.dumps(fields), how))
        if ended == "succeeded" and outcome.progress is not None:
            device = outcome.placement.device if outcome.placement else None
            with suppress(QueueUnavailable):  # the job has ended; nobody waits for what is learnt from it
                learn(self._records, claim.job, outcome.progress, device)
        return ended

    def release(self, claim: Claim, code: str, *, hand_back: bool, avoid_seconds: float = 0.0) -> str:
        """Give the job up without an outcome. Returns `queued`, `failed`, `canceled` or `lost`.

        With `hand_back` (a shutdown, not a fault) the attempt does not count. `code` names the reason; it becomes the
        job's error when all attempts are used. For `avoid_seconds` this worker does not get the job again.
        """
        problem = "" if hand_back else JobError.of(code).dump()
        reason = "preempted" if hand_back else code
        most = self._settings.max_attempts
        away = int(avoid_seconds * 1000)
        return str(self._run("release", claim.job_id, claim.fence, reason, int(hand_back), most, problem, away))

    def _run(self, name: str, *arguments: str | int) -> Any:
        return self._records.run(name, *arguments)
