"""A clip out of one picture: the camera moves, the picture stands still. arXiv:2302.01329, sec. 3.4."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.types import Frames

VERSION = 1

Camera = Literal["still", "zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down"]

_PANS = {"pan_left": (-1.0, 0.0), "pan_right": (1.0, 0.0), "pan_up": (0.0, -1.0), "pan_down": (0.0, 1.0)}


def moved(picture: Float[Tensor, "c h w"], frames: int, camera: Camera, amount: float) -> Frames:
    """So many frames of a picture, from its first view to its last at even speed: ``f c h w``.

    ``amount`` is the part of the picture's side that a zoom leaves out in its closest view, or that the view of a pan
    travels over. A pan looks at a window smaller by as much, so that no frame shows anything beyond the picture.
    """
    views = torch.stack([_view(camera, amount, i / max(frames - 1, 1)) for i in range(frames)])
    source = picture.expand(frames, *picture.shape)
    grid = F.affine_grid(views.to(picture), list(source.shape), align_corners=False)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp(0, 1)


def _view(camera: Camera, amount: float, time: float) -> Float[Tensor, "2 3"]:
    """The affine map from view to picture at a time from 0 to 1."""
    if camera == "still":
        return _window(1.0, 0.0, 0.0)
    if camera in _PANS:
        across, down = (amount * (2 * time - 1) * direction for direction in _PANS[camera])
        return _window(1 - amount, across, down)
    return _window(1 - amount * (time if camera == "zoom_in" else 1 - time), 0.0, 0.0)


def _window(size: float, across: float, down: float) -> Float[Tensor, "2 3"]:
    return torch.tensor([[size, 0.0, across], [0.0, size, down]])
