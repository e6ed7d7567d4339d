"""The miniature's CLIP-like pair: pictures and captions of its world in one space (arXiv:2103.00020).

The text tower is transformers' own with a small configuration; the vision tower is convolutional, which learns this
world on a CPU some ten times faster than a transformer does. Trained apart from the generator and from the judge
(`train_clip`), it serves the metrics; the generator has its own text encoder.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from models.miniature.recognisers import features, shrink, trunk
from models.miniature.text import MAX_TOKENS

FOLDER = Path(__file__).with_name("weights") / "clip"
WIDTH = 128
"""Length of the embeddings."""
WIDTHS = (64, 80, 128, 192)
TEXT_LAYERS = 2


class Pair(nn.Module):
    """The two towers and the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        """Build the untrained pair; `widths` are the vision trunk's. ValueError for a tokenizer it would misread."""
        super().__init__()
        if tokenizer.eos_token_id == 2:
            raise ValueError("transformers pools captions whose end token is 2 at the largest token instead")
        self.tokenizer = tokenizer
        self.vision = trunk(widths)
        self.projection = nn.Linear(2 * widths[-1], WIDTH)
        self.text = CLIPTextModelWithProjection(_text_config(tokenizer))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def frames(self, frames: Float[Tensor, "f 3 64 64"]) -> Float[Tensor, "f 128"]:
        """Embeddings of pictures in 0...1, of any length."""
        result: Tensor = self.projection(features(self.vision, frames))
        return result

    def texts(self, ids: Tensor) -> Float[Tensor, "b 128"]:
        """Embeddings of token ids (b n), of any length."""
        result: Tensor = self.text(input_ids=ids).text_embeds
        return result


def _text_config(tokenizer: PreTrainedTokenizerFast) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        projection_dim=WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


@lru_cache(maxsize=2)
def load(folder: Path = FOLDER) -> Pair:
    """The trained pair, in float32 and frozen. Raises FileNotFoundError when it is not there."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pair = Pair(tokenizer, tuple(config["widths"]))
    pair.load_state_dict(load_file(folder / "model.safetensors"))  # converts fp16 to the network's float32
    return pair.eval().requires_grad_(False)


def tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Token ids (b n), cut at the tower's length and padded to the longest."""
    ids: Tensor = tokenizer(
        list(texts), padding=True, max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


@torch.no_grad()
def embed_frames(frames: Float[Tensor, "f c h w"], pair: Pair | None = None) -> Float[Tensor, "f 128"]:
    """Unit embeddings of frames of any size in 0...1."""
    pair = pair or load()
    parts = [pair.frames(shrink(part)) for part in torch.split(frames, 128)]
    return functional.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def embed_text(texts: Sequence[str], pair: Pair | None = None) -> Float[Tensor, "b 128"]:
    """Unit embeddings of texts; unknown words count as `<unk>`."""
    pair = pair or load()
    return functional.normalize(pair.texts(tokens(pair.tokenizer, texts)), dim=-1)
