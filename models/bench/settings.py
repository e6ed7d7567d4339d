"""What the suite sets apart from the methods' own defaults, which are their papers' for Stable Diffusion.

One table: the benchmark page prints it, with the reason of every line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models import engine
from models.bench.cases import EDIT_KINDS, Case

PUBLISHED_STEPS = 50
"""Steps of denoising that counts of steps in papers refer to."""
COUNTED_OF_ALL = ("num_feature_steps", "num_attention_steps")
"""Fields that count some of the denoising steps, and therefore shrink with them."""
KEEPING_SHAPE = ("colour", "style", "background")
"""Kinds of edit that leave outlines where they are."""


@dataclass(frozen=True)
class Setting:
    """One value: of which methods (all that have the field when empty), in which kinds of edit, and why."""

    field: str
    value: Any
    why: str
    methods: tuple[str, ...] = ()
    kinds: tuple[str, ...] = EDIT_KINDS


SETTINGS = (
    Setting(
        "guidance_scale",
        4.0,
        "the miniature was trained and judged at 4; at 7.5 it oversaturates, which costs 1 to 2 dB of PSNR",
    ),
    Setting(
        "quality_prompt", "", "words like `best quality` are not in the miniature's vocabulary", ("ground_a_video",)
    ),
    Setting(
        "learning_rate",
        3e-4,
        "tuning is cut to 30 steps (`--fit-steps`); ten times the step size makes up for it",
        ("tune_a_video", "video_p2p", "ei2"),
    ),
    Setting("null_text_inner_steps", 2, "10 as published would double the cost of the edit", ("video_p2p",)),
    Setting(
        "self_replace_until",
        0.3,
        "changes of shape need attention of their own; the paper's settings for them also let go earlier",
        ("fatezero",),
        ("subject",),
    ),
    Setting("cross_replace_until", 0.3, "as above", ("fatezero",), ("subject",)),
    Setting(
        "self_replace_until",
        0.3,
        "the source's self-attention brings its brightness along, which a style may have to change",
        ("fatezero",),
        ("style",),
    ),
    Setting("cross_replace_until", 0.3, "as above", ("fatezero",), ("style",)),
    Setting(
        "injection_until",
        0.5,
        "the source's features bring its brightness along, which a background may have to change",
        ("flatten",),
        ("background",),
    ),
    Setting(
        "cross_replace_until",
        0.8,
        "edits that leave the shape alone follow the source longer, as in Prompt-to-Prompt",
        ("video_p2p",),
        KEEPING_SHAPE,
    ),
    Setting("self_replace_until", 1.0, "as above", ("video_p2p",), KEEPING_SHAPE),
    Setting(
        "cross_replace_until",
        0.4,
        "words follow the source a little longer than 0.2, the default: steadier, and the subject still changes",
        ("video_p2p",),
        ("subject",),
    ),
    Setting(
        "num_feature_steps",
        8,
        "the paper gives no number; features of 8 steps of 20 hold frames together",
        ("infusion",),
    ),
    Setting("num_feature_steps", 4, "changes of shape need features of their own sooner", ("infusion",), ("subject",)),
    Setting(
        "num_feature_steps",
        2,
        "with 8 the source's brightness stays where a background has to change it",
        ("infusion",),
        ("background",),
    ),
    Setting(
        "strength",
        0.5,
        "edits that leave the shape alone need less noise; 0.75, the default, frees motion, too",
        ("dreamix",),
        KEEPING_SHAPE,
    ),
    Setting(
        "noise_prior",
        1.0,
        "an edit is held to the clip's own motion; published are 0.1 to 0.5, for new clips that move alike",
        ("motion_director",),
    ),
    Setting(
        "noise_prior",
        0.6,
        "with more the source's brightness stays where a background has to change it",
        ("motion_director",),
        ("background",),
    ),
    Setting(
        "control_net",
        "miniature-softedge",
        "published with ControlNets, for depth and for soft edges; the miniature's sees soft edges",
        ("ground_a_video", "gen_l_video"),
        KEEPING_SHAPE,
    ),
    Setting("condition", "softedge", "as above", ("ground_a_video", "gen_l_video"), KEEPING_SHAPE),
    Setting(
        "mask_threshold",
        0.05,
        "attention to the words of a background is spread thin: at 0.3 they have no region, and all stays the source's",
        ("infusion",),
        ("background",),
    ),
)


def given(method_id: str, case: Case) -> dict[str, Any]:
    """The suite's values for one method and edit; later lines of the table win."""
    fields = engine.find(method_id).Params.model_fields
    return {one.field: one.value for one in _of(method_id) if case.kind in one.kinds and one.field in fields}


def _of(method_id: str) -> Iterator[Setting]:
    return (one for one in SETTINGS if not one.methods or method_id in one.methods)


def table() -> str:
    """The settings as a Markdown table."""
    lines = ["| methods | edits | parameter | value | why |", "|---|---|---|---|---|"]
    for one in SETTINGS:
        kinds = "all" if one.kinds == EDIT_KINDS else ", ".join(one.kinds)
        methods = ", ".join(one.methods) or "all"
        lines.append(f"| {methods} | {kinds} | `{one.field}` | `{one.value}` | {one.why} |")
    return "\n".join(lines) + "\n"
