"""From the engine's ticks to the job's progress: which stage runs, how far, and the fraction of the whole."""

import time
from collections.abc import Callable
from typing import Literal

from jobs.schema import STAGES, Progress, StageName, StageProgress

WEIGHTS: dict[StageName, float] = {
    "fetch": 0.02,
    "prepare": 0.05,
    "fit": 0.30,
    "invert": 0.20,
    "edit": 0.34,
    "decode": 0.05,
    "publish": 0.04,
}
"""Rough shares of a job's time; a stage that is skipped or comes from the cache gives its share to the others."""


class Reporter:
    """Keeps the stage list of one attempt and hands every new snapshot to `show`."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        """Begin with all stages pending."""
        self._show = show
        self._stages: dict[StageName, StageProgress] = {name: StageProgress(name=name) for name in STAGES}
        self._begun: dict[StageName, float] = {}
        self._inner: dict[StageName, float] = {}
        self._current: StageName | None = None
        self._fraction = 0.0

    @property
    def stage(self) -> StageName | None:
        """The stage that runs, or ran last."""
        return self._current

    def tell(self, stage: str, state: str, step: int = 0, steps: int = 0) -> None:
        """Take one tick: state is `running`, `done`, `hit` or `skipped`."""
        name = next(known for known in STAGES if known == stage)
        if state == "running":
            self._run(name, step, steps)
        elif state == "skipped":
            self._stages[name] = StageProgress(name=name, state="skipped")
        else:
            seconds = time.monotonic() - self._begun.get(name, time.monotonic())
            cache: Literal["hit", "miss"] | None = "hit" if state == "hit" else None
            if state == "done" and name in {"prepare", "fit", "invert"}:
                cache = "miss"
            self._stages[name] = StageProgress(name=name, state="done", seconds=round(seconds, 3), cache=cache)
            self._current = name
        self._show(self.snapshot())

    def settle(self, reports: tuple[StageProgress, ...]) -> None:
        """Replace stages by the engine's own final account of them."""
        self._stages |= {report.name: report for report in reports}
        self._show(self.snapshot())

    def snapshot(self) -> Progress:
        """Return the progress as it is now; the fraction never goes back."""
        weight = {
            name: 0.0 if stage.state == "skipped" or stage.cache == "hit" else WEIGHTS[name]
            for name, stage in self._stages.items()
        }
        done = sum(weight[name] for name, stage in self._stages.items() if stage.state == "done")
        inner = sum(
            weight[name] * self._inner.get(name, 0.0) for name in STAGES if self._stages[name].state == "running"
        )
        self._fraction = max(self._fraction, min(1.0, (done + inner) / max(sum(weight.values()), 1e-9)))
        index = STAGES.index(self._current) + 1 if self._current else 0
        stages = tuple(self._stages[name] for name in STAGES)
        return Progress(fraction=round(self._fraction, 4), stage=self._current, stage_index=index, stages=stages)

    def _run(self, name: StageName, step: int, steps: int) -> None:
        self._current = name
        self._begun.setdefault(name, time.monotonic())
        if steps:
            self._inner[name] = max(self._inner.get(name, 0.0), step / steps)
            self._stages[name] = StageProgress(name=name, state="running", step=step, steps=steps)
        else:
            self._stages[name] = StageProgress(name=name, state="running")
