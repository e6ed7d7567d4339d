"""Parameters: one word per field says which stage may read it first.

From that word come the cache keys (a stage's key holds the fields of its own stage), the sections of the form, and an
error when a stage reads a field of a later one.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Stage = Literal["prepare", "fit", "invert", "edit", "decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Widget = Literal["prompt", "slider", "boxes", "points", "trajectory", "mask"]
"""The form controls a field may ask for. Places are fractions 0…1 of the frame's width and height, x first:

- ``prompt``: text of several lines, one of the words an edit is described with.
- ``slider``: a number with both ends.
- ``boxes``: objects, each a list of (left, top, right, bottom). One box holds for the whole clip; several are spread
  evenly over it, the first on the first frame and the last on the last.
- ``points``: (x, y) on one frame, or (x, y, to x, to y) for a point that is dragged somewhere.
- ``trajectory``: paths, each a list of (x, y) spread evenly over the clip.
- ``mask``: an image file, white where the clip may change. A list of images is spread like boxes, each holds until the
  next.
"""


def param(
    default: Any,
    *,
    stage: Stage,
    unit: str | None = None,
    advanced: bool = False,
    widget: Widget | None = None,
    labels: tuple[str, ...] = (),
    keyframe: str | None = None,
    **constraints: Any,
) -> Any:
    """Declare one parameter: its default (``...`` = required), the earliest stage that may read it, and its bounds.

    ``unit`` is shown beside the field, ``advanced`` folds it away, ``widget`` names a form control. ``labels`` are
    lists of texts with one entry for each thing drawn here, ``keyframe`` the number (from 0) of the frame it is drawn
    on: fields of the same method that the control fills in too. The docstring below the field is its help text.
    """
    extra: dict[str, Any] = {"x-stage": stage, "x-advanced": advanced}
    if labels:
        extra["x-labels"] = list(labels)
    if keyframe is not None:
        extra["x-keyframe"] = keyframe
    if unit is not None:
        extra["x-unit"] = unit
    if widget is not None:
        extra["x-widget"] = widget
    return Field(default, json_schema_extra=extra, **constraints)


Checkpoint = Annotated[
    str, Field(max_length=200, json_schema_extra={"format": "checkpoint"}, examples=["org/name@revision"])
]
"""A network to load beside the checkpoint, by reference (see `models.weights`); a service offers only some. Empty as
absent: that is what a form sends of a field that was cleared.
"""


class StageViolation(AttributeError):
    """A stage read a parameter that belongs to a later stage, so its cache key would not cover it."""


class Params(BaseModel):
    """Base of all parameter sets: frozen, strict, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __getattr__(self, name: str) -> Any:
        """Explain why a field is missing: it was removed for this stage."""
        if name in type(self).model_fields:
            raise StageViolation(f"parameter {name!r} belongs to stage {stage_of(type(self), name)!r}, a later stage")
        return super().__getattr__(name)  # type: ignore[misc]

    def companions(self) -> tuple[str, ...]:
        """Networks that these parameters ask for beside the checkpoint, by reference."""
        return ()

    def ready(self, backbone: Any, inputs: Any) -> None:
        """Load and check them, before the first stage. Raises WeightsUnavailable, InvalidParams, MissingCondition."""


P = TypeVar("P", bound=Params)


class VideoParams(Params):
    """Which part of the source is edited, and at which size."""

    width: int | None = param(None, ge=64, le=2048, multiple_of=8, stage="prepare", unit="pixels", advanced=True)
    """Working width; left out, the source's aspect ratio at the checkpoint's native area."""
    height: int | None = param(None, ge=64, le=2048, multiple_of=8, stage="prepare", unit="pixels", advanced=True)
    """Working height; left out, the source's aspect ratio at the checkpoint's native area."""
    resize: Literal["stretch", "crop"] = param("stretch", stage="prepare", advanced=True)
    """What another aspect ratio does: stretch keeps the whole picture, crop its middle, undistorted."""
    fps: float | None = param(None, gt=0, le=120, stage="prepare", unit="frames/s", advanced=True)
    """Frame rate to edit at; left out, the source's own."""
    start_seconds: float = param(0.0, ge=0, stage="prepare", unit="seconds", advanced=True)
    """Where the edited part begins."""
    end_seconds: float | None = param(None, gt=0, stage="prepare", unit="seconds", advanced=True)
    """Where the edited part ends; left out, the end of the clip."""
    max_frames: int | None = param(None, ge=1, le=100_000, stage="prepare", unit="frames", advanced=True)
    """Edit at most this many frames; left out, all of them."""


def stage_of(kind: type[Params], name: str) -> Stage:
    """The stage a field was declared with; a field without one is a programming error."""
    extra = kind.model_fields[name].json_schema_extra
    if not isinstance(extra, dict) or extra.get("x-stage") not in STAGES:
        raise TypeError(f"{kind.__qualname__}.{name} has no stage: declare it with param(..., stage=...)")
    return extra["x-stage"]  # type: ignore[return-value]


def own(params: Params, stage: Stage) -> dict[str, Any]:
    """The fields declared for exactly this stage, JSON-ready: what this stage adds to the cache key."""
    names = {name for name in type(params).model_fields if stage_of(type(params), name) == stage}
    return params.model_dump(mode="json", include=names)


def guarded(params: P, stage: Stage) -> P:
    """A real copy of ``params`` that holds only the fields this stage may read; the others raise StageViolation."""
    copy = params.model_copy()
    for name in tuple(later(type(params), stage)):
        del copy.__dict__[name]
    return copy


def later(kind: type[Params], stage: Stage) -> Iterator[str]:
    """Names of the fields that belong to stages after this one."""
    limit = STAGES.index(stage)
    return (name for name in kind.model_fields if STAGES.index(stage_of(kind, name)) > limit)
