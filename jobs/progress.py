"""How far a job is: its stages, and the fraction of the whole. All frozen."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

StageName = Literal["fetch", "prepare", "fit", "invert", "edit", "decode", "publish"]
StageState = Literal["pending", "running", "done", "skipped"]
STAGES: tuple[StageName, ...] = ("fetch", "prepare", "fit", "invert", "edit", "decode", "publish")


class Record(BaseModel):
    """Base of everything the service says: frozen; readers ignore fields they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StageProgress(Record):
    """One stage: `seconds` once it ended, `step` of `steps` while it runs, `cache` where a result can be reused.

    Of its `frame_evals`, `resumed_frame_evals` were run by an earlier attempt that this one continued.
    """

    name: StageName
    state: StageState = "pending"
    seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    cache: Literal["hit", "miss"] | None = None
    frame_evals: int | None = None
    resumed_frame_evals: int | None = None
    saved_frame_evals: int | None = None
    saved_seconds: float | None = None


class Progress(Record):
    """Where a job is: `fraction` of the work, the running stage and its index counted from 1."""

    fraction: float = Field(default=0.0, ge=0, le=1)
    stage: StageName | None = None
    stage_index: int = 0
    stages: tuple[StageProgress, ...] = tuple(StageProgress(name=name) for name in STAGES)
