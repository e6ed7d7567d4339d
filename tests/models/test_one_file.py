"""A method is one file: put into the folder it is listed, described, documented and run; equal verbs share stages."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

import models.methods
from models import catalogue, engine, pages, video
from models.backbones import tiny
from models.context import MemoryCache
from models.digest import digest_file
from models.types import File

FRAMES, SIZE = 3, 64
STEPS = {"num_inversion_steps": 4, "num_kept_steps": 4, "num_inference_steps": 2}
TEXT = {"prompt": "a red bear on the beach", "source_prompt": "a blue car on the road"}
MIRRORED = '''"""Mirrored: the noise of the clip, turned around and denoised in one step. arXiv:2010.02502.

How it works: DDIM inversion, then a mirror. Differs from the paper or its code: there is none.
"""

from models.backbones import sd
from models.guidance import cfg
from models.inversion import ddim
from models.method import Method, Paper
from models.params import VideoParams, param
from models.schedules.ddim import Schedule, split


class Mirrored(Method):
    """A fourteenth method."""

    paper = Paper(arxiv="2010.02502", title="Denoising Diffusion Implicit Models", venue="ICLR 2021")
    backbone = sd.V1_5

    class Params(ddim.Params, cfg.Params, VideoParams):
        """One more parameter than the blocks bring."""

        upside_down: bool = param(False, stage="edit")
        """Turn around the other axis."""

    invert = ddim.invert

    def edit(self, ctx, p, clip, fitted, trajectory):
        """Denoise the mirrored noise at once."""
        schedule, t = Schedule.from_config(ctx.backbone.scheduler_config), int(trajectory.timesteps[-1])
        latents = trajectory.latents[-1].flip(-2 if p.upside_down else -1)
        output = ctx.backbone.predict(latents, t, ctx.backbone.encode_text([p.prompt]))
        return split(schedule, output, latents, t)[0]
'''


@pytest.fixture(scope="module")
def backbone():
    return tiny.make()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video.write(path, torch.rand(FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), 8)
    return {"video": File(path, digest_file(path), path.name)}


@pytest.fixture
def fourteenth(tmp_path, monkeypatch):
    """The folder of methods with one more file in it."""
    folder = tmp_path / "methods"
    shutil.copytree(Path(models.methods.__path__[0]), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mirrored.py").write_text(MIRRORED)
    monkeypatch.setattr(models.methods, "__path__", [str(folder)])
    yield "mirrored"
    sys.modules.pop("models.methods.mirrored", None)
    vars(models.methods).pop("mirrored", None)


def states(result):
    return {stage.name: stage.state for stage in result.stages}


def run(method_id, backbone, clip, cache, **params):
    return engine.run(engine.find(method_id), {**TEXT, **STEPS, **params}, clip, backbone, cache=cache)


def test_a_further_method_touches_one_file(fourteenth, backbone, clip):
    before = catalogue.PATH.read_bytes()
    assert fourteenth in engine.method_ids()
    entry = catalogue.build()["methods"][fourteenth]
    assert entry["title"].startswith("Mirrored") and entry["stages"] == ["prepare", "invert", "edit", "decode"]
    assert entry["params"]["properties"]["upside_down"]["x-stage"] == "edit"
    written = pages.build()
    assert "Turn around the other axis." in written[f"{fourteenth}.md"] and f"`{fourteenth}`" in written["README.md"]
    cache = MemoryCache()
    one, other = (run(fourteenth, backbone, clip, cache, upside_down=way) for way in (False, True))
    assert one.video.frames.shape == (FRAMES, 3, SIZE, SIZE)
    assert not torch.equal(one.video.frames, other.video.frames) and states(other)["invert"] == "hit"
    assert catalogue.PATH.read_bytes() == before


def test_equal_verbs_share_their_stages(fourteenth, backbone, clip):
    cache = MemoryCache()
    first = run("frame_by_frame", backbone, clip, cache)
    assert states(first)["invert"] == "done"
    for method_id in ("tokenflow", fourteenth):
        later = run(method_id, backbone, clip, cache)
        assert [states(later)[stage] for stage in ("prepare", "invert")] == ["hit", "hit"]
        assert sum(stage.saved_frame_evals for stage in later.stages) == 4 * FRAMES
    assert states(run("tokenflow", backbone, clip, cache, source_prompt="a car"))["invert"] == "done"
