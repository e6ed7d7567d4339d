"""What a caller asks for with a batch: a matrix of clips, prompts and methods, or a list of edits, as one plan."""

from collections.abc import Iterator
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs import catalogue
from jobs.request import (
    Adherence,
    CacheOptions,
    Deadline,
    EditInput,
    JobRequest,
    Labels,
    Metadata,
    MethodId,
    ModelRef,
    OutputOptions,
    Params,
    Priority,
    Prompt,
    PromptSet,
    Strict,
    WebhookRef,
)

MOST_JOBS = 10_000
PRIORITY: Priority = "batch"
"""What jobs of a batch have when the caller names none."""


class BatchPlace(BaseModel):
    """The batch a job belongs to, its number there from 0, and its coordinates when the batch is a matrix."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    index: int
    video: int | None = None
    prompt: int | None = None
    method: int | None = None


class BatchClip(EditInput):
    """A clip with the part of it and the other files; `source` says what it shows.

    It is the source prompt of methods that take one, where the prompt brings none of its own.
    """

    source: Prompt = ""


class BatchMethod(Strict):
    """A method, its weights, and its own parameters; they win over the shared ones."""

    method: MethodId
    model: ModelRef | None = None
    adherence: Adherence | None = None
    params: Params = Field(default_factory=dict)


class BatchMatrix(Strict):
    """Every clip with every method and every prompt. What is not a list is shared by all jobs."""

    videos: tuple[BatchClip, ...] = Field(min_length=1, max_length=MOST_JOBS)
    prompts: tuple[PromptSet, ...] = Field(min_length=1, max_length=MOST_JOBS)
    methods: tuple[BatchMethod, ...] = Field(min_length=1, max_length=MOST_JOBS)
    adherence: Adherence | None = None
    params: Params = Field(default_factory=dict)
    output: OutputOptions = OutputOptions()
    cache: CacheOptions = CacheOptions()
    priority: Priority = PRIORITY
    deadline: Deadline = Deadline()
    webhook: WebhookRef | None = None
    """Told once, of `batch.completed`."""
    max_concurrent: int | None = Field(default=None, ge=1, le=MOST_JOBS)
    """How many of the jobs may run at the same time; left out, as many as the tenant may."""
    labels: Labels = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.total > MOST_JOBS:
            raise ValueError(f"the matrix has {self.total} jobs, at most {MOST_JOBS} are taken")
        return self

    @property
    def total(self) -> int:
        """How many jobs the matrix has."""
        return len(self.videos) * len(self.methods) * len(self.prompts)

    def place(self, batch_id: str, index: int) -> BatchPlace:
        """Return a job's coordinates. Prompts turn fastest, so that neighbours share a clip and its inversion."""
        rest, prompt = divmod(index, len(self.prompts))
        video, method = divmod(rest, len(self.methods))
        return BatchPlace(id=batch_id, index=index, video=video, prompt=prompt, method=method)

    def request(self, index: int) -> JobRequest:
        """Return one job's request."""
        place = self.place("", index)
        clip, words, how = (
            self.videos[place.video or 0],
            self.prompts[place.prompt or 0],
            self.methods[place.method or 0],
        )
        borrows = clip.source and not words.source and "source_prompt" in _parameters(how.method)
        return JobRequest(
            method=how.method,
            model=how.model,
            input=EditInput(video=clip.video, trim=clip.trim, files=clip.files),
            prompt=words.model_copy(update={"source": clip.source}) if borrows else words,
            adherence=how.adherence or self.adherence,
            params=self.params | how.params,
            output=self.output,
            cache=self.cache,
            priority=self.priority,
            deadline=self.deadline,
            labels=self.labels,
            metadata=self.metadata,
        )


def _parameters(method: str) -> dict[str, Any]:
    found: dict[str, Any] = catalogue.load().methods.get(method, {}).get("params", {}).get("properties", {})
    return found


class Plan(Protocol):
    """The jobs of a batch by number; made anew each time they are asked for, so that 10,000 never lie in memory."""

    @property
    def total(self) -> int:
        """How many jobs there are."""
        ...

    def place(self, batch_id: str, index: int) -> BatchPlace:
        """Return where the job stands."""
        ...

    def request(self, index: int) -> JobRequest:
        """Return what the job is to do."""
        ...


class Lines:
    """A list of edits, one JSON object a line (NDJSON). Empty lines do not count as jobs."""

    def __init__(self, data: bytes) -> None:
        """Find the lines; nothing is parsed yet."""
        self._lines = tuple((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return len(self._lines)

    def place(self, batch_id: str, index: int) -> BatchPlace:
        """Return the job's number."""
        return BatchPlace(id=batch_id, index=index)

    def request(self, index: int) -> JobRequest:
        """Return one job's request. Raises pydantic's ValidationError."""
        request = JobRequest.model_validate_json(self._lines[index][1])
        return request if "priority" in request.model_fields_set else request.model_copy(update={"priority": PRIORITY})

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Yield each job's line number, counted from 1, and its text."""
        yield from self._lines
