"""What the judge and the CLIP-like pair share: small pictures, softened in training, and their unseen renders.

Recognisers look at 64x64 pictures. They are trained on renders only, never on what the family generates; a generated
picture went through the VAE, so training pictures are blurred, roughened and coarsely quantised at random.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.miniature import loop, world
from models.miniature.loop import Network
from models.miniature.scene import ATTRIBUTES, Scene

SIDE = 64
HEADS = ("subject", "colour", "background", "style")
"""The attributes that one picture shows; motion and camera need a clip."""
HELD_OUT = 900_000
"""First of the seeds that recognisers are measured on; training seeds begin at `data.FIRST_SEED`."""


def labels(shown: list[Scene]) -> Tensor:
    """Positions of the scenes' words in the world's lists, (n 4) int64, columns as `HEADS`."""
    return torch.tensor([[ATTRIBUTES[head].index(getattr(scene, head)) for head in HEADS] for scene in shown])


def frames_of(pictures: NDArray[np.uint8]) -> Float[Tensor, "n 3 h w"]:
    """Pictures (n h w 3) as frames in 0...1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def shrink(frames: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c 64 64"]:
    """Frames of any size in 0...1 as the recognisers see them."""
    if frames.shape[-2:] == (SIDE, SIDE):
        return frames.float()
    return functional.interpolate(frames.float(), size=(SIDE, SIDE), mode="area")


def unseen(count: int) -> tuple[Float[Tensor, "n 3 64 64"], list[Scene]]:
    """Renders of `count` held-out scenes, as the recognisers see them, and the scenes."""
    parts, shown = [], []
    for start in range(0, count, 250):
        pictures, scenes = world.render_pictures(range(HELD_OUT + start, HELD_OUT + min(start + 250, count)))
        parts.append(shrink(frames_of(pictures)))
        shown += scenes
    return torch.cat(parts), shown


def drawn(step: int, count: int, size: int) -> tuple[Tensor, torch.Generator]:
    """The rows (ascending, size) of the pictures of a training step, and the generator for the rest of its choices."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(count, (size,), generator=generator).sort().values, generator


def soften(frames: Float[Tensor, "n 3 64 64"], generator: torch.Generator) -> Float[Tensor, "n 3 64 64"]:
    """Each picture blurred, JPEG-quantised and made noisy by a random amount, often by none."""

    def some(share: float) -> tuple[Tensor, Tensor]:
        rows = torch.rand(len(frames), generator=generator) < share
        return rows, torch.rand((int(rows.sum()), 1, 1, 1), generator=generator)

    frames = frames.clone()
    rows, strength = some(0.5)
    frames[rows] = torch.lerp(frames[rows], _blurred(frames[rows]), strength)
    rows, strength = some(0.4)
    frames[rows] = _quantised(frames[rows], 0.02 + 0.10 * strength)
    rows, strength = some(0.4)
    frames[rows] += 0.05 * strength * torch.randn(frames[rows].shape, generator=generator)
    return frames.clamp_(0, 1)


def _blurred(frames: Tensor, sigma: float = 1.3) -> Tensor:
    taps = torch.exp(-torch.arange(-3, 4).float().square() / (2 * sigma**2))
    kernel = (taps / taps.sum()).view(1, 1, -1).repeat(3, 1, 1)
    padded = functional.pad(frames, (3, 3, 3, 3), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, :, None], groups=3)
    return functional.conv2d(rows, kernel[..., None], groups=3)


def _quantised(frames: Tensor, step: Tensor) -> Tensor:
    """Round the cosine coefficients of 8x8 blocks, higher frequencies more coarsely, as JPEG does."""
    place = torch.arange(8).float()
    basis = torch.cos((2 * place + 1) * place[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    blocks = rearrange(frames, "n c (y p) (x q) -> n c (y x) p q", p=8, q=8)
    width = (step * (1 + place + place[:, None])).unsqueeze(1)
    rough = (basis @ blocks @ basis.T / width).round() * width
    return rearrange(basis.T @ rough @ basis, "n c (y x) p q -> n c (y p) (x q)", y=SIDE // 8)


def trunk(widths: tuple[int, int, int, int]) -> nn.Sequential:
    """Convolutions from pictures (n 3 64 64) to maps (n c 4 4); `widths`: two at 16, then at 8 and 4 pixels a side.

    The picture is unshuffled first, because a CPU is slow at few channels and many pixels.
    """
    first, second, third, fourth = widths
    return nn.Sequential(
        nn.PixelUnshuffle(4),
        *_block(48, first),
        *_block(first, second),
        nn.MaxPool2d(2),
        *_block(second, third),
        *_block(third, third),
        nn.MaxPool2d(2),
        *_block(third, fourth),
        *_block(fourth, fourth),
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def features(layers: nn.Module, frames: Float[Tensor, "n 3 64 64"]) -> Float[Tensor, "n d"]:
    """Mean and maximum over the trunk's maps."""
    maps = layers((frames - 0.5).contiguous(memory_format=torch.channels_last))
    return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


def write_half(network: nn.Module, path: Path) -> None:
    """Write a network's state as fp16 safetensors; whole numbers stay what they are."""
    state = network.state_dict().items()
    save_file(
        {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in state}, path
    )


def averaged(run: loop.Run[Network]) -> Network:
    """The run's averaged network with the latest batch statistics, which are running averages already."""
    network = run.average.network
    with torch.no_grad():
        for kept, latest in zip(network.buffers(), run.network.buffers(), strict=True):
            kept.copy_(latest)
    return network


def publish(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder and put it in the place of `out`, so that no reader sees half of it."""
    fresh, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    write(fresh)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
