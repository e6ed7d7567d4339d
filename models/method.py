"""Method: five verbs, of which only ``edit`` must be written; the others have a default or are absent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from models import video
from models.backbones import vocabulary
from models.backbones.sd import Preset
from models.context import Context
from models.errors import InvalidParams, MissingCondition
from models.params import Stage, VideoParams, Widget
from models.types import Clip, File, Fitted, Frames, Latents, Trajectory, Video

VERSION = 1


def _file_schema(media: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "format": "asset", "x-media": media})


EditKind = Literal["subject", "colour", "style", "background"]
VideoFile = Annotated[File, _file_schema("video")]
ImageFile = Annotated[File, _file_schema("image")]
AudioFile = Annotated[File, _file_schema("audio")]


def asset(default: Any = ..., *, stage: Stage, widget: Widget | None = None, **constraints: Any) -> Any:
    """Declare one file the caller brings, the earliest stage that reads it (``ctx.inputs[name]``), and how it is made.

    ``widget="mask"`` lets the caller paint an image on the clip.
    """
    drawn: dict[str, Any] = {} if widget is None else {"x-widget": widget}
    return Field(default, json_schema_extra={"x-stage": stage, **drawn}, **constraints)


class VideoInput(BaseModel):
    """The files a method takes; every method takes the clip to edit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    video: VideoFile = asset(stage="prepare")
    """The clip to edit."""


class ControlledInput(VideoInput):
    """The files of a method that a ControlNet can steer."""

    control_video: VideoFile | None = asset(None, stage="edit")
    """condition `given`: the pictures that the ControlNet sees, a clip as long as the one to edit, cut like it."""


Ladder = Mapping[str, tuple[float, float]]


def ladder(**ends: tuple[float, float]) -> Ladder:
    """Name the parameters that keep an edit close to its source: their value at the closest rung, and at the freest."""
    return ends


@dataclass(frozen=True)
class Paper:
    """Where a method was published."""

    arxiv: str
    title: str
    venue: str


class Method:
    """One published editing method. Subclasses are final; state lives in the values verbs return, never on self.

    `fitted` is the Fitted and `trajectory` the Trajectory of the stages before, or None where the method has none; they
    are typed Any here so that a method can name what it gets.
    """

    paper: ClassVar[Paper]
    claims: ClassVar[tuple[EditKind, ...]] = ("subject", "colour", "style", "background")
    """Kinds of edit the paper claims; the benchmark holds the method to them."""
    backbone: ClassVar[Preset]
    families: ClassVar[tuple[str, ...]] = ()
    """Families of checkpoints it runs on, where there are more than its default backbone's."""
    adherence: ClassVar[Ladder] = {}
    """The parameters that say how closely the edit keeps to the source: most, and least closely."""
    Inputs: ClassVar[type[VideoInput]] = VideoInput
    Params: ClassVar[type[VideoParams]] = VideoParams
    optional: ClassVar[tuple[str, ...]] = ("fit", "invert")

    def prepare(self, ctx: Context, p: Any, inputs: VideoInput) -> Clip:
        """Read, trim and resize the clip, and encode it with the VAE; warn when the checkpoint cannot represent it."""
        footage = video.read(
            inputs.video.path,
            start_seconds=p.start_seconds,
            end_seconds=p.end_seconds,
            fps=p.fps,
            max_frames=p.max_frames,
            width=p.width,
            height=p.height,
            crop=p.resize == "crop",
            native_size=ctx.backbone.native_size,
        )
        ctx.check()
        latents = ctx.backbone.encode_frames(footage.frames)
        warn_outside_domain(ctx, footage.frames, latents)
        return Clip(footage.frames, latents, footage.fps, footage.source_width, footage.source_height)

    def fit(self, ctx: Context, p: Any, clip: Clip) -> Fitted | None:
        """Tune on the clip; this method does not."""
        return None

    def invert(self, ctx: Context, p: Any, clip: Clip, fitted: Any) -> Trajectory | None:
        """Find the noise that leads to the clip; this method does not need it."""
        return None

    def edit(self, ctx: Context, p: Any, clip: Clip, fitted: Any, trajectory: Any) -> Latents:
        """Denoise towards the target: ``1 c f h w``."""
        raise TypeError(f"{type(self).__name__} must define edit()")

    def decode(self, ctx: Context, p: Any, clip: Clip, latents: Latents) -> Video:
        """Decode with the VAE; the frames are written at the source's size."""
        return Video(ctx.backbone.decode_latents(latents), clip.fps, clip.source_width, clip.source_height)


