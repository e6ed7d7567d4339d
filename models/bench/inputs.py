"""What a case gives to methods beside two prompts: boxes and phrases from the exact masks, a text for the inversion."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.bench.cases import Case, rendered
from models.bench.settings import KEEPING_SHAPE
from models.miniature.boxes import Box, box_of
from models.miniature.scene import Scene

WITHIN_BOX = ("subject", "colour")
"""Kinds of edits that leave all outside the subject's box as it is."""


def params(method_id: str, case: Case) -> dict[str, Any]:
    """The parameters that come from the case's ground truth; empty for a method that needs none."""
    made = BY_METHOD.get(method_id)
    return {} if made is None else made(case)


def grounding(case: Case) -> dict[str, Any]:
    """The subject's box in every frame, around it before and after the edit, and its phrase before and after."""
    return {
        "boxes": [boxes(case)],
        "source_phrases": [phrase(case.before)],
        "phrases": [phrase(case.after)],
        "inpaint": case.kind in WITHIN_BOX,
    }


def inversion(case: Case) -> dict[str, Any]:
    """The source's prompt for an inversion that has none as published: steadier, where outlines stay."""
    return {"inversion_prompt": case.source_prompt} if case.kind in KEEPING_SHAPE else {}


def boxes(case: Case) -> list[Box]:
    """One box a frame (left, top, right, bottom; fractions)."""
    either = torch.maximum(rendered(case.before).masks, rendered(case.after).masks)[:, 0]
    return [box_of(np.asarray(mask, np.float32)) for mask in either.numpy()]


def phrase(shown: Scene) -> str:
    """The subject in words."""
    return f"a {shown.colour} {shown.subject}"


BY_METHOD: dict[str, Callable[[Case], dict[str, Any]]] = {"ground_a_video": grounding, "gen_l_video": inversion}
