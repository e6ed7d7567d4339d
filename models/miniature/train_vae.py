"""Training of the miniature's VAE: crops of renders, starting from their patch-PCA code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.backbones.miniature_vae import MiniatureVAE
from models.miniature import data, family, loop, world
from models.miniature.vae import fit_linear_code

PICTURES = 30_000
BATCH = 48
CROP = 64
NOISE = 0.1
PEAK_RATE = 1e-3
FLATTEN = 0.5
"""Latent channel i has standard deviation proportional to its principal component's to this power."""


def new(folder: Path, pictures: int = 1024, channels: int = 4) -> MiniatureVAE:
    """An untrained VAE that equals the patch-PCA code of the first training pictures, latents of unit power."""
    sample = data.to_tensor(data.pictures(folder, pictures)[:pictures])
    mean, basis, deviation = fit_linear_code(sample, channels)
    relative = deviation**FLATTEN
    relative = relative / relative.square().mean().sqrt()
    vae: MiniatureVAE = MiniatureVAE(latent_channels=channels)
    vae.set_linear_code(mean, basis, deviation / relative)
    return vae


def loss(vae: MiniatureVAE, pictures: Tensor, noise: float) -> Tensor:
    """Root-mean-square error per picture, plus that of finite differences, plus a bound on the latents' power.

    `noise` is the deviation of Gaussian noise on the latents: the decoder must bear a denoiser's errors.
    """
    latents = vae.encode_mode(pictures)
    noisy = latents + noise * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(latents)
    result = vae.decode(noisy, return_dict=False)[0].float()
    error = result - pictures
    rms = error.square().mean((1, 2, 3)).add(1e-6).sqrt().mean()
    edges = sum(error.diff(dim=d).square().mean((1, 2, 3)).add(1e-6).sqrt().mean() for d in (-1, -2))
    power = latents.float().square().mean((0, 2, 3))
    return rms + 0.25 * edges + 0.01 * (power - 4).clamp_min(0).square().mean()


@torch.no_grad()
def psnr(vae: MiniatureVAE, pictures: Tensor) -> float:
    """Mean reconstruction PSNR in dB over pictures (n 3 h w) in -1...1, clipped as a file would be."""
    values = []
    for part in pictures.split(16):
        error = (vae(part).clamp(-1, 1) - part) / 2
        values.append(-10 * error.square().mean((1, 2, 3)).log10())
    return float(torch.cat(values).mean())


def train(
    folder: Path, minutes: float, resume: bool = False, decoder_only: bool = False, pictures: int = PICTURES
) -> None:
    """Train for `minutes` and export the average at each checkpoint; files go to `folder`/vae.

    `decoder_only` keeps the encoder, and so the latents that a UNet was trained on.
    """
    vae = family.load_vae() if resume and (family.WEIGHTS / "vae").exists() else new(folder)
    vae = vae.to(memory_format=torch.channels_last).train()
    for part in (vae.encoder, vae.analysis):
        part.requires_grad_(not decoder_only)
    name = "vae-decoder" if decoder_only else "vae"
    plan = loop.Plan(folder / name, minutes, "reconstruction error", resume, PEAK_RATE, weight_decay=0.0)
    held_out = _held_out()

    def batch_loss(network: MiniatureVAE, step: int) -> Tensor:
        source = data.pictures(folder, min(max(data.rendered(folder), BATCH), pictures))
        batch = data.crops(source, BATCH, CROP, np.random.default_rng((1, step)))
        with loop.autocast():
            return loss(network, batch, NOISE)

    def report(run: loop.Run[MiniatureVAE]) -> str:
        average = run.average.network
        if not decoder_only:
            scale(average, held_out)
        family.export("vae", average)
        return f"psnr {psnr(average, held_out):.2f}"

    loop.Run(vae, plan).go(batch_loss, report)


def export(folder: Path) -> None:
    """Export the average of the last checkpoint in `folder`/vae."""
    run = loop.Run(new(folder), loop.Plan(folder / "vae", 0, "", resume=True))
    scale(run.average.network, _held_out())
    family.export("vae", run.average.network)


def _held_out() -> Tensor:
    return data.to_tensor(world.render_pictures(range(96))[0])


@torch.no_grad()
def scale(vae: MiniatureVAE, pictures: Tensor) -> None:
    """Set the scaling factor that gives the latents of `pictures` (n 3 h w) unit power."""
    power = vae.encode_mode(pictures).square().mean()
    vae.register_to_config(scaling_factor=round(float(power.rsqrt()), 5))
