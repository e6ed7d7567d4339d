"""What the scheduler does to records: reap lost leases, expire late jobs, find bells to ring and cancels to enforce."""

from dataclasses import dataclass

from jobs.records import Records
from jobs.schema import JobError

BATCH = 50
RELINK = 500


@dataclass(frozen=True)
class Overdue:
    """A cancel that its worker has not obeyed: where the job's process is."""

    job_id: str
    node: str
    task: str
    fence: str


class Sweeps:
    """Each call does at most a batch of jobs and can be repeated at will. Raises QueueUnavailable."""

    def __init__(self, records: Records) -> None:
        """Sweep the jobs of these records."""
        self._records = records
        self._settings = records.settings
        self._run = records.run

    def reap(self) -> dict[str, str]:
        """Take jobs whose lease ended from their owners. Returns id to new state; queued ones need a bell."""
        problem = JobError.of("worker_lost").dump()
        found = self._run("reap", self._settings.max_attempts, problem, BATCH)
        return dict(zip(found[::2], found[1::2], strict=True))

    def expire_due(self) -> list[str]:
        """End jobs that missed a deadline."""
        errors = [JobError.of(code).dump() for code in ("deadline_start", "deadline_finish")]
        return list(self._run("expire_due", *errors, BATCH))

    def never_rung(self) -> list[str]:
        """Return queued jobs for which no bell rang since they were queued, and note that it rings now."""
        return list(self._run("due_rings", -1, BATCH))

    def due_rings(self, age_seconds: float, most: int = BATCH) -> list[str]:
        """Return queued jobs whose bell did not ring for so long, the longest first, and note that it rings now."""
        return list(self._run("due_rings", int(age_seconds * 1000), min(most, BATCH)))

    def startable(self) -> dict[str, int]:
        """Return how many jobs of each pool could start at once; those over a cap are not among them."""
        found = self._run("startable")
        return dict(zip(found[::2], map(int, found[1::2]), strict=True))

    def relink(self) -> None:
        """Give jobs that an older version of the service queued their place in line."""
        for pool in self._records.ask("SMEMBERS", f"{self._records.prefix}pools"):
            seen = 0
            while done := int(self._run("relink", pool, seen, RELINK)):
                seen += done

    def rung(self, job_id: str) -> None:
        """Note that the bell rang just now."""
        self._run("rung", job_id)

    def overdue_cancels(self) -> list[Overdue]:
        """Return jobs that are canceling for longer than the grace."""
        found = self._run("overdue_cancels", int(self._settings.cancel_grace_seconds * 1000), BATCH)
        return [Overdue(*found[i : i + 4]) for i in range(0, len(found), 4)]

    def end_lease(self, job_id: str, fence: str) -> bool:
        """Let the lease run out now, because the owner's process was killed. False when the fence is old."""
        return bool(self._run("end_lease", job_id, fence))

    def ended_unarchived(self) -> list[str]:
        """Return ended jobs whose end is not yet written to the store."""
        return list(self._records.ask("ZRANGE", f"{self._records.prefix}archive", 0, BATCH - 1))

    def archived(self, job_id: str) -> None:
        """Note that the store has the job's end."""
        self._records.ask("ZREM", f"{self._records.prefix}archive", job_id)

    def lives_ended(self, now_ms: int) -> list[tuple[str, str]]:
        """Return tenant and id of ended jobs whose outputs, or the whole record, have reached the end of their life."""
        key = f"{self._records.prefix}expiry"
        found = self._records.ask("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, BATCH)
        return [(tenant, job_id) for tenant, _, job_id in (member.partition("/") for member in found)]

    def forgotten(self, tenant: str, job_id: str) -> None:
        """Note that nothing is left of a job."""
        prefix, ask = self._records.prefix, self._records.ask
        for index, member in (
            ("expiry", f"{tenant}/{job_id}"),
            (f"jobs:{tenant}", job_id),
            (f"changed:{tenant}", job_id),
        ):
            ask("ZREM", prefix + index, member)

    def media_gone(self, tenant: str, job_id: str) -> None:
        """Note that the outputs were deleted; without a record, that nothing is left of the job."""
        self._run("media_gone", job_id, tenant)
