"""The shapes of answers about batches."""

from datetime import datetime

from pydantic import Field, JsonValue

from api.views import EtaView, View
from jobs.states import BatchState, State


class MatrixView(View):
    """The axes of a matrix as they were posted; a job's coordinates count along them."""

    videos: tuple[dict[str, JsonValue], ...]
    prompts: tuple[dict[str, JsonValue], ...]
    methods: tuple[dict[str, JsonValue], ...]


class BatchProgress(View):
    """How far the batch is: `fraction` of the work, `ended` jobs."""

    fraction: float
    ended: int


class BatchView(View):
    """A batch: many jobs started with one request."""

    id: str
    object: str = "batch"
    version: int
    """Grows with every change; it is the ETag."""
    state: BatchState
    """`accepted` while jobs are still being created; `completed` and `canceled` once all have ended."""
    created_at: datetime
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    total: int
    """How many jobs it has."""
    created: int
    """How many of them exist so far."""
    counts: dict[State, int]
    """Jobs by state; those a cancel kept from being created count as canceled."""
    deleted: int = 0
    progress: BatchProgress
    matrix: MatrixView | None = None
    """Only in the answer about one batch, and null for a list of edits."""
    max_concurrent: int | None = None
    """How many of its jobs may run at the same time."""
    eta: EtaView = EtaView()
    labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    urls: dict[str, str] = Field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether every job has ended."""
        return self.state.terminal


class BatchPage(View):
    """One page of batches; `next_cursor` is null on the last one."""

    data: tuple[BatchView, ...]
    next_cursor: str | None = None
