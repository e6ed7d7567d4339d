"""One method on one clip, stage by stage: UNet frame-evals, FLOPs, peak memory, seconds; first and second edit."""

import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from models import engine
from models.backbones.backbone import Backbone
from models.context import Cache, MemoryCache
from models.engine import StageReport
from models.types import File, Video

PAGE_BYTES = 4096


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _sdpa_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Multiply-adds of attention, twice: ``Q K^T`` and ``A V``. FlopCounterMode knows no formula for the CPU kernel."""
    b, h, n, d = q
    return int(2 * b * h * n * k[-2] * d + 2 * b * h * n * k[-2] * v[-1])


@dataclass
class Peak:
    """Highest resident memory seen above the start, in bytes."""

    size_bytes: int = 0


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@contextmanager
def peak_memory(interval_seconds: float = 0.02) -> Iterator[Peak]:
    """Sample this process's resident memory while the body runs; device memory is added where a device is in use.

    What an earlier body freed is first given back to the system; otherwise this one would reuse it unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    peak, stop, start = Peak(), threading.Event(), _resident_bytes()

    def sample() -> None:
        while not stop.is_set():
            peak.size_bytes = max(peak.size_bytes, _resident_bytes() - start)
            time.sleep(interval_seconds)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        if torch.accelerator.is_available():
            peak.size_bytes += torch.accelerator.max_memory_allocated()


@dataclass(frozen=True)
class Measured:
    """One edit: totals, its stages, and the video. `flops` is 0 when they were not counted, which costs time.

    `cpu_seconds` are those of all threads of this process: what the edit costs whatever else the machine does.
    """

    seconds: float
    cpu_seconds: float
    flops: int
    peak_bytes: int
    frame_evals: int
    saved_frame_evals: int
    stages: tuple[StageReport, ...]
    video: Video


def measure(
    method_id: str,
    params: dict[str, Any],
    inputs: dict[str, Any],
    backbone: Backbone,
    cache: Cache,
    *,
    flops: bool = True,
) -> Measured:
    """Run one edit and count."""
    started, begun = time.monotonic(), time.process_time()
    counter = FlopCounterMode(display=False)
    with peak_memory() as peak, counter if flops else nullcontext():
        result = engine.run(engine.find(method_id), params, inputs, backbone, cache=cache)
    stages = result.stages
    return Measured(
        time.monotonic() - started,
        time.process_time() - begun,
        counter.get_total_flops() if flops else 0,
        peak.size_bytes,
        sum(stage.frame_evals for stage in stages),
        sum(stage.saved_frame_evals for stage in stages),
        stages,
        result.video,
    )


def first_and_second(
    method_id: str, params: dict[str, Any], video: File, backbone: Backbone, second_prompt: str
) -> tuple[Measured, Measured]:
    """The same clip edited twice with different prompts and one cache: what the second one saves."""
    cache = MemoryCache()
    inputs = {"video": video}
    first = measure(method_id, params, inputs, backbone, cache)
    return first, measure(method_id, {**params, "prompt": second_prompt}, inputs, backbone, cache)


def table(method_id: str, checkpoint: str, runs: tuple[Measured, ...]) -> str:
    """The measurements as text, one line a stage."""
    lines = [
        f"{method_id} on {checkpoint}",
        f"{'edit':6} {'stage':8} {'state':8} {'seconds':>8} {'frame-evals':>12} {'saved':>8}",
    ]
    for number, run in enumerate(runs, 1):
        lines += [
            f"{number:<6} {s.name:8} {s.state:8} {s.seconds:8.2f} {s.frame_evals:12} {s.saved_frame_evals:8}"
            for s in run.stages
        ]
        total = f"{number:<6} {'total':17} {run.seconds:8.2f} {run.frame_evals:12} {run.saved_frame_evals:8}"
        lines.append(f"{total}   {run.flops / 1e9:.1f} GFLOP, peak {run.peak_bytes / 2**20:.0f} MiB")
    return "\n".join(lines)


def as_json(method_id: str, checkpoint: str, runs: tuple[Measured, ...]) -> dict[str, Any]:
    """The measurements as JSON-ready values."""
    return {"method": method_id, "checkpoint": checkpoint, "edits": [_plain(run) for run in runs]}


def _plain(run: Measured) -> dict[str, Any]:
    figures = ("seconds", "cpu_seconds", "flops", "peak_bytes", "frame_evals", "saved_frame_evals")
    return {name: getattr(run, name) for name in figures} | {"stages": [asdict(stage) for stage in run.stages]}