def warn_unread_words(ctx: Context, p: VideoParams) -> None:
    """Warn ``unknown_words`` and ``prompt_cut``: words of a prompt that the checkpoint's text encoder does not see."""
    fields = type(p).model_fields
    for name in (name for name in fields if _is_prompt(fields[name].json_schema_extra)):
        prompt = getattr(p, name)
        unknown = vocabulary.unknown_words(ctx.backbone.tokenizer, prompt)
        if unknown:
            known = f"{name}: checkpoint {ctx.backbone.checkpoint} does not know and passes over"
            ctx.warn("unknown_words", f"{known} {', '.join(unknown)}")
        if cut := vocabulary.cut_words(ctx.backbone.tokenizer, prompt):
            ctx.warn("prompt_cut", f"{name} is too long for the text encoder; not read: {cut!r}")


def _is_prompt(extra: Any) -> bool:
    return isinstance(extra, dict) and extra.get("x-widget") == "prompt"


def absent(method: type[Method], stage: str) -> bool:
    """Whether the method leaves this verb out, so that the stage is skipped."""
    return stage in Method.optional and getattr(method, stage) is getattr(Method, stage)


def warn_outside_domain(ctx: Context, frames: Frames, latents: Latents) -> None:
    """Warn ``outside_checkpoint_domain`` when the VAE cannot reproduce the clip to the checkpoint's own floor (dB)."""
    floor = ctx.backbone.domain_psnr_floor
    if floor is None:
        return
    picked = torch.linspace(0, frames.shape[0] - 1, min(4, frames.shape[0])).long()
    error = (ctx.backbone.decode_latents(latents[:, :, picked]) - frames[picked]).square().mean().item()
    psnr = -10 * math.log10(max(error, 1e-10))
    if psnr < floor:
        ctx.warn(
            "outside_checkpoint_domain",
            f"checkpoint {ctx.backbone.checkpoint} reproduces this clip at {psnr:.1f} dB, below {floor:.0f} dB: it was "
            "trained on other footage, so expect a poor edit. For camera footage use Stable Diffusion 1.5: "
            "REFILM_CHECKPOINT=sd15 for the service, --checkpoint sd15 on the command line.",
        )


def validated(
    kind: type[Method], params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[VideoParams, VideoInput]:
    """Parse parameters and inputs; InvalidParams lists every problem with a JSON pointer in ``details['errors']``."""
    errors: list[dict[str, Any]] = []
    parsed: list[Any] = []
    for model, values, where in ((kind.Params, params, "params"), (kind.Inputs, inputs, "input")):
        try:
            parsed.append(model.model_validate(dict(values)))
        except ValidationError as error:
            errors += [_problem(where, item) for item in error.errors()]
    if errors:
        first = errors[0]
        raise InvalidParams(
            f"{first['pointer']}: {first['message']}",
            hint="GET /v1/methods/{id} or `python -m models describe ID` lists the parameters and their bounds",
            details={"errors": errors},
        )
    return parsed[0], parsed[1]


def _problem(where: str, item: Any) -> dict[str, Any]:
    pointer = "/".join(["#", where, *(str(part) for part in item["loc"])])
    return {"pointer": pointer, "code": item["type"], "message": item["msg"], **item.get("ctx", {})}


def require(ctx: Context, name: str) -> File:
    """The named input file, or MissingCondition that says which one is missing."""
    given = ctx.inputs.get(name)
    if not isinstance(given, File):
        raise MissingCondition(f"this method needs the input {name!r}", hint=f"add it to the request: input.{name}")
    return given
