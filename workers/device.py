"""Which device the networks run on. The only file that says "cuda"."""

from typing import Any

import torch


def choose(wanted: str) -> torch.device:
    """Return the device: `auto` is the GPU if there is one, everything else is taken at its word."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def dtype_for(device: torch.device) -> torch.dtype:
    """Return what weights are kept in: half precision on a GPU, full precision on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def name(device: torch.device) -> str:
    """Return the device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def begin(device: torch.device) -> None:
    """Start counting the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most device memory held since `begin`; 0 on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0


def release() -> None:
    """Give cached device memory back, after a job has dropped its tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_accelerated(tensor: Any) -> bool:
    """True when the tensor lies on a GPU."""
    return bool(tensor.device.type == "cuda")
