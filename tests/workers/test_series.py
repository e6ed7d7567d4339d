"""The figures of an edit, frame by frame."""

import json
from pathlib import Path

import pytest
import torch

from models.errors import Cancelled
from workers import series


def panning(frames: int = 6, size: int = 96) -> torch.Tensor:
    """Smooth noise that moves one pixel to the right a frame: flow knows where everything went."""
    noise = torch.rand(1, 3, size // 8, size // 8 + frames, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bicubic").clamp(0, 1)[0]
    return torch.stack([wide[:, :, frames - n : frames - n + size] for n in range(frames)])


def told(edited: torch.Tensor, source: torch.Tensor, checkpoint: str = "tiny", **more: object) -> dict[str, object]:
    facts = {"checkpoint": checkpoint, "prompt": "a red fox", "alive": lambda done, pairs: None} | more
    return series.measure(edited, source, 8.0, **facts)


def values(measured: dict, key: str) -> list[float | None]:
    return next(one["values"] for one in measured["series"] if one["key"] == key)


def test_an_edit_that_moves_with_its_source_has_no_warp_error_and_one_that_flickers_shows_the_frame() -> None:
    source = panning()
    steady = values(told(1 - source, source), "refilm.warp_mse@dis")
    assert steady[0] is None and max(steady[1:]) < 0.002
    flickering = source.clone()
    flickering[3] = flickering[3] * 0.5
    errors = values(told(flickering, source), "refilm.warp_mse@dis")
    assert min(errors[3], errors[4]) > 10 * max(errors[1], errors[2], errors[5])
    psnr = values(told(flickering, source), "refilm.psnr_source")
    assert psnr.index(min(psnr)) == 3


def test_long_clips_are_measured_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    source = panning(7)
    whole = told(source.flip(1), source)
    ticks: list[tuple[int, int]] = []
    monkeypatch.setattr(series, "CHUNK", 2)
    assert told(source.flip(1), source, alive=lambda *tick: ticks.append(tick)) == whole
    assert ticks == [(0, 6), (2, 6), (4, 6)]


def test_only_the_miniature_is_judged_by_its_own_pair() -> None:
    source = panning(3)
    keys = [one["key"] for one in told(source, source, "miniature")["series"]]
    assert "tgve.clip_text@miniature" in keys and "fatezero.tem_con@miniature" in keys
    assert not any("clip" in one["key"] or "tem_con" in one["key"] for one in told(source, source)["series"])


def test_an_edit_is_not_lost_for_its_metrics_but_a_cancel_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = panning(2)
    facts = {"checkpoint": "tiny", "prompt": "", "alive": lambda done, pairs: None}
    path = series.write(tmp_path, frames, frames, 8.0, **facts)
    assert path is not None and json.loads(path.read_text())["frames"] == 2
    with monkeypatch.context() as broken:
        broken.setattr(series.warp, "valid", lambda *flows: torch.zeros(2) + torch.zeros(3))
        assert series.write(tmp_path, frames, frames, 8.0, **facts) is None

    def stop(done: int, pairs: int) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        series.write(tmp_path, frames, frames, 8.0, **facts | {"alive": stop})
