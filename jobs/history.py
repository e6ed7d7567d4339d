"""How long jobs took: the last ones of each method, model, device and class of work, and what lies in the stage cache.

Written when a job has succeeded; nothing here is needed for a job to run, and all of it may be lost.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from jobs.records import Records
    from jobs.schema import Progress

CLASS_SAMPLES, ALL_SAMPLES, METHOD_SAMPLES = 32, 64, 64
LIFE_MS = 30 * 86400 * 1000
HINT_SECONDS = 7 * 86400
KNOWN_SECONDS = 2.0
MOST_KNOWN = 2000


class Sample(BaseModel):
    """One job that succeeded: seconds and cache of its stages, the rest of its time, and units of its work by stage."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stages: dict[str, float]
    hits: tuple[str, ...] = ()
    rest: float = 0.0
    units: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds from the claim to the end."""
        return sum(self.stages.values()) + self.rest


class History:
    """Samples by what they depend on. Readings are remembered for `KNOWN_SECONDS`. Raises QueueUnavailable."""

    def __init__(self, records: "Records") -> None:
        """Read and keep samples beside these records."""
        self._records = records
        self._prefix = records.prefix
        self._known: dict[tuple[Any, ...], tuple[float, Any]] = {}

    def note(self, about: tuple[str, str, str], kind: str, sample: Sample) -> None:
        """Keep a sample `about` a method, a model and a device, with its class of work."""
        where, text = "|".join(about), sample.model_dump_json()
        lists = [
            (f"{self._prefix}took:{where}|{kind}", text, CLASS_SAMPLES),
            (f"{self._prefix}took:{where}", text, ALL_SAMPLES),
            (f"{self._prefix}took:{about[0]}", str(round(sample.total, 3)), METHOD_SAMPLES),
        ]
        for key, value, most in lists:
            self._records.ask("LPUSH", key, value)
            self._records.ask("LTRIM", key, 0, most - 1)
            self._records.ask("PEXPIRE", key, LIFE_MS)
        self._records.ask("ZADD", f"{self._prefix}devices:{about[0]}|{about[1]}", int(time.time()), about[2])

    def samples(self, about: tuple[str, str, str], kind: str = "") -> list[Sample]:
        """Return the newest samples, of one class or of all."""
        where = "|".join((*about, kind) if kind else about)
        found = self._remembered("LRANGE", f"{self._prefix}took:{where}", 0, -1)
        return [Sample.model_validate_json(text) for text in found]

    def totals(self, methods: Iterable[str]) -> dict[str, list[float]]:
        """Return how long the last jobs of each method took, in seconds."""
        return {
            method: [float(text) for text in self._remembered("LRANGE", f"{self._prefix}took:{method}", 0, -1)]
            for method in methods
        }

    def devices(self, method: str, model: str) -> list[str]:
        """Return the devices that ran the method with the model, the latest first."""
        return list(self._remembered("ZREVRANGE", f"{self._prefix}devices:{method}|{model}", 0, -1))

    def stored(self, prints: Mapping[str, str]) -> set[str]:
        """Return the stages whose result should be in the cache, by their fingerprints."""
        if not prints:
            return set()
        # never from memory: the clip's last job may have ended a moment ago
        found = self._records.ask("MGET", *(f"{self._prefix}cached:{digest}" for digest in prints.values()))
        return {stage for stage, there in zip(prints, found, strict=True) if there}

    def store(self, digests: Iterable[str]) -> None:
        """Note that results with these fingerprints were put into the cache, or found there."""
        for digest in digests:
            self._records.ask("SET", f"{self._prefix}cached:{digest}", 1, "EX", HINT_SECONDS)

    def _remembered(self, *command: str | int) -> Any:
        until, value = self._known.get(command, (0.0, None))
        if time.monotonic() < until:
            return value
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        value = self._records.ask(*command)
        self._known[command] = (time.monotonic() + KNOWN_SECONDS, value)
        return value


def sample_of(progress: "Progress", began: datetime | None, now: datetime, units: Mapping[str, float]) -> Sample:
    """Return what an ended job's progress tells; `began` is when its last attempt did."""
    stages: dict[str, float] = {stage.name: stage.seconds for stage in progress.stages if stage.seconds is not None}
    wall = (now - began).total_seconds() if began else 0.0
    return Sample(
        stages=stages,
        hits=tuple(stage.name for stage in progress.stages if stage.cache == "hit"),
        rest=round(max(0.0, wall - sum(stages.values())), 3),
        units=dict(units),
    )
