"""Training of the CLIP-like pair: contrast between renders and their captions, with attributes as a side task."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.miniature import data, loop
from models.miniature.clip import FOLDER, WIDTH, WIDTHS, Pair, embed_frames, embed_text, tokens
from models.miniature.recognisers import (
    HEADS,
    averaged,
    drawn,
    frames_of,
    labels,
    publish,
    shrink,
    soften,
    unseen,
    write_half,
)
from models.miniature.scene import ATTRIBUTES, CAPTION_VARIANTS, WORDS, Scene, caption
from models.miniature.text import UNKNOWN, build_tokenizer

BATCH = 128
PICTURES = 30_000
CHOICES = 64
NOISE = 0.08
"""Share of captions that get an unknown word."""
UNSEEN = 1_920


class Learner(nn.Module):
    """The pair with a linear head per attribute on each tower, which help it to start and are dropped at the end."""

    def __init__(self, pair: Pair) -> None:
        """Put the heads on the embeddings."""
        super().__init__()
        self.pair = pair
        values = sum(len(ATTRIBUTES[head]) for head in HEADS)
        self.heads = nn.ModuleList([nn.Linear(WIDTH, values) for _ in range(2)])

    def forward(self, frames: Tensor, ids: Tensor, truth: Tensor) -> Tensor:
        """Loss of frames (n 3 64 64) in 0...1 with token ids (n k) and labels (n 4)."""
        both = (self.pair.frames(frames).float(), self.pair.texts(ids).float())
        side = [_attribute_loss(head(x).float(), truth) for head, x in zip(self.heads, both, strict=True)]
        images, texts = (functional.normalize(each, dim=-1) for each in both)
        logits = self.pair.logit_scale.exp().clamp(max=100) * (images @ texts.T).float()
        return _contrast(logits, truth) + 0.25 * (side[0] + side[1])


def _contrast(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy both ways; captions of pictures that show the same count as right, shared evenly."""
    same = (truth[:, None] == truth[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def _attribute_loss(logits: Tensor, truth: Tensor) -> Tensor:
    parts = torch.split(logits, [len(ATTRIBUTES[head]) for head in HEADS], dim=1)
    return torch.stack([functional.cross_entropy(part, truth[:, i]) for i, part in enumerate(parts)]).mean()


def train(
    folder: Path,
    minutes: float,
    resume: bool = False,
    *,
    out: Path = FOLDER,
    count: int = PICTURES,
    measured: int = UNSEEN,
) -> dict[str, float]:
    """Train for `minutes` on `count` pictures and write the pair to `out`.

    Pictures and checkpoints are kept in `folder`. Returns the retrieval accuracy on `measured` unseen renders.
    """
    torch.manual_seed(0)
    store, shown = data.pictures(folder, count), data.scenes(count)
    truth, tokenizer = labels(shown), build_tokenizer(WORDS)

    def loss(network: nn.Module, step: int) -> Tensor:
        rows, generator = drawn(step, count, BATCH)
        frames = soften(shrink(frames_of(store[rows.numpy()])), generator)
        rng = np.random.default_rng((3, step))
        ids = tokens(tokenizer, [_caption(shown[row], rng) for row in rows.tolist()])
        with loop.autocast():
            result: Tensor = network(frames, ids, truth[rows])
        return result

    def pair(run: loop.Run[Learner]) -> Pair:
        return averaged(run).pair.eval()

    plan = loop.Plan(folder / "clip", minutes, "contrast", resume, average_decay=0.995)
    run = loop.Run(Learner(Pair(tokenizer)).train(), plan)
    run.go(loss, lambda run: f"top1_of_64 {retrieval(pair(run), measured // 3):.3f}")
    publish(out, lambda fresh: _write(fresh, pair(run)))
    return {"top1_of_64": retrieval(pair(run), measured)}


def _caption(shown: Scene, rng: np.random.Generator) -> str:
    """A paraphrase, at times with an unknown word."""
    words = caption(shown, int(rng.integers(CAPTION_VARIANTS))).split()
    if rng.random() < NOISE:
        words.insert(int(rng.integers(len(words) + 1)), UNKNOWN)
    return " ".join(words)


def retrieval(pair: Pair | None = None, count: int = UNSEEN) -> float:
    """Share of unseen renders whose own caption is the nearest of 64 random ones; a twin's caption is no mistake."""
    frames, shown = unseen(count)
    images = embed_frames(frames, pair)
    texts = embed_text([caption(scene, index) for index, scene in enumerate(shown)], pair)
    truth, right = labels(shown), 0
    for start in range(0, count - CHOICES + 1, CHOICES):
        rows = slice(start, start + CHOICES)
        nearest = (images[rows] @ texts[rows].T).argmax(1)
        right += int((truth[rows][nearest] == truth[rows]).all(1).sum())
    return right / (count // CHOICES * CHOICES)


def _write(folder: Path, pair: Pair) -> None:
    write_half(pair, folder / "model.safetensors")
    pair.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"widths": list(WIDTHS)}, indent=2) + "\n")
