"""Metrics on picture and text embeddings of a CLIP-like pair (arXiv:2103.00020).

Embeddings are projected features, frames (f d) and texts (d), of any length: cosines are taken here. Each published
table names its own encoder; a value from another encoder must not stand under the same key, so `measure` adds
`@encoder` to every key unless the encoder is the one of the definition.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ENCODERS = {"tgve": "clip-vit-l-14", "v2vbench": "clip-vit-l-14", "fatezero": "clip-vit-b-32"}
"""The encoder that each definition belongs to."""


def frame_consistency_all(frames: Float[Tensor, "f d"]) -> float:
    """`tgve.clip_frame`: mean cosine of all pairs of different frames (LOVEU-TGVE 2023). Needs two frames."""
    unit = _unit(frames)
    count = _at_least_two(unit)
    cosines = unit @ unit.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def frame_consistency_next(frames: Float[Tensor, "f d"]) -> float:
    """`fatezero.tem_con`: mean cosine of consecutive frames (arXiv:2303.09535). Needs two frames."""
    unit = _unit(frames)
    _at_least_two(unit)
    return float((unit[1:] * unit[:-1]).sum(1).mean())


def frame_consistency_pooled(pooled: Float[Tensor, "f d"]) -> float:
    """`v2vbench.clip_consistency`: consecutive cosine, negatives cut to 0, of vision features before projection."""
    unit = _unit(pooled)
    _at_least_two(unit)
    return float((unit[1:] * unit[:-1]).sum(1).clamp_min(0).mean())


def text_alignment(frames: Float[Tensor, "f d"], text: Float[Tensor, " d"]) -> float:
    """`tgve.clip_text`: mean of 100 times the cosine between frame and target text (LOVEU-TGVE 2023)."""
    return 100.0 * float((_unit(frames) @ _unit(text)).mean())


def pick_score(frames: Float[Tensor, "f d"], text: Float[Tensor, " d"], logit_scale: float) -> float:
    """`tgve.pickscore`: mean of exp(logit_scale) times the cosine (arXiv:2305.01569)."""
    scale = float(torch.tensor(logit_scale).exp())
    return scale * float((_unit(frames) @ _unit(text)).mean())


def frame_accuracy(frames: Float[Tensor, "f d"], target: Float[Tensor, " d"], source: Float[Tensor, " d"]) -> float:
    """`fatezero.frame_acc`: share of frames at least as close to the target text as to the source text."""
    unit = _unit(frames)
    return float((unit @ _unit(target) >= unit @ _unit(source)).float().mean())


def directional(
    frames: Float[Tensor, "f d"],
    source_frames: Float[Tensor, "f d"],
    target: Float[Tensor, " d"],
    source: Float[Tensor, " d"],
) -> float:
    """`vidtome.dir_clip`: mean cosine of the change of the frame and the change of the text (arXiv:2312.10656)."""
    change = _unit(_unit(frames) - _unit(source_frames))
    return float((change @ _unit(_unit(target) - _unit(source))).mean())


def measure(
    frames: Float[Tensor, "f d"],
    target: Float[Tensor, " d"],
    *,
    encoder: str,
    source_frames: Float[Tensor, "f d"] | None = None,
    source: Float[Tensor, " d"] | None = None,
) -> dict[str, float]:
    """The embedding metrics of an edit by key; those against the source only where it is given.

    `encoder` names what made the embeddings, such as "clip-vit-l-14" or "miniature".
    """
    report = {"tgve.clip_text": text_alignment(frames, target)}
    if len(frames) > 1:
        report["tgve.clip_frame"] = frame_consistency_all(frames)
        report["fatezero.tem_con"] = frame_consistency_next(frames)
    if source is not None:
        report["fatezero.frame_acc"] = frame_accuracy(frames, target, source)
    if source is not None and source_frames is not None:
        report["vidtome.dir_clip"] = directional(frames, source_frames, target, source)
    return {_key(name, encoder): value for name, value in report.items()}


def _key(name: str, encoder: str) -> str:
    return name if ENCODERS.get(name.split(".")[0]) == encoder else f"{name}@{encoder}"


def _unit(embeds: Tensor) -> Tensor:
    return functional.normalize(embeds.float(), dim=-1)


def _at_least_two(frames: Tensor) -> int:
    if len(frames) < 2:
        raise ValueError("frame consistency needs at least two frames")
    return len(frames)
