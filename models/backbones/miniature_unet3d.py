"""The miniature's text-to-video denoiser: diffusers' UNet3DConditionModel around the layers of its image UNet.

diffusers gives all attention of a UNet3DConditionModel heads of one width (`attention_head_dim`); the miniature's image
UNet has, as Stable Diffusion 1, a fixed number of heads at every level. So that the layers within a frame can be those
of the image UNet exactly, this class sets their number of heads; layers over frames keep heads of one width.
"""

from diffusers import UNet3DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_2d import Transformer2DModel


class MiniatureUNet3D(UNet3DConditionModel):  # type: ignore[misc]  # diffusers ships no types
    """Clips (b c f h w) and a text for each (b n d) to the noise in them; see `UNet3DConditionModel`."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int = 16,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (80, 128, 160, 160),
        layers_per_block: int = 1,
        norm_num_groups: int = 16,
        cross_attention_dim: int = 160,
        attention_head_dim: int = 16,
        heads_within_frames: int = 2,
    ) -> None:
        """Build the network; `heads_within_frames` is the image UNet's `attention_head_dim` (which counts heads)."""
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
        )
        for transformer in (module for module in self.modules() if isinstance(module, Transformer2DModel)):
            for block in transformer.transformer_blocks:
                for attention in (block.attn1, block.attn2):
                    attention.heads = heads_within_frames
                    attention.scale = (attention.inner_dim // heads_within_frames) ** -0.5
