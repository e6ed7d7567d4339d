"""A checkpoint known by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A checkpoint known by name: its family, the reference of its files, and its picture side in pixels.

    `domain_psnr_floor` (dB): a clip the VAE reproduces worse than this is unlike what the checkpoint was trained on.
    """

    id: str
    family: str
    checkpoint: str
    native_size: int
    domain_psnr_floor: float | None = None
