"""The content policy: a function of the operator's that judges texts before an edit and pictures before and after it.

See `jobs.policy`. The API refuses forbidden texts already when they are sent, where it can; here everything is judged,
also what came another way. It runs in the worker, so a model may do the judging. The verdict goes into the receipt and
the log, its reason into the job's error; no picture is kept.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from jobs.media import SEEN, media_type_of
from jobs.policy import Judge, Kind, Subject, Verdict, load_judge, texts_of
from jobs.settings import Settings
from models.video.source import CONTAINERS
from workers.failures import PolicyRefused
from workers.screen import screen
from workers.work import Edit, Engine, Hooks, Made

log = structlog.get_logger(__name__)


def policed(engine: Engine, settings: Settings) -> Engine:
    """The engine under the settings' policy; itself without one. Raises ImportError, AttributeError and ValueError."""
    if not settings.policy:
        return engine
    judge = load_judge(settings.policy)
    enforced, most = settings.policy_mode == "enforce", settings.policy_frames

    def edit(task: Edit, hooks: Hooks, given: Settings) -> Made:
        decided: list[dict[str, Any]] = []

        def ask(kind: Kind, **what: Any) -> None:
            decided.append(_decide(judge, Subject(kind, task.method, **what), enforced))

        ask("input.text", texts=texts_of(task.params))
        screen(task.inputs, settings)
        for name, source in task.inputs.items():
            if media_type_of(source.path).startswith(SEEN):
                ask("input.video", name=name, pictures=tuple(sampled(source.path, most)))
        # what is shown on the way was judged by nobody
        made = engine(replace(task, preview=None) if enforced else task, hooks, given)
        for item in made.files:
            if item.media_type.startswith(SEEN):
                ask("output.video", pictures=tuple(sampled(item.path, most)))
        return replace(made, receipt=made.receipt | {"policy": decided})

    return edit


def _decide(judge: Judge, subject: Subject, enforced: bool) -> dict[str, Any]:
    """Ask, write down, and refuse. A judge that fails forbids where the policy is enforced."""
    try:
        verdict = judge(subject)
    except Exception as error:
        log.error("the content policy failed", kind=subject.kind, exc_info=error)
        verdict = Verdict(False, "the content policy could not decide")
    decision = {"kind": subject.kind, "input": subject.name, "allowed": verdict.allowed, "reason": verdict.reason}
    log.info("content policy", enforced=enforced, **decision)
    if enforced and not verdict.allowed:
        raise PolicyRefused(f"policy.{subject.kind}", verdict.reason)
    return decision


def sampled(path: Path, most: int) -> Iterator[NDArray[np.uint8]]:
    """Up to `most` pictures of a clip or picture, spread evenly over it."""
    total = sum(1 for _ in _pictures(path))
    wanted = {round(number * (total - 1) / max(1, most - 1)) for number in range(most)}
    return (picture for number, picture in enumerate(_pictures(path)) if number in wanted)


def _pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    if media_type_of(path).startswith("image/"):
        with Image.open(path) as image:
            for page in ImageSequence.Iterator(image):
                yield np.asarray(page.convert("RGB"))
        return
    with av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}) as container:
        if container.streams.video:  # sound alone comes in the same containers
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
