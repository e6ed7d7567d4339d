"""What methods promise beside the quality of an edit, measured: tuning that learns the clip, memory that stays bounded.

`python -m models bench --proof reconstruction` and `--proof memory`.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from models import engine, video
from models.backbones import sd
from models.backbones.backbone import Backbone
from models.bench.cases import EDIT_KINDS, FPS, SIZE, Case, cases, rendered, source_file
from models.context import MemoryCache
from models.digest import digest_file
from models.metrics import pixel
from models.miniature import world
from models.types import File

Figures = dict[str, Any]

STEPS = 20
TUNING = {"num_tuning_steps": 150, "learning_rate": 3e-3}
UNTUNED = {"num_tuning_steps": 1, "learning_rate": 1e-12}
SHORT, LONG = 24, 96
BOUNDED = {
    "gen_l_video": {"window": 8, "window_stride": 8, "num_inference_steps": 2},
    "tokenflow": {"num_inference_steps": 2, "num_inversion_steps": 2, "num_kept_steps": 2, "frames_per_pass": 8},
}
"""Methods whose networks hold a window or a batch of frames, however long the clip, and how they are run."""
KIBIBYTE = 1024


def reconstruction(checkpoint: str, clips: int) -> Figures:
    """PSNR (dB) of Tune-A-Video's reconstruction, the source's prompt as target, before and after its fit.

    From the inverted noise with guidance 1 and 4; one clip of each of the first `clips` kinds of edit.
    """
    backbone, found = sd.load(checkpoint), {}
    chosen = [cases(kind, 1)[0] for kind in EDIT_KINDS[:clips]]
    with tempfile.TemporaryDirectory() as folder:
        for case, (name, tuning) in product(chosen, (("untuned", UNTUNED), ("tuned", TUNING))):
            source, cache = source_file(case, Path(folder)), MemoryCache()
            for scale in (1.0, 4.0):
                psnr = _reconstructed(case, source, {**tuning, "guidance_scale": scale}, backbone, cache)
                found[f"{case.id}.guidance_{scale:g}.{name}"] = psnr
    return found


def _reconstructed(case: Case, source: File, params: Figures, backbone: Backbone, cache: MemoryCache) -> float:
    text = {"prompt": case.source_prompt, "source_prompt": case.source_prompt}
    steps = {"num_inference_steps": STEPS, "num_inversion_steps": STEPS}
    kind = engine.find("tune_a_video")
    result = engine.run(kind, {**text, **steps, **params}, {"video": source}, backbone, cache=cache)
    return float(pixel.psnr(result.video.frames, rendered(case.before).frames).mean())


def memory(checkpoint: str, clips: int) -> Figures:
    """Peak resident bytes of a process that edits 24 and 96 frames with each of `BOUNDED`, and their ratio.

    `at_rest` is the same process with the networks loaded, before the edit.
    """
    found: Figures = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for method_id, frames in product(BOUNDED, (SHORT, LONG)):
            clip = _clip(frames, Path(folder))
            with spawn.Pool(1) as pool:
                at_rest, peak = pool.apply(peak_bytes, (method_id, clip, checkpoint))
            found[f"{method_id}.{frames}_frames"] = {"at_rest": at_rest, "peak": peak}
    for method_id in BOUNDED:
        short, long = (found[f"{method_id}.{frames}_frames"]["peak"] for frames in (SHORT, LONG))
        found[f"{method_id}.ratio"] = long / short
    return found


def _clip(frames: int, folder: Path) -> File:
    """A clip of the world of so many frames."""
    path = folder / f"{frames}.mp4"
    if not path.exists():
        pictures = torch.from_numpy(world.render_frames(cases("colour", 1)[0].before, frames, SIZE))
        video.write(path, rearrange(pictures, "f h w c -> f c h w").float() / 255, FPS)
    return File(path, digest_file(path), path.name)


def peak_bytes(method_id: str, clip: File, checkpoint: str) -> tuple[int, int]:
    """In a process of its own: its peak resident bytes before and after one edit."""
    backbone, case = sd.load(checkpoint), cases("colour", 1)[0]
    before = _peak()
    params = {"prompt": case.prompt, "source_prompt": case.source_prompt, **BOUNDED[method_id]}
    engine.run(engine.find(method_id), params, {"video": clip}, backbone)
    return before, _peak()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE


PROOFS: dict[str, Callable[[str, int], Figures]] = {"reconstruction": reconstruction, "memory": memory}
