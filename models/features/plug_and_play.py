"""Which features of a Stable Diffusion UNet hold the layout of a picture. arXiv:2211.12572, sec. 4.

Queries and keys of the decoder's self-attention, from the second transformer that attends to text on, and the output of
the second ResNet of that block before its skip connection is added. In Stable Diffusion 1 and 2: eight attention layers
(``up_blocks[1].attentions[1, 2]``, ``up_blocks[2]``, ``up_blocks[3]``) and ``up_blocks[1].resnets[1]``.
"""

from torch import nn


def query_key_layers(unet: nn.Module) -> list[str]:
    """Paths of the query and key projections to share, two for every attention layer."""
    layers = decoder_self_attention(unet)[1:]
    return [f"{layer}.{projection}" for layer in layers for projection in ("to_q", "to_k")]


def residual_layers(unet: nn.Module) -> list[str]:
    """Path of the convolution whose output is the ResNet's residual branch; empty when the decoder is too short."""
    block = decoder_self_attention(unet)[0].split(".attentions.")[0]
    name = f"{block}.resnets.1.conv2"
    return [name] if name in dict(unet.named_modules()) else []


def decoder_self_attention(unet: nn.Module) -> list[str]:
    """Paths of the decoder's self-attention layers, coarsest first."""
    return [name for name, _ in unet.named_modules() if name.startswith("up_blocks.") and name.endswith(".attn1")]
