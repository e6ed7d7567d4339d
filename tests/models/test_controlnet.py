"""ControlNet: our call against diffusers' pipeline, what steers what, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import save_file
from transformers import DPTConfig, DPTForDepthEstimation

from models import engine, video
from models.backbones import companions, sd, tiny, unet3d
from models.conditions import controlnet, depth, edges
from models.context import Context, MemoryCache
from models.digest import digest_file
from models.errors import InvalidInput, InvalidParams, MissingCondition, WeightsUnavailable
from models.guidance import cfg
from models.guidance.sampling import sample
from models.schedules.ddim import Schedule
from models.types import Clip, File

FRAMES, SIZE, STEPS = 4, 64, 3
STEERED = ("frame_by_frame", "gen_l_video", "ground_a_video", "medm", "tokenflow")
BOXES = {"boxes": [[[0.2, 0.2, 0.8, 0.9]]], "phrases": ["a red bear"]}
TEXT = {"prompt": "a red bear on the beach", "guidance_scale": 3.0, "num_inference_steps": STEPS}
TINY = {"sd": tiny.make, "grounded": tiny.make_grounded}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ControlNet for the tiny family, stored as such networks are published."""
    path = tmp_path_factory.mktemp("control") / "net"
    tiny.make_controlnet().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """A dark square that moves over a ramp."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video.write(path, frames(), 8)
    return File(path, digest_file(path), path.name)


def frames():
    ramp = torch.linspace(0.4, 1, SIZE).expand(FRAMES, 3, SIZE, SIZE).clone()
    for i in range(FRAMES):
        ramp[i, :, 16:40, 8 + 6 * i : 32 + 6 * i] = 0.1
    return ramp


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steering(pictures, scale=1.0, active=(), **how):
    return controlnet.Control(tiny.make_controlnet().eval(), pictures, scale, frozenset(active), **how)


def edit(method, backbone, clip_file, cache=None, **params):
    kind = engine.find(method)
    least = {name: STEPS for name in ("num_inversion_steps",) if name in kind.Params.model_fields}
    given = {**TEXT, **least, **(BOXES if method == "ground_a_video" else {}), **params}
    return engine.run(kind, given, {"video": clip_file}, backbone, cache=cache)


@pytest.mark.parametrize("guess", [False, True])
def test_one_frame_is_that_of_the_pipeline(guess, monkeypatch):
    """Same noise, same picture, the last of three steps left alone: the same latents as diffusers' pipeline."""
    backbone, picture, start = tiny.make(), noise(1, 3, SIZE, SIZE).sigmoid(), noise(1, 4, 8, 8)
    monkeypatch.setattr(DiffusionPipeline, "progress_bar", lambda self, *args, **kw: _Silent())
    pipeline = StableDiffusionControlNetPipeline(
        backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.unet, tiny.make_controlnet().eval(),
        DDIMScheduler.from_config(tiny.SCHEDULER), None, None, requires_safety_checker=False,
    )  # fmt: skip
    theirs = pipeline(
        TEXT["prompt"], picture, negative_prompt="a cat", latents=start, guidance_scale=3.0, num_inference_steps=STEPS,
        controlnet_conditioning_scale=0.8, control_guidance_end=0.67, guess_mode=guess, output_type="latent",
    ).images  # fmt: skip
    schedule = Schedule.from_config(backbone.scheduler_config)
    timesteps = schedule.timesteps(STEPS)
    control = steering(picture, 0.8, timesteps[:2], guess=guess)
    text = cfg.encode(backbone, TEXT["prompt"], "a cat", 3.0)
    p = SimpleNamespace(num_inference_steps=STEPS, guidance_scale=3.0)
    predict = controlnet.steered(backbone, control, 1)
    backbone.frame_evals = 0
    ours = sample(Context(backbone, "edit"), p, predict, schedule, timesteps, start[:, :, None], text)
    assert (ours[:, :, 0] - theirs).abs().max() < 1e-4
    assert backbone.frame_evals == 2 * STEPS + (2 if guess else 4)
    plain = sample(Context(backbone, "edit"), p, backbone.predict, schedule, timesteps, start[:, :, None], text)
    assert (ours - plain).abs().max() > 1e-2


class _Silent:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, *_):
        pass


