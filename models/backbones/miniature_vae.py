"""The miniature's VAE: a patch-PCA code with learned corrections, f = 8.

Encoder and decoder are each a linear 8x8-patch transform (the principal components of the world's
patches) plus a convolutional residual that is zero at the start, so training begins at the linear
code's quality and can only add to it. All convolutions run on pixel-unshuffled pictures (1/4 and 1/8
resolution, at least 64 channels), where a CPU is fast.

The interface is that of `diffusers.AutoencoderKL` (arXiv:2112.10752) as pipelines use it.
"""

from typing import Literal, overload

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

PATCH = 8


def _silence(conv: nn.Conv2d) -> nn.Conv2d:
    """Zero a convolution, so that the branch it ends is silent at the start."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class Residual(nn.Module):
    """Two convolutions added to their input; the identity at the start. (b c h w) -> (b c h w)."""

    def __init__(self, channels: int) -> None:
        """Build for a width."""
        super().__init__()
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        _silence(self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus its correction."""
        result: Tensor = x + self.conv_out(functional.silu(self.conv_in(x)))
        return result


class MiniatureVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers ships no types
    """Pictures (b 3 h w) in -1...1 to latents (b latent_channels h/8 w/8) and back; h, w divisible by 8."""

    _supports_gradient_checkpointing = False

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 4,
        block_out_channels: tuple[int, int, int, int] = (3, 12, 96, 192),
        encoder_layers: tuple[int, int] = (1, 2),
        decoder_layers: tuple[int, int] = (3, 4),
        scaling_factor: float = 1.0,
        sample_size: int = 128,
    ) -> None:
        """Build the network.

        `block_out_channels` are the widths at 1/1, 1/2, 1/4 and 1/8 resolution; the first two are those of
        the unshuffled picture and hold no weights. `*_layers` count residual blocks at 1/4 and 1/8.
        """
        super().__init__()
        fine, coarse = block_out_channels[2:]
        pixels = 3 * PATCH * PATCH
        self.analysis = nn.Conv2d(pixels, latent_channels, 1)
        self.synthesis = nn.Conv2d(latent_channels, pixels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *[Residual(fine) for _ in range(encoder_layers[0])],
            nn.Conv2d(fine, coarse, 4, stride=2, padding=1),
            *[Residual(coarse) for _ in range(encoder_layers[1])],
            nn.SiLU(),
            _silence(nn.Conv2d(coarse, latent_channels, 3, padding=1)),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *[Residual(coarse) for _ in range(decoder_layers[1])],
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *[Residual(fine) for _ in range(decoder_layers[0])],
            nn.SiLU(),
            _silence(nn.Conv2d(fine, 48, 3, padding=1)),
            nn.PixelShuffle(4),
        )

    @torch.no_grad()
    def set_linear_code(self, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        """Make the linear paths the PCA code of 8x8 patches.

        `mean` (192) and `basis` (192 k), orthonormal columns, are in `nn.PixelUnshuffle(8)` order and pixel
        units -1...1; latent i is the i-th component divided by `scale` (k).
        """
        forward = (basis / scale).T
        self.analysis.weight.copy_(forward[:, :, None, None])
        self.analysis.bias.copy_(-forward @ mean)  # type: ignore[union-attr]
        self.synthesis.weight.copy_((basis * scale)[:, :, None, None])
        self.synthesis.bias.copy_(mean)  # type: ignore[union-attr]

    def encode_mode(self, x: Tensor) -> Tensor:
        """Pictures (b 3 h w) in -1...1 to unscaled latents (b c h/8 w/8)."""
        linear: Tensor = self.analysis(functional.pixel_unshuffle(x, PATCH))
        correction: Tensor = self.encoder(x)
        return linear + correction

    @overload
    def encode(self, x: Tensor, return_dict: Literal[True] = True) -> AutoencoderKLOutput: ...
    @overload
    def encode(self, x: Tensor, return_dict: Literal[False]) -> tuple[DiagonalGaussianDistribution]: ...
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Return the latent distribution of pictures; its variance is negligible: the code is deterministic."""
        mean = self.encode_mode(x)
        moments = torch.cat([mean, torch.full_like(mean, -30.0)], dim=1)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @overload
    def decode(self, z: Tensor, return_dict: Literal[True] = True, generator: object = None) -> DecoderOutput: ...
    @overload
    def decode(self, z: Tensor, return_dict: Literal[False], generator: object = None) -> tuple[Tensor]: ...
    def decode(self, z: Tensor, return_dict: bool = True, generator: object = None) -> DecoderOutput | tuple[Tensor]:
        """Latents (b c h w), unscaled, to pictures (b 3 8h 8w) in about -1...1. `generator` is not used."""
        sample = functional.pixel_shuffle(self.synthesis(z), PATCH) + self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor) -> Tensor:
        """Encode and decode pictures (b 3 h w)."""
        return self.decode(self.encode_mode(sample), return_dict=False)[0]
