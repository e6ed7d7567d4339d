"""A Stable Diffusion of about 80,000 random parameters, for tests: real classes, SD's topology, ~12 ms a step.

Three cross-attention down blocks and a plain one, a middle, the same mirrored; one ResNet (and transformer) a block;
a VAE with f = 8 and four channels; a CLIP text encoder with a byte-pair tokenizer that knows a few dozen words whole
and spells every other one, so that a word may be several tokens, as in the real thing.
"""

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.backbones.backbone import Backbone, config_of
from models.digest import digest_json

NATIVE_SIZE = 64
TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"
# fmt: off
WORDS = [
    "a", "an", "the", "of", "in", "on", "with", "and", "over", "under", "to", "is", "at", "by", "photo",
    "video", "style", "sketch", "watercolour", "painting", "cartoon", "neon", "man", "woman", "dog", "cat",
    "bear", "car", "bike", "horse", "bird", "fish", "person", "rabbit", "robot", "silver", "jeep", "truck",
    "road", "beach", "snow", "forest", "sea", "desert", "city", "sky", "moon", "grass", "night", "red", "green",
    "blue", "yellow", "white", "black", "running", "walking", "jumping", "driving", "flying", "moving",
]
# fmt: on


SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


def make(seed: int = 0, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """Build the networks with weights drawn from `seed`; the same seed gives the same weights on every device."""
    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = make_text_encoder(tokenizer)
        vae = make_vae()
        unet = make_unet()
    return Backbone(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        unet=unet,
        scheduler_config=dict(SCHEDULER),
        checkpoint="tiny",
        digest=digest_json({"checkpoint": "tiny", "seed": seed, "torch": str(torch.__version__)}),
        native_size=NATIVE_SIZE,
        device=torch.device(device),
        dtype=dtype,
    )


def make_grounded(seed: int = 0, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """The same with gated layers for boxes and phrases (GLIGEN, arXiv:2301.07093), their gates open."""
    images = make(seed, device=device, dtype=dtype)
    kept = {name: value for name, value in config_of(images.unet).items() if not name.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config({**kept, "attention_type": "gated"})
    unet.load_state_dict(unet.state_dict() | images.unet.state_dict())
    for name, parameter in unet.named_parameters():
        if name.endswith(("alpha_attn", "alpha_dense")):
            nn.init.constant_(parameter, 0.7)
    digest = digest_json({"plain": images.digest, "attention_type": "gated"})
    return replace(images, unet=unet, checkpoint="tiny-grounded", digest=digest)


def make_controlnet(seed: int = 0) -> ControlNetModel:
    """A ControlNet for `make`'s denoiser; its zero convolutions are drawn, as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ControlNetModel.from_unet(make_unet(), conditioning_embedding_out_channels=(4, 4, 8, 8))
        zeros = (
            network.controlnet_down_blocks,
            network.controlnet_mid_block,
            network.controlnet_cond_embedding.conv_out,
        )
        for weight in (weight for layers in zeros for weight in layers.parameters()):
            nn.init.normal_(weight, std=0.2)
    return network


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer: all bytes, and the merges that make `WORDS` single tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        left = word[0]
        for i, letter in enumerate(word[1:], start=2):
            right = f"{letter}</w>" if i == len(word) else letter
            merges[left, right] = None
            left += right
    vocabulary += dict.fromkeys(a + b for a, b in merges)
    ids = {token: i for i, token in enumerate([*vocabulary, START, END])}
    return CLIPTokenizer(vocab=ids, merges=list(merges), model_max_length=TOKENS)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder, 16 wide."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_vae() -> AutoencoderKL:
    """A KL autoencoder, f = 8, 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=3.0,  # unit variance, for these weights
        sample_size=NATIVE_SIZE,
    )


def make_unet() -> UNet2DConditionModel:
    """A denoiser with SD 1.5's block types: ten transformers, two heads each (`attention_head_dim` counts heads)."""
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // 8,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
