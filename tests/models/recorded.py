"""Recorded cases of published code: their tensors, prompts, and the small network they were made with."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from models.backbones.backbone import Backbone
from models.controls.words import Tokens
from models.types import Clip

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def load(method, case):
    """What was recorded: its description and its tensors."""
    folder = GOLDEN / method
    return json.loads((folder / f"{case}.json").read_text()), load_file(folder / f"{case}.safetensors")


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, check_dtype=False)


def spans(described):
    """Token positions of each word of a recorded prompt: pieces are joined until they make the word."""
    found, position = [], 1
    for word in described["prompt"].split():
        start, joined = position, ""
        while joined != word:
            joined += described["token_text"][position]
            position += 1
        found.append(tuple(range(start, position)))
    return tuple(found)


def prompt(described, length=77):
    """Tokens of a recorded prompt."""
    return Tokens(tuple(described["token_ids"]), tuple(described["prompt"].split()), spans(described), length)


def windows(fractions):
    """A recorded schedule as the default window and those of single words."""
    fractions = fractions if isinstance(fractions, dict) else {"default_": fractions}
    words = {word: tuple(at) if isinstance(at, list) else at for word, at in fractions.items()}
    return words.pop("default_", 1.0), words


def equalizer(recorded):
    """A recorded equalizer as factors by word."""
    return dict(zip(recorded["words"], recorded["values"], strict=True)) if recorded else {}


def attention(tensors, heads):
    """A recorded attention layer, as its processor sees it."""
    weights = {name: tensors[f"w.{name}.weight"] for name in ("to_q", "to_k", "to_v")}
    projections = {name: lambda x, weight=weight: x @ weight.T for name, weight in weights.items()}
    to_out = [lambda x: x @ tensors["w.to_out.0.weight"].T + tensors["w.to_out.0.bias"], nn.Identity()]
    return SimpleNamespace(heads=heads, to_out=to_out, **projections)


class Tokenizer:
    """The recorded token ids of whole prompts, and how many tokens each of their words has."""

    model_max_length = 77

    def __init__(self, *described):
        self.ids = {one["prompt"]: one["token_ids"] for one in described}
        self.counts = {w: len(s) for one in described for w, s in zip(one["prompt"].split(), spans(one), strict=True)}

    def __call__(self, text, add_special_tokens=True, **_):
        ids = self.ids.get(text) or [0] * (self.counts[text] + 2)
        mask = [1] + [0] * (len(ids) - 2) + [1]
        return SimpleNamespace(input_ids=ids if add_special_tokens else ids[1:-1], special_tokens_mask=mask)


@dataclass(eq=False)
class Recorded(Backbone):
    """The recorded network with the recorded text embeddings; remembers the latents it was asked about."""

    texts: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def encode_text(self, prompts):
        return torch.cat([self.texts[text] for text in prompts])

    def predict(self, latents, t, embeds, *, unet=None):
        self.seen.append(latents.detach())
        return super().predict(latents, t, embeds, unet=unet)


def backbone(described, tensors):
    """The backbone of a recorded run."""
    return Recorded(
        tokenizer=Tokenizer(described["source"], described["target"]),
        text_encoder=nn.Identity(),
        vae=nn.Identity(),
        unet=UNet2DConditionModel.from_pretrained(GOLDEN / "tiny_sd/unet", use_safetensors=True),
        scheduler_config=DDIMScheduler.load_config(GOLDEN / "tiny_sd/scheduler"),
        checkpoint="golden",
        digest="",
        native_size=128,
        device=torch.device("cpu"),
        dtype=torch.float32,
        texts={
            described["source"]["prompt"]: tensors["source_text"],
            described["target"]["prompt"]: tensors["target_text"],
            "": tensors["uncond_text"],
        },
    )


def clip(latents):
    """Recorded latents as a clip; its frames are never looked at."""
    frames, side = latents.shape[2], 8 * latents.shape[-1]
    return Clip(torch.zeros(frames, 3, side, side), latents, 8.0, side, side)
