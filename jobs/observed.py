"""What the scripts observe, for metrics: histograms, the queue by pool and priority, and the most memory a worker held.

One source: every process that shows metrics reads them here. Counters are `Records.counters`.
"""

import time
from collections import defaultdict
from dataclasses import dataclass

from jobs.records import Records
from jobs.request import BROKER_PRIORITY

HISTOGRAMS = {
    "stage_seconds": (
        "stage",
        "Seconds that a stage took, of attempts that reached an end; hits of the cache left out.",
    ),
    "queue_seconds": ("pool", "Seconds from entering the queue to the claim."),
    "cancel_seconds": ("", "Seconds from asking a running job to stop to its end."),
    "webhook_seconds": ("", "Seconds from an event to its delivery."),
}
COUNTERS = {
    "jobs_created": "Jobs accepted.",
    "jobs_succeeded": "Jobs that succeeded.",
    "jobs_failed": "Jobs that failed.",
    "jobs_canceled": "Jobs that were canceled.",
    "jobs_expired": "Jobs that missed a deadline.",
    "claims": "Attempts begun.",
    "preemptions": "Jobs handed back by a worker that shut down.",
    "lease_expired": "Leases that ran out: a worker was lost.",
    "fenced_commits": "Results thrown away because the job was someone else's by then.",
    "rings_repeated": "Doorbells rung again.",
    "affinity_picks": "Jobs taken before their turn because their weights were in memory.",
    "eta_jobs": "Jobs that ended and had a forecast.",
    "eta_error_ms": "How wrong those forecasts were, in milliseconds, added up.",
    "cache_hits": "Stages found in the cache.",
    "cache_misses": "Stages not found in the cache.",
    "cache_races": "Stages that two workers made at once.",
    "cache_corrupt": "Results in the cache that did not have their digest.",
    "cache_evictions": "Results taken out of the cache to keep its quota.",
    "cache_saved_ms": "Milliseconds that the cache saved.",
    "model_loads": "Checkpoints read.",
    "batches_created": "Batches accepted.",
    "batches_ended": "Batches whose jobs have all ended.",
    "webhooks_delivered": "Webhooks delivered.",
    "webhooks_failed": "Webhooks given up.",
}
"""Shown from the beginning, so that the first one is an increase."""
STRIDE = 10**13
"""Priorities are so far apart in the order of a queue, whose scores are priority and milliseconds."""


@dataclass(frozen=True)
class Histogram:
    """Observations of one label: how many up to and with each bound (the last is infinity), and their sum."""

    label: str
    buckets: tuple[tuple[str, float], ...]
    total: float


@dataclass(frozen=True)
class Depth:
    """Jobs of one priority that wait in a pool, and how long the first of them has."""

    pool: str
    priority: str
    jobs: int
    age_seconds: float


def histograms(records: Records, name: str) -> list[Histogram]:
    """Return a histogram's labels with cumulative buckets. Raises QueueUnavailable."""
    raw: dict[str, dict[str, float]] = defaultdict(dict)
    for field, value in records.ask("HGETALL", f"{records.prefix}hist:{name}").items():
        label, _, bound = field.rpartition("|")
        raw[label][bound] = float(value)
    found = []
    for label, counts in sorted(raw.items()):
        total, seen, buckets = counts.pop("sum", 0.0), 0.0, []
        for bound in sorted(counts, key=float):
            seen += counts[bound]
            buckets.append(("+Inf" if bound == "inf" else bound, seen))
        if not buckets or buckets[-1][0] != "+Inf":
            buckets.append(("+Inf", seen))
        found.append(Histogram(label, tuple(buckets), total))
    return found


def counters(records: Records) -> dict[str, tuple[str, int]]:
    """Return counters by name, each with what it counts. Raises QueueUnavailable."""
    found = records.counters()
    known = {name: (text, found.pop(name, 0)) for name, text in COUNTERS.items()}
    return known | {name: (f"Counted since the records began: {name}.", number) for name, number in found.items()}


def depths(records: Records) -> list[Depth]:
    """Return what waits, by pool and priority. Raises QueueUnavailable."""
    found, now = [], time.time() * 1000
    for pool in sorted(records.ask("SMEMBERS", f"{records.prefix}pools")):
        key = f"{records.prefix}q:pos:{pool}"
        for priority, number in BROKER_PRIORITY.items():
            low, high = number * STRIDE, f"({(number + 1) * STRIDE}"
            count = int(records.ask("ZCOUNT", key, low, high))
            first = records.ask("ZRANGEBYSCORE", key, low, high, "LIMIT", 0, 1)
            since = float(records.ask("ZSCORE", key, first[0]) or 0) - low if first else now
            found.append(Depth(pool, priority, count, max(0.0, now - since) / 1000))
    return found


def memory_peaks(records: Records) -> dict[str, int]:
    """Return the most device memory that each worker held, in bytes. Raises QueueUnavailable."""
    return {worker: int(value) for worker, value in records.ask("HGETALL", f"{records.prefix}vram").items()}
