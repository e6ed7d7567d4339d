"""Read one picture that somebody sent: PNG, JPEG or WebP, its size checked before it is decoded."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from models.errors import InvalidInput
from models.video.source import Limits, standing

FORMATS = ("PNG", "JPEG", "WEBP")


def read_picture(
    path: Path, *, width: int, height: int, limits: Limits | None = None
) -> Float[Tensor, "3 height width"]:
    """The picture upright, its middle cut out at the wanted sides' ratio, scaled: 0…1. Raises InvalidInput."""
    most = (limits or standing()).max_pixels
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > most:
                raise InvalidInput(f"the picture has more than {most} pixels", code="input.too_large_frame")
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        hint = "Give a PNG, JPEG or WebP picture."
        raise InvalidInput(
            "the file is not a picture that can be read", code="input.decode_failed", hint=hint
        ) from error
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255
