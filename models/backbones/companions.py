"""Networks that stand beside a checkpoint: a ControlNet (arXiv:2302.05543), an estimator of depth.

Each is a folder of its own, named by a reference like a checkpoint (see `models.weights`): `config.json` and
safetensors, as such networks are published. Those a backbone was given last stay in memory with it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models.backbones.backbone import Backbone
from models.backbones.components import build, class_named, quiet
from models.digest import digest_json
from models.errors import WeightsUnavailable
from models.weights import file_digests, resolve

CONTROL_NETS = ("ControlNetModel",)
DEPTH_ESTIMATORS = (
    "DPTForDepthEstimation",
    "DepthAnythingForDepthEstimation",
    "GLPNForDepthEstimation",
    "ZoeDepthForDepthEstimation",
)
MOST_HELD = 2
"""A ControlNet and what finds its condition."""


@dataclass(frozen=True)
class Companion:
    """A loaded network, frozen, and what it was loaded from; `digest` is the sha256 over `files`, each with its own."""

    reference: str
    network: nn.Module
    folder: Path
    digest: str
    revision: str
    files: dict[str, str]


def load(backbone: Backbone, reference: str, kinds: Collection[str]) -> Companion:
    """Load the network of one of these classes on the backbone's device, or return it if it is in memory.

    Raises WeightsUnavailable: `model.unavailable` when files cannot be had, `model.integrity` when the folder is not a
    complete, safe network of such a class.
    """
    held = backbone.companions.pop(reference, None)
    if held is None or type(held.network).__name__ not in kinds:
        held = _read(backbone, reference, kinds)
    while len(backbone.companions) >= MOST_HELD:
        backbone.companions.pop(next(iter(backbone.companions)))
    backbone.companions[reference] = held
    found: Companion = held
    return found


def _read(backbone: Backbone, reference: str, kinds: Collection[str]) -> Companion:
    folder = resolve(reference, roles=("",), fetch=backbone.fetch)
    try:
        with quiet():
            network = build(class_named(folder, kinds), folder, reference, backbone.dtype)
        files = file_digests(folder, ("",))
    except WeightsUnavailable as error:
        hint = f"Give a folder, a hub reference or an s3:// prefix that holds a {' or '.join(kinds)} in safetensors."
        raise WeightsUnavailable(error.message, code=error.code, hint=hint) from error
    network.eval().requires_grad_(False)
    nn.Module.to(network, device=backbone.device, dtype=backbone.dtype)
    revision = folder.name if folder.parent.name == "snapshots" else ""
    return Companion(reference, network, folder, digest_json(files), revision, files)
