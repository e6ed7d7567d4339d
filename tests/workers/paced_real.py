"""The service's own engine at a pace: half a second a step at least, so that a test can act between two."""

import time
from dataclasses import replace

from jobs.settings import Settings
from workers import engine
from workers.work import Edit, Hooks, Made

STEP_SECONDS = 0.5


def edit(task: Edit, hooks: Hooks, settings: Settings) -> Made:
    def tell(stage: str, state: str, step: int, steps: int) -> None:
        hooks.tell(stage, state, step, steps)
        if step < steps:
            time.sleep(STEP_SECONDS)

    return engine.edit(task, replace(hooks, tell=tell), settings)
