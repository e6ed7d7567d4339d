"""Metrics on values known by hand, and SSIM against an independent implementation."""

import cv2
import numpy as np
import pytest
import torch

from models.metrics import clip, pixel, warp


def _frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, scikit-image's formula written with OpenCV's window."""

    def uniform_filter(values: np.ndarray, side: int) -> np.ndarray:
        return cv2.blur(values, (side, side))

    n, pad = 49, 3
    mean_x, mean_y = uniform_filter(x, 7), uniform_filter(y, 7)
    var_x = n / (n - 1) * (uniform_filter(x * x, 7) - mean_x**2)
    var_y = n / (n - 1) * (uniform_filter(y * y, 7) - mean_y**2)
    cov = n / (n - 1) * (uniform_filter(x * y, 7) - mean_x * mean_y)
    c1, c2 = 0.0001, 0.0009
    value = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(value[pad:-pad, pad:-pad].mean())


def test_psnr_of_a_known_error() -> None:
    frames = torch.full((2, 3, 8, 8), 0.5)
    assert pixel.psnr(frames + 0.1, frames).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert pixel.psnr(frames, frames).tolist() == pytest.approx([90.0, 90.0], abs=1e-4)


def test_psnr_outside_the_mask_is_a_true_masked_mean() -> None:
    source = torch.zeros(1, 3, 8, 8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    edit = torch.where(mask > 0, 1.0, 0.1).expand(1, 3, 8, 8)
    assert float(pixel.psnr_outside_mask(edit, source, mask)) == pytest.approx(20.0, abs=1e-4)
    # multiplying by the mask would have read 10 log10(2) = 3.01 dB more
    assert float(pixel.psnr(edit * (1 - mask), source)) == pytest.approx(23.01, abs=1e-2)
    assert torch.isnan(pixel.psnr_outside_mask(edit, source, torch.ones_like(mask))).all()


def test_ssim_agrees_with_an_independent_formula() -> None:
    x = _frames(1, 3, 24, 20)
    y = (x + 0.2 * (_frames(1, 3, 24, 20, seed=1) - 0.5)).clamp(0, 1)
    expected = np.mean([_reference_ssim(x[0, c].double().numpy(), y[0, c].double().numpy()) for c in range(3)])
    assert float(pixel.ssim(x, y)) == pytest.approx(expected, abs=1e-5)
    assert float(pixel.ssim(x, x)) == pytest.approx(1.0, abs=1e-6)


def test_ssim_outside_the_mask_ignores_the_inside() -> None:
    x = _frames(1, 3, 24, 24)
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 12:] = 1
    y = x.clone()
    y[..., 16:] = 0
    assert float(pixel.ssim_outside_mask(y, x, mask)) == pytest.approx(1.0, abs=1e-6)
    assert float(pixel.ssim(y, x)) < 0.8


def test_flicker_and_semantic_score() -> None:
    frames = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.25)])
    assert pixel.flicker(frames) == pytest.approx(0.75)
    change = torch.zeros(2, 3, 8, 8)
    change[:, 1] = 0.2
    mask = torch.zeros(2, 1, 8, 8)
    assert pixel.semantic_score(change, torch.zeros_like(change), mask) == pytest.approx(51.0, abs=1e-3)


def test_pixel_report_has_namespaced_keys_and_refuses_other_shapes() -> None:
    frames = _frames(3, 3, 16, 16)
    keys = pixel.measure(frames, frames, torch.zeros(3, 1, 16, 16))
    assert set(keys) == {"refilm.psnr_source", "refilm.ssim_source", "refilm.flicker", "refilm.psnr_outside_mask",
                         "refilm.ssim_outside_mask", "editboard.semantic_score"}  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=r"differ in shape|Type-check"):
        pixel.psnr(frames, frames[:2])


def test_frame_consistency_counts_every_pair_once() -> None:
    frames = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    half = 2**-0.5
    assert clip.frame_consistency_all(frames) == pytest.approx((0 + half + half) / 3, abs=1e-6)
    assert clip.frame_consistency_next(frames) == pytest.approx(half / 2, abs=1e-6)
    assert clip.frame_consistency_pooled(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0.0
    with pytest.raises(ValueError, match="two frames"):
        clip.frame_consistency_all(frames[:1])


def test_text_alignment_accuracy_and_direction() -> None:
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    cat, dog = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 2.0])
    assert clip.text_alignment(frames, cat) == pytest.approx(50.0)
    assert clip.pick_score(frames, cat, 0.0) == pytest.approx(0.5)
    assert clip.frame_accuracy(frames, dog, cat) == 0.5
    assert clip.directional(dog.expand(2, 2), cat.expand(2, 2), dog, cat) == pytest.approx(1.0)
    assert clip.directional(cat.expand(2, 2), dog.expand(2, 2), dog, cat) == pytest.approx(-1.0)


def test_another_encoder_gets_another_key() -> None:
    frames, text = _frames(3, 8), _frames(8, seed=1)
    ours = clip.measure(frames, text, encoder="miniature", source_frames=frames + 1, source=text + 1)
    theirs = clip.measure(frames, text, encoder="clip-vit-l-14")
    assert "tgve.clip_frame@miniature" in ours
    assert "vidtome.dir_clip@miniature" in ours
    assert set(theirs) == {"tgve.clip_text", "tgve.clip_frame", "fatezero.tem_con@clip-vit-l-14"}


def test_warp_undoes_a_shift() -> None:
    first = _frames(1, 3, 16, 16)
    clip_frames = torch.cat([first, first.roll(2, dims=-1)])
    backward = torch.zeros(1, 2, 16, 16)
    backward[:, 0] = -2
    visible = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    visible[..., :2] = False
    assert warp.warp_mse(clip_frames, backward, visible) == pytest.approx(0.0, abs=1e-10)
    assert warp.warp_mse(clip_frames, torch.zeros_like(backward), visible) > 0.05
    assert warp.warp_ssim(clip_frames, backward) > 0.8 > warp.warp_ssim(clip_frames, torch.zeros_like(backward))


def test_valid_is_where_the_flows_agree() -> None:
    backward = torch.zeros(1, 2, 8, 8)
    backward[:, 0] = -1
    forward = -backward
    forward[:, :, :, 4:] += 3
    agreed = warp.valid(backward, forward)
    assert agreed[..., :5].all()
    assert not agreed[..., 5:].any()


def test_flow_errors_on_known_flows() -> None:
    source = torch.zeros(1, 2, 4, 4)
    source[:, 0] = 3
    edited = torch.zeros(1, 2, 4, 4)
    edited[:, 1] = 4
    assert warp.flow_epe(edited, source) == pytest.approx(5.0)
    assert warp.ff_beta(edited, source) == pytest.approx(1.0)
    assert warp.ff_beta(source, source) == pytest.approx(0.0, abs=1e-6)


def test_the_official_ff_alpha_is_perfect_where_nothing_is_valid() -> None:
    source = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    source[1, :, :, :2] = 0
    edit = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.4)])
    still = torch.zeros(1, 2, 8, 8)
    assert warp.ff_alpha(edit, source, still, official=True) == (0.0, 0.25)
    value, area = warp.ff_alpha(edit, source, still)
    assert (value, area) == (pytest.approx(102.0, abs=1e-3), 0.25)


def test_warp_report_grows_with_what_is_given() -> None:
    frames, flow = _frames(3, 3, 16, 16), torch.zeros(2, 2, 16, 16)
    visible = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    small = warp.measure(frames, frames, backward=flow, visible=visible)
    full = warp.measure(frames, frames, backward=flow, visible=visible, forward=flow, edited_backward=flow,
                        edited_forward=flow)  # fmt: skip
    assert set(small) == {"refilm.warp_mse", "refilm.warp_ssim", "refilm.valid_area"}
    assert set(full) - set(small) == {"refilm.flow_epe", "refilm.ff_alpha_fixed", "refilm.ff_alpha_area",
                                      "editboard.ff_alpha", "editboard.ff_beta"}  # fmt: skip
