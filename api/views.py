"""The shapes of answers: what routes promise in OpenAPI and what the client reads back.

Unknown fields are ignored, because inside v1 fields may be added. Times are RFC 3339 UTC.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jobs.batch import BatchPlace
from jobs.journal import LogLine
from jobs.schema import Attempt, JobError, Notice, Place, Placement, Progress, Usage
from jobs.states import State


class View(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, protected_namespaces=())


class OutputView(View):
    """One result; `url` serves its bytes, with ranges."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    provenance: str = "none"
    """`c2pa` when the file says, signed, what made it; else `none`."""
    unsigned_sha256: str | None = None
    """Of the file before it was signed: the same for the same edit, which `sha256` of a signed file is not."""
    url: str


class EtaView(View):
    """When the job is expected to start and end, the end that nine of ten keep, and what the guess rests on."""

    start: datetime | None = None
    finish: datetime | None = None
    p90_finish: datetime | None = None
    basis: str | None = None
    """`quantiles:METHOD/MODEL/DEVICE/CLASS`, `progress`, or `none` when there is no history; null once it ended."""
    confidence: str | None = None
    """`none`, `low` (scaled from other work, or pace alone), `medium`, `high`."""


class PreviewView(View):
    """What the edit looked like after `step` of `steps`: an animated WebP of a few frames."""

    url: str
    name: str
    step: int
    steps: int
    attempt: int = 0
    media_type: str = "image/webp"
    width: int
    height: int
    frames: int
    fps: float


class JobView(View):
    """A job: one request to edit one clip."""

    id: str
    object: str = "job"
    version: int
    """Grows with every change; it is the ETag."""
    state: State
    method: str
    model: str | None = None
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    queue: Place = Place()
    eta: EtaView = EtaView()
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    placement: Placement | None = None
    outputs: tuple[OutputView, ...] = ()
    usage: Usage = Usage()
    error: JobError | None = None
    warnings: tuple[Notice, ...] = ()
    retry_of: str | None = None
    batch: BatchPlace | None = None
    """The batch it came with, and its place there."""
    preview: PreviewView | None = None
    """The newest one, where `output.preview` asks for them."""
    receipt: str | None = None
    """Where the receipt is, once the job has succeeded."""
    request_id: str | None = None
    """`X-Request-Id` of the request that made the job."""
    traceparent: str | None = None
    urls: dict[str, str] = {}
    labels: dict[str, str] = {}
    metadata: dict[str, JsonValue] = {}

    @property
    def ended(self) -> bool:
        """Whether the state is one of the four that never change."""
        return self.state.terminal


class LogPage(View):
    """A part of a job's log, oldest line first; `next_cursor` is where later lines begin."""

    data: tuple[LogLine, ...]
    next_cursor: str | None = None


class JobPage(View):
    """One page of jobs; `next_cursor` is null on the last one."""

    data: tuple[JobView, ...]
    next_cursor: str | None = None
    changed_cursor: str | None = None
    """Hand it to `changed_since` to hear only of what changed after this page."""


class AssetView(View):
    """One stored file."""

    id: str
    object: str = "asset"
    name: str = ""
    """What the uploader called it; never used as a path."""
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    facts: dict[str, JsonValue] = {}
    """What the probe found: `kind` (`video`, `image` or `audio`), `width`, `height`, `fps`, `frames` …"""
    urls: dict[str, str] = {}


class PartView(View):
    """The bytes from `start` up to and without `end` go to `url` with PUT."""

    number: int
    url: str
    start: int
    end: int


class UploadView(View):
    """Where to send an announced file: `fields` and the file as a form with POST, the whole with PUT, or each of the
    `parts` with PUT. A `url` may be relative to this API. Then `urls.complete` makes it an asset.
    """

    id: str
    object: str = "upload"
    name: str = ""
    media_type: str
    size_bytes: int
    expires_at: datetime
    method: str
    url: str | None = None
    fields: dict[str, str] = {}
    parts: tuple[PartView, ...] = ()
    urls: dict[str, str] = {}


class MethodTimes(View):
    """How long the last jobs with the method took from start to end, whatever their size."""

    p50_seconds: float
    p95_seconds: float
    jobs: int


class MethodSummary(View):
    """One editing method."""

    id: str
    title: str
    summary: str = ""
    paper: dict[str, Any] | None = None
    family: str | None = None
    backbones: tuple[str, ...] = ()
    version: int = 1
    times: MethodTimes | None = None
    """Null until a job with the method has succeeded."""
    urls: dict[str, str] = {}


class MethodView(MethodSummary):
    """A method with the JSON Schemas of what it takes."""

    documentation: str = ""
    stages: tuple[str, ...] = ()
    adherence: dict[str, dict[str, float]] = {}
    """What each rung of `adherence` sets; empty where the method has no such ladder."""
    inputs: dict[str, Any]
    params: dict[str, Any]


class MethodList(View):
    """Every method."""

    data: tuple[MethodSummary, ...]


class ProblemView(View):
    """RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    retryable: bool
    request_id: str
    retry_after: int | None = None
    hint: str | None = None
    errors: tuple[dict[str, Any], ...] = Field(default=())
    log_id: str | None = None


class Health(View):
    """The state of one process."""

    status: str
