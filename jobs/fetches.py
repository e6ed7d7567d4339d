"""Accepted jobs whose files are still to be fetched: who fetches for one holds it, who dies loses it."""

from jobs.records import Records

WAITING = "fetches"
HOLD_SECONDS = 30.0


class Fetches:
    """The fetcher's side of the records. Raises QueueUnavailable."""

    def __init__(self, records: Records) -> None:
        """Fetch for the jobs of these records."""
        self._records = records

    def take(self, most: int) -> list[str]:
        """Return jobs to fetch for; nobody else gets them for `HOLD_SECONDS`."""
        return list(self._records.run("take_due", WAITING, int(HOLD_SECONDS * 1000), most)) if most > 0 else []

    def hold(self, job_id: str) -> bool:
        """Keep a job. False when it is not accepted any more: canceled, expired, deleted."""
        return self.later(job_id, HOLD_SECONDS)

    def later(self, job_id: str, seconds: float) -> bool:
        """Come back to a job after so long."""
        return bool(self._records.run("postpone", WAITING, job_id, int(seconds * 1000)))

    def begin(self, job_id: str) -> int:
        """Count a try, before anything can go wrong; returns how many there were, this one included."""
        return int(self._records.ask("HINCRBY", self._key(job_id), "fetches", 1))

    def give_back(self, job_id: str) -> None:
        """Leave a job to whoever comes next; the try does not count."""
        if self.later(job_id, 0):
            self._records.ask("HINCRBY", self._key(job_id), "fetches", -1)

    def forget(self, job_id: str) -> None:
        """Take off the list what is not to be fetched any more."""
        self._records.ask("ZREM", f"{self._records.prefix}{WAITING}", job_id)

    def _key(self, job_id: str) -> str:
        return f"{self._records.prefix}job:{job_id}"
