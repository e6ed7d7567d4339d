"""Training of the miniature's UNet and, jointly, its text encoder, on cached latents.

Epsilon prediction with Stable Diffusion's noise schedule, weighted by SNR^(-1/2) (arXiv:2310.08442): noisy pictures,
where the caption decides what is drawn, count more than with equal or min-SNR weights, and the subjects are what
takes longest to learn. 10 % of captions are empty for classifier-free guidance (arXiv:2207.12598).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from models.backbones.miniature_vae import MiniatureVAE
from models.miniature import captions, data, family, loop, scene, text
from models.miniature.objective import weighted_noise_error
from models.miniature.scene import Scene

PICTURES = 30_000
BATCH = 48
PEAK_RATE = 2e-3


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """An untrained UNet of Stable Diffusion 1.5's topology for 16x16 latents; diffusers' own class."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(80, 128, 160, 160),
        layers_per_block=1,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
    )


class Networks(nn.Module):
    """The two networks trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        """Hold both."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder


@dataclass(frozen=True)
class Latents:
    """Every training picture's latents (n c 16 16), scaled to unit power, and its scene."""

    values: Tensor
    scenes: list[Scene]


@torch.no_grad()
def encode(vae: MiniatureVAE, folder: Path, count: int) -> Latents:
    """The latents of the first `count` training pictures, cached in `folder` under the encoder's fingerprint."""
    path = folder / f"latents-{count}-{fingerprint(vae):.3f}.pt"
    if path.exists():
        stored: Tensor = torch.load(path, weights_only=True)
        return Latents(stored, data.scenes(count))
    source = data.pictures(folder, count)
    parts = [to_latents(vae, data.to_tensor(source[start : start + 64])) for start in range(0, count, 64)]
    values = torch.cat(parts).contiguous()
    torch.save(values, path)
    return Latents(values, data.scenes(count))


@torch.no_grad()
def to_latents(vae: MiniatureVAE, pictures: Tensor) -> Tensor:
    """Scaled latents (n c h/8 w/8) of pictures (n 3 h w) in -1...1, computed as training does."""
    with loop.autocast():
        encoded = vae.encode_mode(pictures)
    scaled: Tensor = encoded.float() * vae.config.scaling_factor
    return scaled


def fingerprint(vae: MiniatureVAE) -> float:
    """A number that changes with the encoder: latents are kept under it."""
    return sum(float(value.double().abs().sum()) for value in vae.encoder.state_dict().values())


def batch_loss(
    latents: Latents, tokenizer: PreTrainedTokenizerFast, alphas_cumprod: Tensor
) -> Callable[[Networks, int], Tensor]:
    """The training objective as a function of the networks and the step number, which seeds every draw."""

    def loss(networks: Networks, step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        chosen = rng.integers(len(latents.scenes), size=BATCH)
        words = [captions.draw(latents.scenes[index], rng) for index in chosen]
        ids = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean = latents.values[torch.from_numpy(chosen)]
        timesteps = torch.from_numpy(spread_timesteps(rng))
        return denoising_loss(networks, clean, ids, timesteps, alphas_cumprod)

    return loss


def spread_timesteps(rng: np.random.Generator, count: int = BATCH) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Uniform timesteps, one from each of `count` equal parts of the schedule: less noise in the loss."""
    return ((np.arange(count) + rng.random(count)) * (1000 / count)).astype(np.int64)


def denoising_loss(networks: Networks, clean: Tensor, ids: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Weighted squared error of the predicted noise; the text encoder learns too."""

    def predict(noisy: Tensor) -> Tensor:
        embeds = networks.text_encoder(ids)[0]
        predicted: Tensor = networks.unet(noisy.contiguous(memory_format=torch.channels_last), timesteps, embeds).sample
        return predicted

    return weighted_noise_error(clean, timesteps, alphas_cumprod, predict)


def start(latent_channels: int, resume: bool) -> tuple[Networks, PreTrainedTokenizerFast]:
    """New networks and tokenizer, or with `resume` the exported ones."""
    if resume and (family.WEIGHTS / "unet").exists():
        unet = UNet2DConditionModel.from_pretrained(family.WEIGHTS / "unet", dtype=torch.float32)
        encoder = CLIPTextModel.from_pretrained(family.WEIGHTS / "text_encoder", dtype=torch.float32)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(family.WEIGHTS / "tokenizer")
    else:
        torch.manual_seed(0)
        tokenizer = text.build_tokenizer(scene.WORDS)
        unet, encoder = build_unet(latent_channels), text.build_text_encoder(tokenizer)
    unet.set_attn_processor(AttnProcessor())  # on CPUs its backward is faster than the fused one's
    unet.to(memory_format=torch.channels_last)
    return Networks(unet, encoder).train(), tokenizer


def train(folder: Path, minutes: float, resume: bool = False, pictures: int = PICTURES) -> None:
    """Train for `minutes` on the exported VAE's latents and export the average at each checkpoint."""
    vae = family.load_vae()
    networks, tokenizer = start(vae.config.latent_channels, resume)
    family.export("tokenizer", tokenizer)
    family.export("scheduler", family.scheduler())
    latents = encode(vae, folder, pictures)
    plan = loop.Plan(folder / "unet", minutes, "weighted noise error", resume, PEAK_RATE, average_decay=0.9995)
    run = loop.Run(networks, plan)
    run.go(batch_loss(latents, tokenizer, family.scheduler().alphas_cumprod), _export)


def export(folder: Path) -> None:
    """Export the average of the last checkpoint in `folder`."""
    networks, tokenizer = start(family.load_vae().config.latent_channels, resume=False)
    run = loop.Run(networks, loop.Plan(folder / "unet", 0, "", resume=True))
    family.export("tokenizer", tokenizer)
    family.export("scheduler", family.scheduler())
    _export(run)


def _export(run: loop.Run[Networks]) -> str:
    family.export("unet", run.average.network.unet)
    family.export("text_encoder", run.average.network.text_encoder)
    return "exported"
