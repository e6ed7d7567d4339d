"""Depth of single frames, by a network of transformers' depth estimation such as MiDaS's DPT. arXiv:2103.13413.

The signal is ``f 3 h w``, 0…1, near is white, three equal channels, as ControlNets take it. Networks say how near
things are up to an unknown scale and shift, or how far in metres; the scale is taken from the whole clip, so that it
does not flicker when something near comes in, or from each frame.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.backbones.backbone import config_of
from models.backbones.companions import Companion
from models.backbones.components import read_json
from models.context import Estimator
from models.types import Clip, Frames

VERSION = 1

Normalisation = Literal["clip", "frame"]
FRAMES_AT_ONCE = 8
MULTIPLE = 32
METRIC = ("GLPNForDepthEstimation", "ZoeDepthForDepthEstimation")
"""Networks that tell how far things are, not how near."""


def estimator(companion: Companion, normalisation: Normalisation = "clip") -> Estimator:
    """Make the estimator that asks this network."""

    def find(clip: Clip) -> Frames:
        near = nearness(companion, clip.frames)
        span = (0, 1, 2) if normalisation == "clip" else (1, 2)
        low, high = near.amin(span, keepdim=True), near.amax(span, keepdim=True)
        shown = (near - low) / (high - low).clamp(min=torch.finfo(near.dtype).tiny)
        return shown[:, None].expand(-1, 3, -1, -1).contiguous()

    return find


@torch.no_grad()
def nearness(companion: Companion, frames: Frames) -> Float[Tensor, "f h w"]:
    """What the network says of each frame, at the frames' size, larger is nearer; float32 on the CPU."""
    network: Any = companion.network
    like = next(network.parameters())
    reading = _reading(companion)
    found = [
        network(pixel_values=_prepared(part, reading).to(like)).predicted_depth.float().cpu()
        for part in frames.split(FRAMES_AT_ONCE)
    ]
    resized = functional.interpolate(
        torch.cat(found)[:, None], size=frames.shape[-2:], mode="bicubic", align_corners=False
    )[:, 0]
    far = type(network).__name__ in METRIC or _config(network).get("depth_estimation_type") == "metric"
    return -resized if far else resized


def _config(network: Any) -> dict[str, Any]:
    config = config_of(network)
    return config if isinstance(config, dict) else dict(vars(config))


def _reading(companion: Companion) -> dict[str, Any]:
    """How the network was trained to see pictures; a folder that does not say gets plain ones."""
    path = companion.folder / "preprocessor_config.json"
    return read_json(path) if path.is_file() else {}


def _prepared(frames: Frames, reading: dict[str, Any]) -> Tensor:
    size = _size(tuple(frames.shape[-2:]), reading)
    picture = functional.interpolate(frames.float(), size=size, mode="bicubic", align_corners=False).clamp(0, 1)
    if not reading.get("do_normalize", "image_mean" in reading):
        return picture
    mean, std = (torch.tensor(reading.get(name, [0.5] * 3)).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    return (picture - mean) / std


def _size(given: tuple[int, ...], reading: dict[str, Any]) -> tuple[int, int]:
    """Height and width the network sees frames at: its own size, or the frames' shape at about its own."""
    wanted, multiple = reading.get("size"), int(reading.get("ensure_multiple_of") or MULTIPLE)
    if isinstance(wanted, int):
        wanted = {"height": wanted, "width": wanted}
    if not isinstance(wanted, dict) or "height" not in wanted:
        return _rounded(given[0], multiple), _rounded(given[1], multiple)
    height, width = int(wanted["height"]), int(wanted["width"])
    if not reading.get("keep_aspect_ratio"):
        return height, width
    scale = max(height / given[0], width / given[1])
    return _rounded(given[0] * scale, multiple), _rounded(given[1] * scale, multiple)


def _rounded(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