def test_every_frame_is_steered_by_its_own_picture():
    backbone, pictures = tiny.make(), noise(FRAMES, 3, SIZE, SIZE).sigmoid()
    latents, text = noise(2, 4, FRAMES, 8, 8), backbone.encode_text(["a cat", "a dog"])
    control = steering(pictures, active=[500])
    whole = backbone.predict(latents, 500, text, control=control)
    parts = controlnet.steered(backbone, control, 3)(latents, 500, text)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    alone = backbone.predict(latents[:, :, [2, 0]], 500, text, control=control.of([2, 0]))
    torch.testing.assert_close(alone, whole[:, :, [2, 0]], atol=1e-5, rtol=1e-4)
    apart = latents[1].transpose(0, 1)[:, :, None]  # f c 1 h w
    by_frame = backbone.predict(apart, 500, text[[1] * FRAMES], control=replace(control, by_frame=True))
    torch.testing.assert_close(by_frame[:, :, 0].transpose(0, 1), whole[1], atol=1e-5, rtol=1e-4)
    half = backbone.predict(latents, 500, text, control=replace(control, unsteered=1))
    torch.testing.assert_close(half[0], backbone.predict(latents, 500, text)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(half[1], whole[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="4 pictures for 2 x 1 frames"):
        backbone.predict(latents[:, :, :1], 500, text, control=control)


def test_a_network_of_clips_is_steered_frame_by_frame():
    backbone, pictures = unet3d.make_tiny(), noise(FRAMES, 3, SIZE, SIZE).sigmoid()
    network = ControlNetModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), conditioning_embedding_out_channels=(4, 4, 8, 8),
    ).eval()  # fmt: skip
    for weight in [*network.controlnet_down_blocks.parameters(), *network.controlnet_mid_block.parameters()]:
        torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(1))
    control = controlnet.Control(network, pictures, active=frozenset([500]))
    latents, text = noise(1, 4, FRAMES, 8, 8), backbone.encode_text(["a dog"])
    with torch.no_grad():
        residuals = [
            network(latents[:, :, i], 500, text, pictures[i : i + 1], return_dict=False) for i in range(FRAMES)
        ]
        wanted = backbone.unet(
            latents, 500, text, return_dict=False,
            down_block_additional_residuals=tuple(map(torch.cat, zip(*(r[0] for r in residuals), strict=True))),
            mid_block_additional_residual=torch.cat([r[1] for r in residuals]),
        )[0]  # fmt: skip
    found = backbone.predict(latents, 500, text, control=control)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (found - backbone.predict(latents, 500, text)).abs().max() > 1e-3


EVALS = {
    "frame_by_frame": 2 * STEPS * FRAMES,
    "gen_l_video": 2 * STEPS * FRAMES,
    "ground_a_video": 2 * STEPS * FRAMES,
    "medm": 2 * 2 * FRAMES,
    "tokenflow": 2 * STEPS * (FRAMES + 1),  # one key frame beside the four; the source's branch is not steered
}
"""Evaluations of a frame that the ControlNet adds."""


@pytest.mark.parametrize("method", STEERED)
def test_methods_are_steered_when_a_network_is_named(method, folder, clip_file):
    backbone, cache = TINY[engine.find(method).backbone.family](), MemoryCache()
    plain = edit(method, backbone, clip_file, cache)
    left_out = edit(method, backbone, clip_file, cache, control_net=str(folder), control_scale=0)
    assert (
        engine.find(method).Params(**TEXT, **(BOXES if method == "ground_a_video" else {}), control_net="").companions()
        == ()
    )
    assert torch.equal(left_out.video.frames, plain.video.frames) and not backbone.companions
    assert not [
        place for place in cache.stored if place[0] == "condition" and "edges" in cache.stored[place][1]["condition"]
    ]
    before = {name: (weight.data_ptr(), weight._version) for name, weight in backbone.unet.named_parameters()}
    found = edit(method, backbone, clip_file, cache, control_net=str(folder))
    assert not torch.equal(found.video.frames, plain.video.frames)
    evals = {stage.name: stage.frame_evals for stage in found.stages}
    assert evals["edit"] - {stage.name: stage.frame_evals for stage in plain.stages}["edit"] == EVALS[method]
    assert all(stage.state != "done" for stage in found.stages if stage.name in {"prepare", "fit", "invert"})
    assert {name: (weight.data_ptr(), weight._version) for name, weight in backbone.unet.named_parameters()} == before
    assert list(backbone.companions) == [str(folder)]


