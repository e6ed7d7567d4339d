"""Training of the miniature's ControlNet: soft edges say where things are, for its image denoiser. arXiv:2302.05543.

A copy of the denoiser's encoder, with silent ways out, learns to add to a denoiser that stays as it is (sec. 3.2).
Objective and captions are those of `train_unet`; edges are those of `models.conditions.edges`, picture by picture.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from models.conditions import edges
from models.miniature import captions, data, family, loop, train_unet
from models.miniature.objective import weighted_noise_error
from models.types import Clip

NAME = "controlnet_softedge"
PICTURES = 30_000
BATCH = 24
PEAK_RATE = 1e-3
EMBEDDING = (16, 32, 64, 96)
"""Channels of the layers that bring a picture of edges to the latents' side."""
UNSEEN = 0.1
"""How often a picture has no edges: where nothing is asked, nothing is held."""


def beside(image: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the denoiser's encoder that adds nothing yet."""
    network = ControlNetModel.from_unet(image, conditioning_embedding_out_channels=EMBEDDING)
    network.set_attn_processor(AttnProcessor())  # as in `train_unet`
    network.to(memory_format=torch.channels_last)
    return network.train().requires_grad_(True)


def edged(pictures: Tensor) -> Tensor:
    """Soft edges (n 3 h w, 0…1) of pictures (n 3 h w, -1…1), each picture with a white level of its own."""
    shown = (pictures / 2 + 0.5).split(1)
    return torch.cat([edges.softedge(Clip(one, torch.empty(0), 1.0, *one.shape[:1:-1])) for one in shown])


def batch_loss(
    folder: Path,
    image: UNet2DConditionModel,
    encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
    alphas_cumprod: Tensor,
) -> Callable[[ControlNetModel, int], Tensor]:
    """The training objective as a function of the network and the step number, which seeds every draw."""
    latents, source = train_unet.encode(family.load_vae(), folder, PICTURES), data.pictures(folder, PICTURES)
    image.set_attn_processor(AttnProcessor())
    image.to(memory_format=torch.channels_last)

    def loss(network: ControlNetModel, step: int) -> Tensor:
        rng = np.random.default_rng((5, step))
        chosen = np.sort(rng.integers(PICTURES, size=BATCH))
        words = [captions.draw(latents.scenes[index], rng) for index in chosen]
        ids = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        timesteps = torch.from_numpy(rng.permutation(train_unet.spread_timesteps(rng, BATCH)))
        seen = torch.from_numpy(rng.random((BATCH, 1, 1, 1)) >= UNSEEN)
        condition = edged(data.to_tensor(source[chosen])) * seen
        with torch.no_grad():
            embeds = encoder(ids)[0]

        def predict(noisy: Tensor) -> Tensor:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            down, mid = network(noisy, timesteps, embeds, condition, return_dict=False)
            predicted: Tensor = image(
                noisy, timesteps, embeds, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            return predicted

        return weighted_noise_error(latents.values[torch.from_numpy(chosen)], timesteps, alphas_cumprod, predict)

    return loss


def train(folder: Path, minutes: float, resume: bool = False) -> None:
    """Train for `minutes` on the training pictures and their edges; export the average at each checkpoint."""
    image, encoder, tokenizer = family.load_image_networks()
    plan = loop.denoiser_plan(folder / NAME, minutes, resume, PEAK_RATE)
    run = loop.Run(beside(image), plan)
    run.go(batch_loss(folder, image, encoder, tokenizer, family.scheduler().alphas_cumprod), _export)


def export(folder: Path) -> None:
    """Export the average of the last checkpoint in `folder`."""
    image, _, _ = family.load_image_networks()
    _export(loop.Run(beside(image), loop.Plan(folder / NAME, 0, "", resume=True)))


def _export(run: loop.Run[ControlNetModel]) -> str:
    family.export(NAME, run.average.network)
    return "exported"
