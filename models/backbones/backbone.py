"""The Stable-Diffusion-shaped backbone: text, pictures and noise predictions in the shapes the blocks use.

The denoiser is a 2D network run on all frames at once, frames folded into the batch, so its GroupNorm sees one frame
at a time. A block that wants statistics over the clip, or temporal layers, makes an inflated clone of the network and
passes it to `Backbone.predict` as `unet`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from models.types import Embeds, Frames, Latents
from models.weights import Fetch

Encoded = Float[Tensor, "1 channels f height width"]
"""Latents of one clip, beside its frames in a signature: their sides are not the frames' sides."""

VAE_PIXELS = 512 * 512 * 2
"""Pixels encoded or decoded at a time: about 3 GB of fp32 activations in the SD VAE, whatever the clip's length."""


@dataclass(frozen=True)
class Residuals:
    """What a ControlNet adds to a denoiser's skip connections and its middle, ``(b f) c h w``, and its frame-evals."""

    down: tuple[Tensor, ...]
    mid: Tensor
    frame_evals: int


class Steering(Protocol):
    """Finds the residuals for one call of the denoiser; None when it is not to be steered there."""

    def __call__(self, latents: Latents, times: Tensor, embeds: Embeds) -> Residuals | None:
        """For latents ``b c f h w`` at timesteps ``b`` under texts ``b n d``."""


