"""What both sides exchange about a job: the record, its progress, its outputs and its error. All frozen."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import Field, JsonValue

from jobs.batch import BatchPlace
from jobs.codes import JOB_CODES
from jobs.forecast import Forecast
from jobs.progress import STAGES, Progress, Record, StageName, StageProgress, StageState
from jobs.request import (
    BROKER_PRIORITY,
    AssetRef,
    CacheOptions,
    Deadline,
    EditInput,
    JobRequest,
    OutputOptions,
    Priority,
    PromptSet,
    Trim,
)
from jobs.states import State

__all__ = [
    "BROKER_PRIORITY",
    "STAGES",
    "Asset",
    "AssetRef",
    "Attempt",
    "CacheOptions",
    "Deadline",
    "EditInput",
    "Event",
    "Job",
    "JobError",
    "JobRequest",
    "Notice",
    "Output",
    "OutputOptions",
    "Place",
    "Placement",
    "Preview",
    "Priority",
    "Progress",
    "PromptSet",
    "StageName",
    "StageProgress",
    "StageState",
    "Trim",
    "Usage",
]


class JobError(Record):
    """Why a job failed: a code of `jobs.codes`, the facts about it, and where it happened. Never a traceback."""

    code: str
    title: str
    detail: str = ""
    hint: str = ""
    retryable: bool = False
    stage: StageName | None = None
    attempt: int | None = None
    worker: str | None = None
    log_id: str | None = None
    errors: tuple[dict[str, JsonValue], ...] = ()

    @classmethod
    def of(cls, code: str, detail: str = "", **more: object) -> Self:
        """Build an error from its code; what is not given comes from the table. Raises KeyError if unknown."""
        facts = JOB_CODES[code]
        known = {"code": code, "title": facts.title, "detail": detail, "retryable": facts.retryable}
        return cls.model_validate(known | more | {"hint": more.get("hint") or facts.hint})

    def dump(self) -> str:
        """Return the JSON that scripts take: without empty lists, which Lua cannot tell from empty objects."""
        return self.model_dump_json(exclude_defaults=True)


class Output(Record):
    """One committed result. `key` is its place in the store and is never shown to callers.

    A signed file differs at every signing; `unsigned_sha256` is what it was before, equal for equal edits.
    """

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    provenance: Literal["c2pa", "none"] = "none"
    unsigned_sha256: str | None = None
    key: str = Field(exclude=True, repr=False)


class Attempt(Record):
    """One run: `ended` says how (`succeeded`, `worker_lost`, `preempted`, an error code, ...)."""

    n: int
    worker: str
    started_at: datetime | None = None
    ended: str | None = None
    seconds: float | None = None


class Place(Record):
    """Place in the queue: 1 is next, 0 is not waiting; `reason` tells why a queued job is held back.

    `ahead_gpu_seconds` is the work before it, `wait_seconds` the time until it starts; null when nobody knows.
    """

    position: int = 0
    reason: str | None = None
    ahead_gpu_seconds: float | None = None
    wait_seconds: float | None = None


class Placement(Record):
    """Where the job runs or ran."""

    worker: str
    device: str | None = None
    warm: bool | None = None
    checkpoint: str | None = None


class Usage(Record):
    """What the job used, of all attempts that reached an end. `frame_evals` counts denoiser calls times frames."""

    queue_seconds: float = 0.0
    wall_seconds: float = 0.0
    gpu_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    peak_vram_bytes: int = 0
    frame_evals: int = 0
    saved_frame_evals: int = 0


class Notice(Record):
    """Something the caller should know although the job went on."""

    code: str
    message: str


class Preview(Record):
    """What the edit looked like after `step` of `steps`: a few frames, animated, in the attempt's folder."""

    name: str
    step: int
    steps: int
    attempt: int = 0
    media_type: str = "image/webp"
    width: int
    height: int
    frames: int
    fps: float
    fence: int = Field(exclude=True)


class Job(Record):
    """A job as its tenant sees it. Fields marked excluded are for the service only."""

    id: str
    object: Literal["job"] = "job"
    version: int
    state: State
    method: str
    model: str | None = None
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    queue: Place = Place()
    progress: Progress = Progress()
    attempts: tuple[Attempt, ...] = ()
    placement: Placement | None = None
    outputs: tuple[Output, ...] = ()
    usage: Usage = Usage()
    error: JobError | None = None
    warnings: tuple[Notice, ...] = ()
    retry_of: str | None = None
    batch: BatchPlace | None = None
    request_id: str | None = None
    traceparent: str | None = None
    preview: Preview | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    tenant: str = Field(exclude=True)
    request: JobRequest = Field(exclude=True)
    fence: int = Field(default=0, exclude=True)
    attempt: int = Field(default=0, exclude=True)
    pool: str = Field(default="default", exclude=True)
    media_gone: bool = Field(default=False, exclude=True)
    forecast: Forecast | None = Field(default=None, exclude=True)


class Event(Record):
    """One entry of a job's stream. `id` is the stream's id, good for `Last-Event-ID`."""

    id: str
    type: Literal["state", "progress", "preview", "output", "log", "end"]
    version: int
    state: State
    data: dict[str, JsonValue] = Field(default_factory=dict)


class Asset(Record):
    """A file a tenant brought: metadata only, the bytes lie under the digest in the store."""

    id: str
    object: Literal["asset"] = "asset"
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    tenant: str = Field(exclude=True)


def from_ms(milliseconds: int | None) -> datetime | None:
    """Turn the records' integer milliseconds into UTC; 0 and None are absent."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