def test_grounded_clips_with_texts_of_their_own_are_steered(folder, clip_file):
    options = {"null_text_inner_steps": 1, "control_net": str(folder), "max_frames": 2}
    options |= {"num_inference_steps": 2, "num_inversion_steps": 2}
    seen = {
        guess: edit("ground_a_video", tiny.make_grounded(), clip_file, control_guess=guess, **options)
        for guess in (False, True)
    }
    evals = {guess: result.stages[3].frame_evals for guess, result in seen.items()}
    assert evals == {False: 4 * 2 * 2, True: 3 * 2 * 2}


def test_conditions_are_found_once_for_all_edits(folder, clip_file, monkeypatch):
    cache, found = MemoryCache(), []
    lineart = edges.lineart
    monkeypatch.setattr(edges, "lineart", lambda clip: found.append(1) or lineart(clip))
    monkeypatch.setattr(edges.lineart, "__module__", "models.conditions.edges")
    backbone = tiny.make()
    for prompt in ("a dog", "a cat"):
        edit("medm", backbone, clip_file, cache, control_net=str(folder), prompt=prompt)
    edit("tokenflow", backbone, clip_file, cache, control_net=str(folder), condition="lineart")
    assert found == [1]


def test_pictures_may_be_brought(folder, clip_file, tmp_path):
    """The source's own line art as a clip steers nearly as it does when it is found; too few pictures are refused."""
    art = edges.lineart(clip(frames()))
    kind, backbone, options = engine.find("frame_by_frame"), tiny.make(), {**TEXT, "num_inversion_steps": 2}
    options |= {"control_net": str(folder), "condition": "given", "num_inference_steps": 2}

    def bring(pictures):
        video.write(tmp_path / "art.mp4", pictures, 8)
        file = File(tmp_path / "art.mp4", digest_file(tmp_path / "art.mp4"), "art.mp4")
        return engine.run(kind, options, {"video": clip_file, "control_video": file}, backbone).video.frames

    with pytest.raises(MissingCondition, match="control_video"):
        engine.run(kind, options, {"video": clip_file}, backbone)
    with pytest.raises(InvalidInput, match="2 frames where the clip has 4"):
        bring(art[:2])
    found = engine.run(kind, options | {"condition": "lineart"}, {"video": clip_file}, backbone).video.frames
    other = engine.run(kind, options | {"control_net": None}, {"video": clip_file}, backbone).video.frames
    assert (bring(art) - found).abs().mean() < (other - found).abs().mean() / 3


def clip(pictures):
    return Clip(pictures, torch.zeros(1, 4, len(pictures), 8, 8), 8.0, SIZE, SIZE)


@pytest.mark.parametrize("find", [edges.canny(100, 200), edges.softedge, edges.lineart])
def test_edges_lie_where_things_end(find):
    found = find(clip(frames()))
    assert found.shape == (FRAMES, 3, SIZE, SIZE) and found.min() >= 0 and 0.9 < found.max() <= 1
    for i in range(FRAMES):
        left = 8 + 6 * i
        border = found[i, 0, 18:38, left - 2 : left + 2].amax(dim=1)
        assert border.min() > 0.3
        assert found[i, 0, 44:].max() < 0.2 and torch.equal(found[i, 0], found[i, 2])
    assert find(clip(torch.full((2, 3, SIZE, SIZE), 0.5))).max() < 1e-6


