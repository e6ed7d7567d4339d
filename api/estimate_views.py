"""The shapes of answers about time: estimates before a job, and what a method usually takes."""

from pydantic import Field

from api.views import EtaView, View


class StageEstimate(View):
    """What one stage usually takes; `cache` says whether its result is expected to be there already."""

    name: str
    seconds: float
    cache: str | None = None
    """`hit`, `miss`, or null for a stage whose result is never kept."""


class QueueEstimate(View):
    """Where the job would stand if it were sent now."""

    position: int
    ahead_gpu_seconds: float | None = None
    wait_seconds: float | None = None
    workers: int


class WorkView(View):
    """The work as far as it can be told beforehand: frames and size that are worked on, steps of stages."""

    frames: int
    width: int
    height: int
    steps: dict[str, int] = Field(default_factory=dict)


class EstimateView(View):
    """What an edit would take. Numbers are null when nothing is known: `eta.basis` is `none` then."""

    object: str = "estimate"
    method: str
    model: str
    pool: str
    work: WorkView | None = None
    """Null for a clip that is named by address."""
    seconds: float | None = None
    """From the job's start to its end, as half of such jobs take at most."""
    p90_seconds: float | None = None
    gpu_seconds: float | None = None
    """The part of it that keeps the device busy."""
    samples: int = 0
    """How many earlier jobs this rests on."""
    stages: tuple[StageEstimate, ...] = ()
    queue: QueueEstimate
    eta: EtaView
