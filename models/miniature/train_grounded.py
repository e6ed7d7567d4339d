"""Training of the miniature's grounded denoiser: gated layers for boxes and phrases on the frozen image UNet.

GLIGEN (arXiv:2301.07093) as diffusers has it (`attention_type="gated"`). Half of the pictures are `train_unet`'s, whose
subjects lie near the middle; the others have theirs anywhere and smaller. A gate starts open on layers that are silent,
instead of shut on layers that are not: both change nothing at first, but gradients reach these layers at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import GatedSelfAttentionDense
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from models.backbones.components import share
from models.backbones.miniature_vae import MiniatureVAE
from models.miniature import boxes, captions, data, family, loop, train_unet
from models.miniature.objective import weighted_noise_error
from models.miniature.scene import Scene

PICTURES = 24_000
CHUNK = 2_000
BATCH = 40
PEAK_RATE = 2e-3
FIRST_SEED = 30_000_000
SLOTS = 30
"""Objects a picture may have (`models.conditions.grounding.MAX_OBJECTS`); this world's have one."""
NOWHERE = 0.1
"""Share of pictures without a box, as the unconditional branch is."""


@dataclass(frozen=True)
class Boxed:
    """Pictures' latents (n c 16 16), their scenes, and their subjects' boxes (n 4)."""

    values: Tensor
    scenes: list[Scene]
    boxes: Tensor


@torch.no_grad()
def encode(vae: MiniatureVAE, folder: Path, count: int) -> Boxed:
    """Half of `count` pictures as `train_unet` has them, half with subjects anywhere; latents are kept in `folder`."""
    near = train_unet.encode(vae, folder, train_unet.PICTURES)
    half = count // 2
    parts, scenes, found = [near.values[:half]], near.scenes[:half], boxes.boxes_of_pictures(half)
    for start in range(0, half, CHUNK):
        path = folder / f"anywhere-{start}-{train_unet.fingerprint(vae):.3f}.pt"
        seeds = range(FIRST_SEED + start, FIRST_SEED + start + CHUNK)
        pictures, shown, around = boxes.pictures_anywhere(seeds)
        if not path.exists():
            chunks = [data.to_tensor(pictures[i : i + 64]) for i in range(0, CHUNK, 64)]
            loop.save(path, {"latents": torch.cat([train_unet.to_latents(vae, chunk) for chunk in chunks])})
        parts.append(loop.load(path)["latents"])
        scenes, found = scenes + shown, found + around
    return Boxed(torch.cat(parts), scenes, torch.tensor(found))


def gated(image: UNet2DConditionModel) -> UNet2DConditionModel:
    """The image UNet with gated layers that change nothing yet; they alone need gradients."""
    network = UNet2DConditionModel.from_config({**image.config, "attention_type": "gated"})
    share(network, network.state_dict() | image.state_dict())
    shared = set(image.state_dict())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in shared)
    for module in network.modules():
        if isinstance(module, GatedSelfAttentionDense):
            for gate, silent in ((module.alpha_attn, module.attn.to_out[0]), (module.alpha_dense, module.ff.net[2])):
                nn.init.ones_(gate)
                nn.init.zeros_(silent.weight)
                nn.init.zeros_(silent.bias)
    network.set_attn_processor(AttnProcessor())  # as in `train_unet`
    network.to(memory_format=torch.channels_last)
    return network.train()


def phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Words for the subject: with or without article and colour."""
    article, colour = (bool(kept) for kept in rng.random(2) < (0.8, 0.8))
    return " ".join(["a"] * article + [scene.colour] * colour + [scene.subject])


def batch_loss(
    boxed: Boxed, encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerFast, alphas_cumprod: Tensor
) -> Callable[[UNet2DConditionModel, int], Tensor]:
    """The training objective as a function of the network and the step number, which seeds every draw."""

    def loss(network: UNet2DConditionModel, step: int) -> Tensor:
        rng = np.random.default_rng((4, step))
        chosen = rng.integers(len(boxed.scenes), size=BATCH)
        shown = [boxed.scenes[index] for index in chosen]
        words = [captions.draw(scene, rng) for scene in shown] + [phrase(scene, rng) for scene in shown]
        ids = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        picked = torch.from_numpy(chosen)
        timesteps = torch.from_numpy(train_unet.spread_timesteps(rng, BATCH))
        used = torch.from_numpy(rng.random((BATCH, 1)) >= NOWHERE).float()
        with torch.no_grad():
            read = encoder(ids)
        objects = slots(boxed.boxes[picked], read.pooler_output[BATCH:], used)
        grounded = {"gligen": objects}

        def predict(noisy: Tensor) -> Tensor:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted: Tensor = network(noisy, timesteps, read[0][:BATCH], cross_attention_kwargs=grounded).sample
            return predicted

        return weighted_noise_error(boxed.values[picked], timesteps, alphas_cumprod, predict)

    return loss


def slots(around: Tensor, pooled: Tensor, used: Tensor) -> dict[str, Tensor]:
    """One object for each picture, padded to `SLOTS`: boxes (b 4), phrase features (b d), whether in use (b 1)."""
    rest = (0, 0, 0, SLOTS - 1)
    return {
        "boxes": functional.pad(around[:, None], rest),
        "positive_embeddings": functional.pad(pooled[:, None], rest),
        "masks": functional.pad(used, (0, SLOTS - 1)),
    }


def train(folder: Path, minutes: float, resume: bool = False, pictures: int = PICTURES) -> None:
    """Train for `minutes` on boxed pictures and export the average at each checkpoint."""
    image, encoder, tokenizer = family.load_image_networks()
    boxed = encode(family.load_vae(), folder, pictures)
    plan = loop.denoiser_plan(folder / "unet_grounded", minutes, resume, PEAK_RATE)
    run = loop.Run(gated(image), plan)
    run.go(batch_loss(boxed, encoder, tokenizer, family.scheduler().alphas_cumprod), _export)


def export(folder: Path) -> None:
    """Export the average of the last checkpoint in `folder`."""
    image, _, _ = family.load_image_networks()
    _export(loop.Run(gated(image), loop.Plan(folder / "unet_grounded", 0, "", resume=True)))


def _export(run: loop.Run[UNet2DConditionModel]) -> str:
    learned = {name for name, parameter in run.network.named_parameters() if parameter.requires_grad}
    family.export_part("unet_grounded", run.average.network, learned)
    return "exported"
