"""Where the miniature's weights lie, and how a trained part gets there.

The folder is a diffusers pipeline folder:
`StableDiffusionPipeline.from_pretrained(WEIGHTS, vae=load_vae(), dtype=torch.float32)`. Without the dtype its parts
would be loaded in different precisions.
"""

import json
import shutil
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from models.backbones.components import store_denoiser
from models.backbones.miniature_vae import MiniatureVAE

WEIGHTS = Path(__file__).parent / "weights"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["models.backbones.miniature_vae", "MiniatureVAE"],
    "_denoisers": {
        "grounded": ["unet_grounded", "UNet2DConditionModel"],
        "t2v": ["unet_t2v", "MiniatureUNet3D"],
    },
}


@runtime_checkable
class Part(Protocol):
    """Whatever diffusers or transformers can save."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the part to a folder."""


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule (arXiv:2112.10752), epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def export(name: str, part: Part, weights: Path = WEIGHTS) -> None:
    """Write one part to `weights`/`name`, networks as fp16 safetensors; each file appears whole or not at all."""
    fresh = weights / f".{name}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    whole = deepcopy(part).half() if isinstance(part, nn.Module) else part
    whole.save_pretrained(fresh)
    _put(fresh, weights / name)
    (weights / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def export_part(name: str, network: nn.Module, learned: Collection[str], weights: Path = WEIGHTS) -> None:
    """Write a denoiser that has the image UNet's weights but for those `learned`: only these, as fp16 safetensors."""
    fresh = weights / f".{name}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    store_denoiser(network, learned, fresh)
    _put(fresh, weights / name)
    (weights / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def _put(fresh: Path, folder: Path) -> None:
    _forget_origin(fresh / "config.json")
    folder.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner only
        file.replace(folder / file.name)
    fresh.rmdir()


def load_image_networks(weights: Path = WEIGHTS) -> tuple[UNet2DConditionModel, CLIPTextModel, PreTrainedTokenizerFast]:
    """The trained image UNet, text encoder and tokenizer; fp32, frozen."""
    unet = UNet2DConditionModel.from_pretrained(weights / "unet", dtype=torch.float32)
    encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights / "tokenizer")
    return unet.eval().requires_grad_(False), encoder.eval().requires_grad_(False), tokenizer


def _forget_origin(config: Path) -> None:
    """Drop the folder that a resumed part was loaded from."""
    if config.exists():
        kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n")


def load_vae(weights: Path = WEIGHTS) -> MiniatureVAE:
    """The trained VAE, fp32, in evaluation mode."""
    vae: MiniatureVAE = MiniatureVAE.from_pretrained(weights / "vae", dtype=torch.float32).eval()
    return vae
