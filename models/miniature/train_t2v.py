"""Training of the miniature's text-to-video denoiser: the image UNet with layers over frames learned from clips.

The layers within a frame are the image UNet's and stay as they are, but for the keys and values of cross-attention,
through which words of motion reach the layers over frames. Those start silent, so training begins at the image UNet
run frame by frame. Objective and captions are those of `train_unet`. Clips run forwards only, so that the first
frame can be told from the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from models.backbones.components import share
from models.backbones.miniature_unet3d import MiniatureUNet3D
from models.backbones.miniature_vae import MiniatureVAE
from models.miniature import captions, data, family, loop, train_unet, world
from models.miniature import scene as world_scene
from models.miniature.objective import weighted_noise_error
from models.miniature.scene import Scene

CLIPS = 3_000
FRAMES = 8
CHUNK = 250
BATCH = 6
PEAK_RATE = 2e-3
FIRST_SEED = 20_000_000


@dataclass(frozen=True)
class Clips:
    """Every training clip's latents (n c f 16 16), scaled to unit power, and its scene."""

    values: Tensor
    scenes: list[Scene]


@torch.no_grad()
def encode(vae: MiniatureVAE, folder: Path, count: int) -> Clips:
    """The latents of the first `count` training clips, rendered and encoded in chunks that are kept in `folder`."""
    scenes = [world_scene.sample_scene(FIRST_SEED + index) for index in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, count, CHUNK):
        path = folder / f"clips-{start}-{train_unet.fingerprint(vae):.3f}.pt"
        if not path.exists():
            chunk = [_encoded(vae, shown) for shown in scenes[start : start + CHUNK]]
            loop.save(path, {"latents": torch.stack(chunk)})
        parts.append(loop.load(path)["latents"])
    return Clips(torch.cat(parts)[:count], scenes)


def _encoded(vae: MiniatureVAE, shown: Scene) -> Tensor:
    pictures = data.to_tensor(world.render_frames(shown, FRAMES, data.SIZE))
    return train_unet.to_latents(vae, pictures).transpose(0, 1).contiguous()


def inflated(image: UNet2DConditionModel) -> MiniatureUNet3D:
    """The image UNet with layers over frames that change nothing yet; only what is to be learned needs gradients."""
    network = MiniatureUNet3D()
    share(network, network.state_dict() | image.state_dict())
    shared = set(image.state_dict())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in shared or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")))
    for module in network.modules():
        if isinstance(module, TransformerTemporalModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    network.set_attn_processor(AttnProcessor())  # as in `train_unet`
    trained: MiniatureUNet3D = network.train()
    return trained


def batch_loss(
    clips: Clips, encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerFast, alphas_cumprod: Tensor
) -> Callable[[MiniatureUNet3D, int], Tensor]:
    """The training objective as a function of the network and the step number, which seeds every draw."""

    def loss(network: MiniatureUNet3D, step: int) -> Tensor:
        rng = np.random.default_rng((3, step))
        chosen = rng.integers(len(clips.scenes), size=BATCH)
        words = [captions.draw(clips.scenes[index], rng) for index in chosen]
        ids = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        clean = torch.stack([clips.values[int(index)] for index in chosen]).float()
        timesteps = torch.from_numpy(train_unet.spread_timesteps(rng, BATCH))
        with torch.no_grad():
            embeds = encoder(ids)[0]
        return weighted_noise_error(
            clean, timesteps, alphas_cumprod, lambda noisy: network(noisy, timesteps, embeds).sample
        )

    return loss


def train(folder: Path, minutes: float, resume: bool = False, clips: int = CLIPS) -> None:
    """Train for `minutes` on clips of the exported VAE's latents and export the average at each checkpoint."""
    image, encoder, tokenizer = family.load_image_networks()
    latents = encode(family.load_vae(), folder, clips)
    plan = loop.denoiser_plan(folder / "unet_t2v", minutes, resume, PEAK_RATE)
    run = loop.Run(inflated(image), plan)
    run.go(batch_loss(latents, encoder, tokenizer, family.scheduler().alphas_cumprod), _export)


def export(folder: Path) -> None:
    """Export the average of the last checkpoint in `folder`."""
    image, _, _ = family.load_image_networks()
    _export(loop.Run(inflated(image), loop.Plan(folder / "unet_t2v", 0, "", resume=True)))


def _export(run: loop.Run[MiniatureUNet3D]) -> str:
    learned = {name for name, parameter in run.network.named_parameters() if parameter.requires_grad}
    family.export_part("unet_t2v", run.average.network, learned)
    return "exported"
