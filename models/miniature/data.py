"""Training data: random scenes of the miniature world, rendered once into a memory-mapped file.

Picture i is the scene of seed `FIRST_SEED + i` at a random time, so a picture and its captions follow from its
index alone. Seeds below `FIRST_SEED` are never trained on: evaluation draws from those.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.miniature import scene as world_scene
from models.miniature import world
from models.miniature.scene import Scene

FIRST_SEED = 10_000_000
SIZE = 128
CHUNK = 256


def pictures(folder: Path, count: int) -> NDArray[np.uint8]:
    """The first `count` training pictures (count 128 128 3) uint8, rendering those not yet in `folder`.

    The file grows in chunks and `pictures.done` counts what is finished: an interrupted run goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, marker = folder / "pictures.u8", folder / "pictures.done"
    done = int(marker.read_text()) if marker.exists() else 0
    with path.open("r+b" if path.exists() else "w+b") as file:
        while done < count:
            size = min(CHUNK, count - done)
            seeds = range(FIRST_SEED + done, FIRST_SEED + done + size)
            file.seek(done * SIZE * SIZE * 3)
            file.write(world.render_pictures(seeds, SIZE)[0].tobytes())
            file.flush()
            done += size
            marker.write_text(str(done))
    return np.memmap(path, np.uint8, "r", shape=(count, SIZE, SIZE, 3))


def rendered(folder: Path) -> int:
    """How many training pictures `folder` holds so far."""
    marker = folder / "pictures.done"
    return int(marker.read_text()) if marker.exists() else 0


def scenes(count: int) -> list[Scene]:
    """The scenes of the first `count` training pictures."""
    return [world_scene.sample_scene(FIRST_SEED + index) for index in range(count)]


def to_tensor(batch: NDArray[np.uint8]) -> Tensor:
    """Bytes (n h w 3) to pictures (n 3 h w) in -1...1, channels last in memory."""
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def crops(source: NDArray[np.uint8], count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Random crops, on the 8-pixel grid and mirrored half of the time: (count 3 side side) in -1...1."""
    chosen = np.sort(rng.integers(len(source), size=count))
    corners = 8 * rng.integers((SIZE - side) // 8 + 1, size=(count, 2))
    parts = [source[i, y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)]
    batch = to_tensor(np.stack(parts))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    return torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)
