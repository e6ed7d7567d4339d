"""An engine for tests: two cached stages at once, then an edit whose steps take as long as PACED_SECONDS says."""

import os
import time

import torch

from models.errors import Cancelled
from workers.work import Edit, Hooks, Made, MadeFile

STEPS = 40


def edit(task: Edit, hooks: Hooks, settings: object) -> Made:
    for stage in ("prepare", "invert"):
        key = f"{stage}{task.inputs['video'].digest}"
        found = hooks.cache.get(stage, key)
        if found is None:
            hooks.tell(stage, "running", 0, 0)
            hooks.cache.put(stage, key, {"latents": torch.arange(8.0)}, {"made": "at a pace"})
        hooks.tell(stage, "done" if found is None else "hit", 0, 0)
    hooks.tell("fit", "skipped", 0, 0)
    for step in range(STEPS):
        if hooks.cancelled():
            raise Cancelled("stopped")
        hooks.tell("edit", "running", step, STEPS)
        time.sleep(float(os.environ.get("PACED_SECONDS", "0")))
    hooks.tell("edit", "done", 0, 0)
    path = task.folder / "output.mp4"
    path.write_bytes(task.inputs["video"].path.read_bytes())
    hooks.tell("decode", "done", 0, 0)
    return Made((MadeFile(path, "video/mp4", 64, 64, 3, 8.0),), checkpoint="paced", device="cpu", warm=True)
