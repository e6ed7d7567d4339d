"""A job that does not fit the device's memory is tried once more, in place, with a plan that spends time instead."""

from dataclasses import replace

import structlog

from jobs.schema import Notice
from jobs.settings import Settings
from models.errors import OutOfMemory
from workers.work import Edit, Engine, Hooks, Made

NOTICE = Notice(
    code="memory_saved",
    message="the job did not fit the device's memory at first and was made with a slower plan, one frame at a time",
)
log = structlog.get_logger(__name__)


def with_second_plan(engine: Engine) -> Engine:
    """Return an engine that runs a job again with `Edit.frugal` when memory was not enough, and says so.

    Finished stages come from the cache. A second failure is the caller's: it carries the hint what to make smaller.
    """

    def edit(task: Edit, hooks: Hooks, settings: Settings) -> Made:
        try:
            return engine(task, hooks, settings)
        except (OutOfMemory, MemoryError) as error:
            if hooks.cancelled():
                raise
            log.warning("out of memory, trying the frugal plan", error=str(error))
        # outside of the handler: the error holds the frames of its traceback, and they hold tensors
        made = engine(replace(task, frugal=True), hooks, settings)
        return replace(made, warnings=(*made.warnings, NOTICE))

    return edit
