"""Published configurations of Stable Diffusion 1.5 and 2.1-base, and the names and shapes that follow from them.

Written from the architecture's description (arXiv:2112.10752, arXiv:2103.00020), not from any network's state.
"""

UNET_1 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
}
UNET_2 = UNET_1 | {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
CLIP_H = CLIP_L | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}


def affine(name, out, *into):
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}


def inside(prefix, shapes):
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def resnet(into, out, time):
    shapes = affine("norm1", into) | affine("conv1", out, into, 3, 3) | affine("norm2", out)
    shapes |= affine("conv2", out, out, 3, 3)
    if time:
        shapes |= affine("time_emb_proj", out, time)
    if into != out:
        shapes |= affine("conv_shortcut", out, into, 1, 1)
    return shapes


def attention(width, context):
    shapes = {f"{name}.weight": (width, size) for name, size in (("to_q", width), ("to_k", context), ("to_v", context))}
    return shapes | affine("to_out.0", width, width)


def transformer(width, context, linear):
    kernel = () if linear else (1, 1)
    shapes = (
        affine("norm", width) | affine("proj_in", width, width, *kernel) | affine("proj_out", width, width, *kernel)
    )
    block = inside("attn1", attention(width, width)) | inside("attn2", attention(width, context))
    for norm in ("norm1", "norm2", "norm3"):
        block |= affine(norm, width)
    block |= affine("ff.net.0.proj", 8 * width, width) | affine("ff.net.2", width, 4 * width)
    return shapes | inside("transformer_blocks.0", block)


def unet_shapes(config):
    widths, layers, context = config["block_out_channels"], config["layers_per_block"], config["cross_attention_dim"]
    linear, time = config.get("use_linear_projection", False), 4 * widths[0]
    shapes = affine("conv_in", widths[0], config["in_channels"], 3, 3)
    shapes |= affine("time_embedding.linear_1", time, widths[0]) | affine("time_embedding.linear_2", time, time)
    skips, into = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        for layer in range(layers):
            shapes |= inside(f"down_blocks.{level}.resnets.{layer}", resnet(into, width, time))
            if level < 3:
                shapes |= inside(f"down_blocks.{level}.attentions.{layer}", transformer(width, context, linear))
            into = width
            skips.append(width)
        if level < 3:
            shapes |= affine(f"down_blocks.{level}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    for layer in range(2):
        shapes |= inside(f"mid_block.resnets.{layer}", resnet(into, into, time))
    shapes |= inside("mid_block.attentions.0", transformer(into, context, linear))
    for level, width in enumerate(reversed(widths)):
        for layer in range(layers + 1):
            shapes |= inside(f"up_blocks.{level}.resnets.{layer}", resnet(into + skips.pop(), width, time))
            if level > 0:
                shapes |= inside(f"up_blocks.{level}.attentions.{layer}", transformer(width, context, linear))
            into = width
        if level < 3:
            shapes |= affine(f"up_blocks.{level}.upsamplers.0.conv", width, width, 3, 3)
    return shapes | affine("conv_norm_out", into) | affine("conv_out", config["out_channels"], into, 3, 3)


def vae_middle(width):
    block = affine("group_norm", width)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        block |= affine(name, width, width)
    shapes = inside("attentions.0", block)
    return shapes | inside("resnets.0", resnet(width, width, 0)) | inside("resnets.1", resnet(width, width, 0))


def vae_side(widths, layers, channels_in, channels_out, *, sampler, blocks):
    """Encoder or decoder: a convolution, four levels with a resampling between them, a middle, a convolution."""
    shapes = affine("conv_in", widths[0], channels_in, 3, 3)
    into = widths[0]
    for level, width in enumerate(widths):
        for layer in range(layers):
            shapes |= inside(f"{blocks}.{level}.resnets.{layer}", resnet(into, width, 0))
            into = width
        if level < 3:
            shapes |= affine(f"{blocks}.{level}.{sampler}.0.conv", width, width, 3, 3)
    shapes |= inside("mid_block", vae_middle(max(widths)))
    return shapes | affine("conv_norm_out", into) | affine("conv_out", channels_out, into, 3, 3)


def vae_shapes(config):
    widths, layers, latent = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    encoder = vae_side(widths, layers, 3, 2 * latent, sampler="downsamplers", blocks="down_blocks")
    decoder = vae_side(widths[::-1], layers + 1, latent, 3, sampler="upsamplers", blocks="up_blocks")
    shapes = inside("encoder", encoder) | inside("decoder", decoder)
    return shapes | affine("quant_conv", 2 * latent, 2 * latent, 1, 1) | affine("post_quant_conv", latent, latent, 1, 1)


def clip_shapes(config):
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.token_embedding.weight": (config["vocab_size"], width),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
    }
    layer = affine("mlp.fc1", hidden, width) | affine("mlp.fc2", width, hidden)
    layer |= affine("layer_norm1", width) | affine("layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer |= inside("self_attn", affine(name, width, width))
    for number in range(config["num_hidden_layers"]):
        shapes |= inside(f"encoder.layers.{number}", layer)
    return shapes | affine("final_layer_norm", width)
