"""The text-to-video family: diffusers' UNet3DConditionModel with layers over frames of its own. arXiv:2308.06571.

ModelScope's network and those tuned from it. Beside every ResNet lies a convolution over frames, beside every
transformer one over frames, and one more at the entrance; GroupNorm of ResNets looks at one frame at a time. Text
encoder and VAE are those of Stable Diffusion 2.
"""

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from torch import Tensor, nn

from models.backbones import tiny
from models.backbones.backbone import Backbone, Residuals, steered
from models.backbones.preset import Preset
from models.digest import digest_json
from models.types import Embeds, Latents

MODELSCOPE = Preset("modelscope", "t2v", "damo-vilab/text-to-video-ms-1.7b@main", 256)
ZEROSCOPE = Preset("zeroscope", "t2v", "cerspense/zeroscope_v2_576w@main", 384)


class Backbone3D(Backbone):
    """A backbone whose denoiser takes whole clips."""

    def evaluate(
        self, network: nn.Module, latents: Latents, times: Tensor, text: Embeds, residuals: Residuals | None = None
    ) -> Latents:
        """One call on clips ``b c f h w``, one text and one timestep for each; residuals are those of single frames."""
        more = steered(residuals)
        output: Tensor = network(latents, times, encoder_hidden_states=text, return_dict=False, **more)[0]
        return output


def make_tiny(seed: int = 0, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone3D:
    """A member of the family with random weights, for tests; text encoder and VAE are those of `tiny.make`.

    Published checkpoints have convolutions over frames that change something; here they are drawn as well.
    """
    images = tiny.make(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet3DConditionModel(
            sample_size=tiny.NATIVE_SIZE // 8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        )
        for layer in (module for module in unet.modules() if isinstance(module, TemporalConvLayer)):
            nn.init.normal_(layer.conv4[-1].weight, std=0.1)
    return Backbone3D(
        tokenizer=images.tokenizer,
        text_encoder=images.text_encoder,
        vae=images.vae,
        unet=unet,
        scheduler_config=dict(tiny.SCHEDULER),
        checkpoint="tiny-t2v",
        digest=digest_json({"checkpoint": "tiny-t2v", "seed": seed, "torch": str(torch.__version__)}),
        native_size=tiny.NATIVE_SIZE,
        device=torch.device(device),
        dtype=dtype,
    )