@dataclass(eq=False)
class Backbone:
    """The networks of one checkpoint, frozen and in evaluation mode, on the caller's device.

    `scheduler_config` is the checkpoint's own noise schedule; `checkpoint` the reference it was loaded from; `digest`
    the sha256 over `files`, each with its own; `revision` the hub's commit; `native_size` the picture side in pixels it
    was trained on. `frame_evals` counts denoiser evaluations of one frame since it was last set; guidance with two
    branches counts each frame twice, and a ControlNet beside the denoiser counts like one. Where the checkpoint was
    trained on a small world, a clip its VAE reproduces below `domain_psnr_floor` (dB) lies outside it. `denoisers` are
    the families the checkpoint has a denoiser of their own for; `denoiser` is the one that was loaded, empty for its
    plain one. `companions` are networks that were loaded beside it, by reference, and `fetch` brings files of more.
    """

    tokenizer: Any
    text_encoder: nn.Module
    vae: nn.Module
    unet: nn.Module
    scheduler_config: dict[str, Any]
    checkpoint: str
    digest: str
    native_size: int
    device: torch.device
    dtype: torch.dtype
    domain_psnr_floor: float | None = None
    denoiser: str = ""
    denoisers: tuple[str, ...] = ()
    revision: str = ""
    files: dict[str, str] = field(default_factory=dict)
    fetch: Fetch | None = None
    companions: dict[str, Any] = field(default_factory=dict, init=False)
    frame_evals: int = field(default=0, init=False)
    _sparing: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Freeze the networks and move them; tuning trains clones or added parameters, never these."""
        for network in (self.text_encoder, self.vae, self.unet):
            network.eval().requires_grad_(False)
            nn.Module.to(network, device=self.device, dtype=self.dtype)  # diffusers' own `to` warns at every dtype

    def serves(self, family: str) -> bool:
        """Whether this checkpoint, loaded for `family`, would give this very denoiser."""
        return self.denoiser == (family if family in self.denoisers else "")

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(config_of(self.unet)["in_channels"])

    @property
    def vae_factor(self) -> int:
        """Pixels a side of one latent cell."""
        return int(2 ** (len(config_of(self.vae)["block_out_channels"]) - 1))

    @property
    def scaling_factor(self) -> float:
        """What VAE latents are multiplied by to have about unit variance."""
        return float(config_of(self.vae)["scaling_factor"])

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: `epsilon`, `v_prediction` or `sample`."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Spend time instead of memory: the VAE takes one frame at a time, and large frames in tiles.

        Tiles overlap and are blended, so large frames differ slightly from those made at once.
        """
        vae = cast(Any, self.vae)
        self._sparing = True
        vae.enable_tiling()
        try:
            yield
        finally:
            self._sparing = False
            vae.disable_tiling()

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Embeds:
        """Encode prompts, padded and cut to the encoder's length, to its last hidden state (b n d)."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds.to(self._working_dtype)

    @torch.no_grad()
    def encode_frames(self, frames: Frames) -> Encoded:
        """Encode frames (f c h w, 0…1) to scaled latents (1 c f h w): the mode of the VAE's posterior."""
        vae = cast(Any, self.vae)
        latents = [
            vae.encode((2 * part - 1).to(self.device, self.dtype)).latent_dist.mode()
            for part in torch.split(frames, self._frames_at_once(frames.shape[-2] * frames.shape[-1]))
        ]
        scaled = torch.cat(latents).to(self._working_dtype) * self.scaling_factor
        return rearrange(scaled, "f c h w -> 1 c f h w")

    @torch.no_grad()
    def decode_latents(self, latents: Encoded) -> Frames:
        """Decode scaled latents (1 c f h w) to frames (f c h w, 0…1) on the CPU, in chunks of frames."""
        vae = cast(Any, self.vae)
        folded = rearrange(latents / self.scaling_factor, "1 c f h w -> f c h w")
        pixels = folded.shape[-2] * folded.shape[-1] * self.vae_factor**2
        frames = [
            (vae.decode(part.to(self.device, self.dtype), return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1).cpu()
            for part in torch.split(folded, self._frames_at_once(pixels))
        ]
        return torch.cat(frames)

    def predict(
        self,
        latents: Latents,
        t: int | Tensor,
        embeds: Embeds,
        *,
        unet: nn.Module | None = None,
        control: Steering | None = None,
    ) -> Latents:
        """Return the denoiser's output for latents (b c f h w) at timestep `t`, in their shape and dtype.

        `t` is one timestep or one for each batch item (b). `embeds` (b n d) are repeated for every frame. `unet` takes
        the place of the checkpoint's own denoiser: a clone that a block has inflated or tuned. `control` steers it.
        Gradients flow.
        """
        batch, _, count = latents.shape[:3]
        if len(embeds) != batch:
            raise ValueError(f"{len(embeds)} text embeddings for {batch} latents")
        network = self.unet if unet is None else unet
        dtype = next(network.parameters()).dtype
        times = torch.as_tensor(t, device=self.device).expand(batch)
        moved, text = latents.to(self.device, dtype), embeds.to(self.device, dtype)
        residuals = None if control is None else control(moved, times, text)
        output = self.evaluate(network, moved, times, text, residuals)
        self.frame_evals += batch * count + (0 if residuals is None else residuals.frame_evals)
        return output.to(latents)

    def evaluate(
        self, network: nn.Module, latents: Latents, times: Tensor, text: Embeds, residuals: Residuals | None = None
    ) -> Latents:
        """One call of an image network on all frames of ``b c f h w``: frames folded into the batch, text repeated."""
        batch, _, count = latents.shape[:3]
        folded = rearrange(latents, "b c f h w -> (b f) c h w")
        repeated = repeat(text, "b n d -> (b f) n d", f=count)
        times = times.repeat_interleave(count)
        more = steered(residuals)
        output: Tensor = network(folded, times, encoder_hidden_states=repeated, return_dict=False, **more)[0]
        return rearrange(output, "(b f) c h w -> b c f h w", b=batch)

    @property
    def _working_dtype(self) -> torch.dtype:
        """Arithmetic between networks is at least fp32, also when the weights are half precision."""
        return torch.promote_types(self.dtype, torch.float32)

    def _frames_at_once(self, pixels: int) -> int:
        return 1 if self._sparing else max(1, VAE_PIXELS // pixels)


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration a diffusers network was built from."""
    return cast(dict[str, Any], cast(Any, network).config)


def steered(residuals: Residuals | None) -> dict[str, Any]:
    """Residuals as the arguments that diffusers' denoisers take them by; none when there are none."""
    if residuals is None:
        return {}
    return {"down_block_additional_residuals": residuals.down, "mid_block_additional_residual": residuals.mid}
