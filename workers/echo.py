"""An engine that edits nothing: it gives the clip back after the steps it was asked for, a fixed time each.

`REFILM_ENGINE=workers.echo:edit` shows what the service itself costs, on any machine and without weights.
"""

import shutil
import time

from jobs.settings import Settings
from models.errors import Cancelled
from workers.work import Edit, Hooks, Made, MadeFile

STEP_SECONDS = 0.002
STEPS = 10


def edit(task: Edit, hooks: Hooks, settings: Settings) -> Made:
    """Copy the clip. Raises Cancelled between two steps."""
    for stage in ("prepare", "fit", "invert"):
        hooks.tell(stage, "skipped", 0, 0)
    steps = int(task.params.get("num_inference_steps", STEPS))
    for step in range(steps):
        if hooks.cancelled():
            raise Cancelled("stopped")
        hooks.tell("edit", "running", step, steps)
        time.sleep(STEP_SECONDS)
    hooks.tell("edit", "done", 0, 0)
    path = task.folder / "output.mp4"
    hooks.tell("decode", "running", 0, 0)
    shutil.copyfile(task.inputs["video"].path, path)
    hooks.tell("decode", "done", 0, 0)
    return Made((MadeFile(path, "video/mp4"),), checkpoint="echo", device="cpu", warm=True)
