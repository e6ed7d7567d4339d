"""Records as answers: links, ETag, and the advice when to ask again."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Response

from api.views import AssetView, EtaView, JobView, OutputView, PreviewView
from jobs.forecast import Forecast
from jobs.outlook import remaining_seconds
from jobs.schema import Asset, Job, Output
from jobs.states import State

QUEUED_SECONDS = (2, 30)
RUNNING_SECONDS = (1, 10)


def etag(version: int) -> str:
    """The weak validator of a job's version."""
    return f'W/"{version}"'


def known_version(if_none_match: str | None) -> int | None:
    """The version a conditional request knows; None when it knows none of ours."""
    text = (if_none_match or "").strip().removeprefix("W/").strip('"')
    return int(text) if text.isdigit() and len(text) < 19 else None


def wait_seconds(prefer: str | None, wait: float | None, longest: float) -> float:
    """How long to hold the answer: `Prefer: wait=N` or `?wait=N`, at most `longest`."""
    asked = wait or 0.0
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait" and value.strip().isdigit():
            asked = float(value.strip()[:6])
    return min(asked, longest)


def retry_after(job: Job) -> int | None:
    """Seconds until asking again is worth it; None once the job has ended."""
    if job.state.terminal:
        return None
    if job.state in (State.ACCEPTED, State.QUEUED):
        low, high = QUEUED_SECONDS
        known = job.queue.wait_seconds
        return max(low, min(high, job.queue.position if known is None else math.ceil(known / 4)))
    left, (low, high) = remaining_seconds(job), RUNNING_SECONDS
    return low if left is None else max(low, min(high, math.ceil(left / 8)))


def eta(job: Job) -> EtaView:
    """When the job starts and ends, as far as that is known, and what the guess rests on."""
    forecast = job.forecast or Forecast()
    if job.state.terminal:
        return EtaView()
    if job.state.owned:
        left = remaining_seconds(job)
        if left is None:
            return EtaView()
        known = forecast.seconds is not None
        basis = forecast.basis if known else "progress"
        spread = (forecast.p90 or 0.0) / forecast.seconds if forecast.seconds else 1.5
        return guess(None, left, left * spread, basis, forecast.confidence if known else "low")
    return expected_eta(forecast, job.queue.wait_seconds)


def expected_eta(forecast: Forecast, wait: float | None) -> EtaView:
    """When a job that waits so long will start and end; no times while it is not known when it starts."""
    if wait is None or forecast.seconds is None:
        return EtaView(start=later(wait), basis=forecast.basis, confidence=forecast.confidence)
    return guess(wait, forecast.seconds, forecast.p90 or forecast.seconds, forecast.basis, forecast.confidence)


def guess(wait: float | None, usual: float, late: float, basis: str, confidence: str) -> EtaView:
    """An ETA from seconds: the wait, and from then the usual end and the one that nine of ten do not exceed."""
    start = wait or 0.0
    finish, last = later(start + usual), later(1.5 * start + late)
    return EtaView(start=later(wait), finish=finish, p90_finish=last, basis=basis, confidence=confidence)


def later(seconds: float | None) -> datetime | None:
    """The time in so many seconds."""
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)


def output_view(job: Job, output: Output) -> OutputView:
    """One result with the path of its bytes."""
    return OutputView(**output.model_dump(), url=f"/v1/jobs/{job.id}/outputs/{output.name}")


def preview_view(job_id: str, preview: Mapping[str, Any]) -> PreviewView:
    """One preview with the path of its bytes."""
    return PreviewView(**preview, url=f"/v1/jobs/{job_id}/previews/{preview['name']}")


def job_view(job: Job) -> JobView:
    """The job as its tenant sees it."""
    self_url = f"/v1/jobs/{job.id}"
    urls = {"self": self_url} | {name: f"{self_url}/{name}" for name in ("events", "logs", "cancel", "retry")}
    made = ("outputs", "preview")
    fields = {name: getattr(job, name) for name in JobView.model_fields if hasattr(job, name) and name not in made}
    receipt = f"{self_url}/receipt" if job.state == State.SUCCEEDED and not job.media_gone else None
    return JobView(
        **fields,
        eta=eta(job),
        outputs=tuple(output_view(job, output) for output in job.outputs),
        preview=preview_view(job.id, job.preview.model_dump()) if job.preview else None,
        receipt=receipt,
        urls=urls,
    )


def asset_view(asset: Asset) -> AssetView:
    """The asset as its tenant sees it."""
    self_url = f"/v1/assets/{asset.id}"
    return AssetView(**asset.model_dump(), urls={"self": self_url, "content": f"{self_url}/content"})


def label_job(response: Response, job: Job) -> None:
    """ETag, `Retry-After` and links on an answer that holds the job."""
    response.headers["ETag"] = etag(job.version)
    seconds = retry_after(job)
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
    url = f"/v1/jobs/{job.id}"
    response.headers["Link"] = f'<{url}/events>; rel="events", <{url}/cancel>; rel="cancel"'


class Advice:
    """The last advice given for a job's version, so that a 304 needs no second read. Bounded, newest kept."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, int], int | None] = OrderedDict()

    def remember(self, job: Job) -> int | None:
        """Keep and return `retry_after` of this job."""
        self._known[job.id, job.version] = seconds = retry_after(job)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return seconds

    def of(self, job_id: str, version: int) -> tuple[bool, int | None]:
        """Whether this version is known, and its advice; None means that the job has ended."""
        return (job_id, version) in self._known, self._known.get((job_id, version))
