"""An engine for tests: it computes nothing, at a pace and with faults that the job's parameters choose."""

import hashlib
import os
import re
import signal
import time

from jobs.settings import Settings
from models.errors import Cancelled, InvalidInput, OutOfMemory
from workers.caches import NoCache
from workers.work import Edit, Hooks, Made, MadeFile


def _key(task: Edit, stage: str) -> str:
    digests = [given.digest for given in task.inputs.values()]
    return hashlib.sha256("/".join([stage, task.salt, *digests]).encode()).hexdigest()


def _cached(task: Edit, hooks: Hooks, settings: Settings, stage: str) -> None:
    key = _key(task, stage)
    if hooks.cache.get(stage, key) is not None:
        hooks.tell(stage, "hit", 0, 0)
        return
    _steps(task, hooks, settings, stage, task.params.get("steps", 3))
    if isinstance(hooks.cache, NoCache):
        hooks.tell(stage, "done", 0, 0)
        return
    import torch  # seconds, which tests without a cache need not pay

    hooks.cache.put(stage, key, {"latents": torch.arange(8.0)}, {"made": "by echo"})
    hooks.tell(stage, "done", 0, 0)


def _steps(task: Edit, hooks: Hooks, settings: Settings, stage: str, count: int) -> None:
    hooks.tell(stage, "running", 0, 0)
    for step in range(count):
        if hooks.cancelled():
            raise Cancelled("stopped")
        hooks.tell(stage, "running", step, count)
        _fault(task, settings, stage, step)
        time.sleep(task.params.get("step_seconds", 0.0))


def _fault(task: Edit, settings: Settings, stage: str, step: int) -> None:
    fault = task.params.get("fault")
    if task.params.get("only", settings.worker_id) != settings.worker_id:
        return
    if stage != "edit" or step != 1 or fault is None or (fault == "memory_once" and task.frugal):
        return
    if fault == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stubborn":
        time.sleep(3600)
    if fault == "wedged":
        re.match(r"(a+)+$", "a" * 64 + "b")  # years inside one C call that keeps the interpreter's lock
    if fault == "not_video":
        raise InvalidInput("not a video", code="input.not_video", hint="send a video")
    if fault in {"memory", "memory_once"}:
        raise OutOfMemory("too large", hint="fewer frames")
    if fault == "disk":
        with (task.folder / "part").open("wb") as part, open("/dev/full", "wb") as full:
            part.write(b"half of a file")
            full.write(b"no room for the rest")
    if fault == "device":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    raise ZeroDivisionError("a secret")


def edit(task: Edit, hooks: Hooks, settings: Settings) -> Made:
    _cached(task, hooks, settings, "prepare")
    hooks.tell("fit", "skipped", 0, 0)
    _cached(task, hooks, settings, "invert")
    _steps(task, hooks, settings, "edit", task.params.get("steps", 3))
    hooks.tell("edit", "done", 0, 0)
    hooks.tell("decode", "running", 0, 0)
    path = task.folder / "output.mp4"
    path.write_bytes(task.inputs["video"].path.read_bytes() + task.params.get("prompt", "").encode())
    hooks.tell("decode", "done", 0, 0)
    return Made(
        (MadeFile(path, "video/mp4", 64, 64, 3, 8.0),),
        checkpoint="echo",
        device="cpu",
        warm=True,
        loaded=(task.checkpoint,),
    )
