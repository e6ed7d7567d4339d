"""Metrics on pixels: PSNR, SSIM, flicker, and what an edit left alone outside its mask.

All frames are (f c h w) in 0...1; a mask is (f 1 h w), at least 0.5 inside the edited region. "Outside" is a true
masked mean: multiplying pictures by a mask instead counts the masked pixels as perfect, which adds
10 log10(1 / area) decibels.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.types import Frames

LEAST_MSE = 1e-9
SSIM_WINDOW = 7


def psnr(frames: Frames, reference: Frames) -> Float[Tensor, " f"]:
    """Decibels per frame: 10 log10(1 / max(1e-9, MSE)). Raises ValueError when the shapes differ."""
    _same_shape(frames, reference)
    return _decibels((frames.float() - reference.float()).square().flatten(1).mean(1))


def psnr_outside_mask(frames: Frames, reference: Frames, mask: Float[Tensor, "f 1 h w"]) -> Float[Tensor, " f"]:
    """PSNR per frame over the pixels outside the mask; NaN where the mask leaves no pixel."""
    _same_shape(frames, reference)
    error = (frames.float() - reference.float()).square().mean(1, keepdim=True)
    return _decibels(_outside(error, mask))


def ssim(frames: Frames, reference: Frames) -> Float[Tensor, " f"]:
    """Structural similarity per frame, mean over channels (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    scikit-image's defaults for pictures in 0...1: a uniform window of 7 pixels, K1 = 0.01, K2 = 0.03, sample
    covariance, a border of 3 pixels left out. Raises ValueError when the frames are smaller than the window.
    """
    return _ssim_map(frames, reference).flatten(1).mean(1)


def ssim_outside_mask(frames: Frames, reference: Frames, mask: Float[Tensor, "f 1 h w"]) -> Float[Tensor, " f"]:
    """SSIM per frame over the windows whose centre is outside the mask; NaN where there is none."""
    border = SSIM_WINDOW // 2
    inner = mask[..., border : mask.shape[-2] - border, border : mask.shape[-1] - border]
    return _outside(_ssim_map(frames, reference).mean(1, keepdim=True), inner)


def flicker(frames: Frames) -> float:
    """1 minus the mean absolute difference of neighbouring frames (arXiv:2311.17982); for static scenes only."""
    if len(frames) < 2:
        raise ValueError("flicker needs at least two frames")
    return 1.0 - float((frames[1:] - frames[:-1]).abs().mean())


def semantic_score(frames: Frames, source: Frames, mask: Float[Tensor, "f 1 h w"]) -> float:
    """Mean over pixels outside the mask of the largest channel difference, in 0...255 (arXiv:2409.09668)."""
    _same_shape(frames, source)
    change = (frames.float() - source.float()).abs().amax(1, keepdim=True) * 255
    return float(_outside(change, mask).nanmean())


def measure(frames: Frames, source: Frames, mask: Float[Tensor, "f 1 h w"] | None = None) -> dict[str, float]:
    """The pixel metrics of an edit by key; those outside a mask only where one is given."""
    report = {
        "refilm.psnr_source": float(psnr(frames, source).mean()),
        "refilm.ssim_source": float(ssim(frames, source).mean()),
    }
    if len(frames) > 1:
        report["refilm.flicker"] = flicker(frames)
    if mask is not None:
        report["refilm.psnr_outside_mask"] = float(psnr_outside_mask(frames, source, mask).nanmean())
        report["refilm.ssim_outside_mask"] = float(ssim_outside_mask(frames, source, mask).nanmean())
        report["editboard.semantic_score"] = semantic_score(frames, source, mask)
    return report


def _decibels(mse: Tensor) -> Tensor:
    return -10.0 * mse.clamp_min(LEAST_MSE).log10()


def _outside(values: Tensor, mask: Tensor) -> Tensor:
    """Mean per frame of values (f 1 h w) where the mask is below one half."""
    outside = (mask < 0.5).to(values.dtype)
    return (values * outside).flatten(1).sum(1) / outside.flatten(1).sum(1)


def _ssim_map(frames: Tensor, reference: Tensor) -> Tensor:
    """SSIM of every window that lies inside the picture, (f c h-6 w-6)."""
    _same_shape(frames, reference)
    if min(frames.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side, not {tuple(frames.shape[-2:])}")
    # variances of nearly equal numbers cancel: double precision keeps them
    x, y = frames.double(), reference.double()
    samples = SSIM_WINDOW**2
    unbiased = samples / (samples - 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = unbiased * (_window_mean(x * x) - mean_x**2)
    var_y = unbiased * (_window_mean(y * y) - mean_y**2)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).float()


def _window_mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, SSIM_WINDOW, stride=1)


def _same_shape(frames: Tensor, reference: Tensor) -> None:
    if frames.shape != reference.shape:
        raise ValueError(f"frames {tuple(frames.shape)} and reference {tuple(reference.shape)} differ in shape")
