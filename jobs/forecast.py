"""When a job will start and end, from how long jobs like it took, and how sure that is.

Honest above all: without history the basis is `none` and there is no number.
"""

from math import ceil
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from jobs import catalogue
from jobs.history import Sample
from jobs.workload import CACHED, ORDER, Workload, fingerprints, workload

if TYPE_CHECKING:
    from jobs.manifest import Manifest
    from jobs.records import Records

Confidence = Literal["none", "low", "medium", "high"]
ENOUGH, PLENTY = 3, 8
HIT_SECONDS = 0.1
"""Usual time to fetch a stage's result when no sample tells."""
STAGES = ("fetch", *ORDER, "publish")


class Forecast(BaseModel):
    """What is expected of one job from its claim to its end, in seconds; None where nothing is known.

    `compute` is the part that keeps the device busy. `hits` are stages expected in the cache, `prints` what they are
    known by, `units` the work by stage.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str = ""
    seconds: float | None = None
    p90: float | None = None
    compute: float | None = None
    stages: dict[str, float] = {}
    hits: tuple[str, ...] = ()
    basis: str = "none"
    confidence: Confidence = "none"
    samples: int = 0
    prints: dict[str, str] = {}
    units: dict[str, float] = {}


def expect(records: "Records", manifest: "Manifest") -> Forecast:
    """Return what is expected of an accepted request. Raises QueueUnavailable."""
    request, history = manifest.request, records.history
    model = request.model or records.settings.checkpoint
    # a clip that is fetched later, or a method of another version of the service: nothing is known
    if "video" not in manifest.inputs or request.method not in catalogue.load().methods:
        return Forecast()
    work = workload(request, manifest.inputs["video"].clip)
    digests = {name: given.sha256 for name, given in manifest.inputs.items()}
    prints = fingerprints(request, model, manifest.tenant, digests)
    usable = request.cache.inversion == "use"
    hits = history.stored(prints) if usable else set()
    units = {stage: work.units(stage) for stage in STAGES}
    plain = Forecast(kind=work.kind, prints=prints if request.cache.inversion != "off" else {}, units=units)
    for device in _devices(records, request.method, model, manifest.pool):
        about = (request.method, model, device)
        for kind in (work.kind, ""):
            samples = history.samples(about, kind)
            if len(samples) >= (ENOUGH if kind else 1):
                return _from(plain, samples, work, hits, f"{'/'.join(about)}/{kind or 'scaled'}")
    return plain


def _devices(records: "Records", method: str, model: str, pool: str) -> list[str]:
    """The devices to look at: first those of the pool's live workers."""
    live = {worker.device for worker in records.roster.live() if pool in worker.pools}
    return sorted(records.history.devices(method, model), key=lambda device: device not in live)


def _from(plain: Forecast, samples: list[Sample], work: Workload, hits: set[str], basis: str) -> Forecast:
    scaled = basis.endswith("/scaled")
    usuals = {stage: quantile(_seconds(stage, samples, work, stage in hits), 0.5) for stage in STAGES}
    stages = {stage: seconds for stage, seconds in usuals.items() if seconds is not None}
    totals = [
        sample.rest + sum(_one(stage, sample, work, stage in hits) or usual for stage, usual in stages.items())
        for sample in samples
    ]
    usual = quantile(totals, 0.5) or 0.0
    enough: Confidence = "high" if len(samples) >= PLENTY else "medium"
    return plain.model_copy(
        update={
            "seconds": round(usual, 3),
            "p90": round(max(usual, quantile(totals, 0.9) or 0.0), 3),
            "compute": round(sum(seconds for stage, seconds in stages.items() if stage in ORDER), 3),
            "stages": {stage: round(seconds, 3) for stage, seconds in stages.items()},
            "hits": tuple(stage for stage in CACHED if stage in hits and stage in stages),
            "basis": f"quantiles:{basis}",
            "confidence": "low" if scaled else enough,
            "samples": len(samples),
        }
    )


def _seconds(stage: str, samples: list[Sample], work: Workload, hit: bool) -> list[float]:
    found = [_one(stage, sample, work, hit) for sample in samples]
    known = [seconds for seconds in found if seconds is not None]
    return known or ([HIT_SECONDS] if hit and any(stage in sample.stages for sample in samples) else [])


def _one(stage: str, sample: Sample, work: Workload, hit: bool) -> float | None:
    """What the stage took in a sample that met it in the same way, scaled to this work."""
    if stage not in sample.stages or (stage in sample.hits) != hit:
        return None
    before = sample.units.get(stage, 0.0)
    return sample.stages[stage] * (1.0 if hit or before <= 0 else work.units(stage) / before)


def quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None of nothing."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else None
