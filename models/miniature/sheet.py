"""A contact sheet: captioned pictures in a grid, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Cell = tuple[str, Tensor]
"""A caption and a frame (3 h w) in 0...1."""
COLUMNS = 12
SIDE = 128
STRIP = 14


def write(path: Path, cells: Sequence[Cell]) -> None:
    """Write the cells as a PNG, `COLUMNS` a row. Raises ValueError when there are none."""
    if not cells:
        raise ValueError("a contact sheet needs at least one picture")
    path.write_bytes(cv2.imencode(".png", compose(cells)[..., ::-1])[1].tobytes())


def compose(cells: Sequence[Cell]) -> NDArray[np.uint8]:
    """The grid as a picture (h w 3); the last row is filled up with white."""
    tiles = [_tile(text, frame) for text, frame in cells]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def _tile(text: str, frame: Tensor) -> NDArray[np.uint8]:
    picture = (frame.clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    tile = np.full((SIDE + STRIP, SIDE + 2, 3), 255, np.uint8)
    tile[:SIDE, :SIDE] = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, text, (1, SIDE + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.29, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
