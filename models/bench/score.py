"""How good an edit is, where the exact edit is known: pixels, judge, exact flow, CLIP-like pair."""

import torch
from torch import Tensor

from models.bench.cases import Case, rendered
from models.metrics import clip as clip_metrics
from models.metrics import pixel, warp
from models.miniature import clip, judge
from models.types import Frames

JUDGED = ("subject", "colour", "background", "style")


def score(case: Case, frames: Frames) -> dict[str, float]:
    """All quality figures of one edited clip (f 3 h w, 0…1), by namespaced key.

    `gt.*` compare with the exact edit; `bg.psnr` only outside the subject before and after; `judge.edit_success` is the
    share of frames that show the wanted word, `judge.kept` the share of untouched attributes still seen;
    `warp.exact_flow` is the mean squared warp error along the exact flow, visible pixels only.
    """
    exact, before = rendered(case.after), rendered(case.before)
    either = torch.maximum(exact.masks, before.masks)
    text = clip.embed_text([case.prompt])[0]
    seen = clip.embed_frames(frames)
    return {
        "gt.psnr": float(pixel.psnr(frames, exact.frames).mean()),
        "gt.ssim": float(pixel.ssim(frames, exact.frames).mean()),
        "bg.psnr": float(pixel.psnr_outside_mask(frames, exact.frames, either).mean()),
        "warp.exact_flow": warp.warp_mse(frames, before.flow_backward, _visible(before.occlusion_backward)),
        "mini.clip_text": clip_metrics.text_alignment(seen, text),
        "mini.clip_frame": clip_metrics.frame_consistency_all(seen),
        **judged(case, frames),
    }


def judged(case: Case, frames: Frames) -> dict[str, float]:
    """What the judge sees: the wanted attribute, and the others."""
    words = judge.classify(frames)
    share = {head: _share(words[head], getattr(case.after, head)) for head in JUDGED}
    kept = [share[head] for head in JUDGED if head != case.kind]
    return {"judge.edit_success": share[case.kind], "judge.kept": sum(kept) / len(kept)}


def _share(words: list[str], wanted: str) -> float:
    return sum(word == wanted for word in words) / len(words)


def _visible(occlusion: Tensor) -> Tensor:
    return occlusion < 0.5