@pytest.fixture(scope="module")
def dpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("depth") / "dpt"
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=64, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DPTForDepthEstimation(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        '{"size": {"height": 64, "width": 64}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    return path


def test_depth_is_one_scale_for_the_clip(dpt, folder, clip_file):
    backbone = tiny.make()
    network = companions.load(backbone, str(dpt), companions.DEPTH_ESTIMATORS)
    pictures = frames() * torch.linspace(0.5, 1, FRAMES).view(-1, 1, 1, 1)
    near = network.network(pixel_values=2 * pictures - 1).predicted_depth
    torch.testing.assert_close(depth.nearness(network, pictures), near, atol=1e-5, rtol=1e-4)
    whole, each = (depth.estimator(network, how)(clip(pictures)) for how in ("clip", "frame"))
    assert whole.min() == 0 and whole.max() == 1 and whole.amax((1, 2, 3)).min() < 1
    torch.testing.assert_close(each.amax((1, 2, 3)), torch.ones(FRAMES))
    cache = MemoryCache()
    edit("medm", backbone, clip_file, cache, control_net=str(folder), condition="depth", depth_estimator=str(dpt))
    assert set(backbone.companions) == {str(dpt), str(folder)}
    assert any("depth" in meta["condition"] for (stage, _), (_, meta) in cache.stored.items() if stage == "condition")
    with pytest.raises(InvalidParams, match="needs a depth_estimator"):
        edit("medm", backbone, clip_file, control_net=str(folder), condition="depth")


def test_a_network_of_another_shape_is_refused_before_the_first_stage(tmp_path, clip_file):
    wider = ControlNetModel(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=24,
        attention_head_dim=2, conditioning_embedding_out_channels=(4, 4, 8, 8),
    )  # fmt: skip
    wider.save_pretrained(tmp_path / "wide")
    seen = []
    with pytest.raises(InvalidParams, match="cross_attention_dim 24 instead of 16") as caught:
        engine.run(
            engine.find("medm"), {**TEXT, "control_net": str(tmp_path / "wide")}, {"video": clip_file}, tiny.make(),
            progress=seen.append,
        )  # fmt: skip
    assert caught.value.details["errors"][0]["pointer"] == "#/params/control_net" and not seen


def test_what_is_no_safe_controlnet_is_refused(tmp_path, folder):
    backbone = tiny.make()
    pickled, wrong = tmp_path / "pickled", tmp_path / "unet"
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    (pickled / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    backbone.unet.save_pretrained(wrong)
    short = tmp_path / "short"
    short.mkdir()
    (short / "config.json").write_text((folder / "config.json").read_text())
    save_file({"conv_in.weight": torch.zeros(8, 4, 3, 3)}, short / "diffusion_pytorch_model.safetensors")
    for reference, words in ((pickled, "pickled"), (wrong, "not a ControlNetModel"), (short, "missing keys")):
        with pytest.raises(WeightsUnavailable, match=words) as caught:
            companions.load(backbone, str(reference), companions.CONTROL_NETS)
        assert caught.value.code == "model.integrity" and caught.value.hint
    with pytest.raises(WeightsUnavailable, match="no folder here"):
        companions.load(backbone, "/nowhere/at/all", companions.CONTROL_NETS)
    with pytest.raises(WeightsUnavailable, match="needs an object store"):
        companions.load(backbone, "s3://bucket/net", companions.CONTROL_NETS)
    backbone.fetch = lambda reference: folder
    held = companions.load(backbone, "s3://bucket/net", companions.CONTROL_NETS)
    assert set(held.files) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert companions.load(backbone, "s3://bucket/net", companions.CONTROL_NETS) is held


def test_published_controlnets_fit_published_checkpoints():
    """On the meta device: 361 M parameters beside SD 1.5, refused beside SD 2.1."""
    with torch.device("meta"):
        network = ControlNetModel(cross_attention_dim=768)
        vae = SimpleNamespace(config={"latent_channels": 4, "block_out_channels": [1, 1, 1, 1]})
    assert sum(weight.numel() for weight in network.parameters()) == 361_279_120
    found = companions.Companion("a/net", network, None, "", "", {})
    blocks = {"block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
    for width, fits in ((768, True), (1024, False)):
        unet = SimpleNamespace(config={**blocks, "cross_attention_dim": width, "in_channels": 4})
        backbone = SimpleNamespace(unet=unet, vae=vae, vae_factor=8, checkpoint="published")
        if fits:
            controlnet.check(backbone, found)
            continue
        with pytest.raises(InvalidParams, match="768 instead of 1024"):
            controlnet.check(backbone, found)


def test_loading_gives_the_backbone_what_fetches(folder, tmp_path):
    assert sd.load("miniature", fetch=lambda reference: folder).fetch("s3://any") == folder
