"""FLATTEN: trajectories, attention along them, inversion and the whole loop, against the published code's numbers."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional

from models.attention.installed import attend
from models.attention.trajectory import Table, TrajectoryAttention, written_out
from models.backbones import tiny
from models.backbones.backbone import Backbone
from models.conditions import optical_flow
from models.context import Context
from models.features import taps
from models.inversion import ddim as inversion
from models.methods import flatten
from models.params import guarded
from models.propagation import trajectories
from models.schedules.ddim import Schedule
from models.types import Clip
from tests.models import recorded
from tests.models.recorded import close

SCHEDULER = DDIMScheduler.load_config(recorded.GOLDEN / "tiny_sd/scheduler")


def load(case):
    return recorded.load("flatten", case)


def cases(prefix):
    return sorted(path.stem for path in (recorded.GOLDEN / "flatten").glob(f"{prefix}*.json"))


def flat(points, side):
    """Recorded (t, row, col) as raster indices of the clip."""
    points = points.long()
    return (points[..., 0] * side + points[..., 1]) * side + points[..., 2]


def same_entries(table, points, mask, side):
    expected = torch.where(mask, flat(points, side), -1)
    found = torch.where(table.mask, table.index, -1)
    found = functional.pad(found, (0, expected.shape[1] - found.shape[1]), value=-1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", cases("trajectories"))
@pytest.mark.parametrize("side", [64, 32, 16, 8])
def test_trajectories(case, side):
    described, tensors = load(case)
    flow = tensors["in.flow_px_512"].repeat_interleave(8, -1).repeat_interleave(8, -2)
    kept = tensors[f"out.kept_link_{side}"].long()
    survives = (kept[..., 0] >= 0).flatten(1)
    moves = trajectories.displacements(flow, (side, side))
    linked = trajectories.links(moves, survives.float())
    expected = torch.where(survives, (kept[..., 0] * side + kept[..., 1]).flatten(1), -1)
    assert torch.equal(linked, expected)
    lengths = (trajectories.chain(linked) >= 0).sum(dim=1)
    assert lengths.max() == described["parameters"]["longest_trajectory"][str(side)]
    table = trajectories.table(linked, (side, side))
    assert torch.equal(table.mask.sum(dim=1), tensors[f"out.traj_len_{side}"].flatten().long())
    if f"out.tail_{side}" in tensors:
        tail = Table(table.index[:, 1:], table.mask[:, 1:])
        same_entries(tail, tensors[f"out.tail_{side}"], tensors[f"out.tail_mask_{side}"], side)
    reach = described["parameters"]["window_half_size"][str(side)]
    if f"out.attn_index_{side}" in tensors:
        legacy = trajectories.table(linked, (side, side), legacy_window=reach)
        same_entries(legacy, tensors[f"out.attn_index_{side}"], tensors[f"out.attn_mask_{side}"], side)
    if f"out.table_{side}" in tensors:
        near, seen = trajectories.window((side, side), described["parameters"]["frames"], reach)
        size = near.shape[1] + 1
        points, mask = tensors[f"out.table_{side}"][:, 1:size], tensors[f"out.table_mask_{side}"][:, 1:size]
        same_entries(Table(near, seen), points, mask, side)


def test_every_token_lies_in_one_trajectory():
    flow = torch.randn(4, 2, 24, 40, generator=torch.Generator().manual_seed(1)) * 9
    moves = trajectories.displacements(flow, (12, 20))
    linked = trajectories.links(moves, trajectories.random_priority(4, 240, seed=3))
    paths = trajectories.chain(linked)
    for frame in range(5):
        present = paths[:, frame]
        assert torch.equal(present[present >= 0].sort().values, torch.arange(240))
    other = trajectories.links(moves, trajectories.random_priority(4, 240, seed=4))
    assert not torch.equal(linked, other)
    assert torch.equal(linked, trajectories.links(moves, trajectories.random_priority(4, 240, seed=3)))


def flow_attention(case, dtype, dense=attend):
    described, tensors = load(case)
    given = described["parameters"]
    tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    coarse = tensors["in.coarse"].repeat_interleave(4, 1).repeat_interleave(4, 2)
    x = coarse + tensors["in.row_term"][:, :, None] + tensors["in.col_term"][:, None]
    attn = nn.Module()
    attn.heads = given["heads"]
    for name in ("to_q", "to_k", "to_v"):
        setattr(attn, name, lambda x, weight=tensors[f"in.{name}.weight"]: x @ weight.T)
    attn.to_out = [lambda x: x @ tensors["in.to_out.weight"].T + tensors["in.to_out.bias"], nn.Identity()]
    table = Table(flat(tensors["in.attn_index_64"], 64), tensors["in.attn_mask_64"])
    processor = TrajectoryAttention(given["frames"], {4096: table}, old_qk=bool(given["old_qk"]), dense=dense)
    return processor(attn, x.flatten(1, 2)), tensors


@pytest.mark.parametrize("case", cases("flow_attention"))
@torch.no_grad()
def test_flow_attention(case):
    out, tensors = flow_attention(case, torch.float32, written_out)
    sample = tensors["in.token_sample"]
    close(out[:, sample], tensors["out.tokens"], 3e-5)
    close(out.mean(dim=1), tensors["out.mean_over_tokens"], 3e-5)
    # The recorded numbers are themselves 7e-5 from exact arithmetic, wider than their tolerance: only code that rounds
    # alike can meet it. The fused kernel rounds otherwise, and as little.
    exact = flow_attention(case, torch.float64)[0]
    fused = flow_attention(case, torch.float32)[0]
    recorded_error = (tensors["out.tokens"] - exact[:, sample]).abs().max()
    assert (fused - exact)[:, sample].abs().max() <= 1.25 * recorded_error
    close(exact[:, sample], tensors["out.tokens"], 1e-4)
    close(fused.mean(dim=1), tensors["out.mean_over_tokens"], 3e-5)


def test_inversion():
    _, tensors = load("inversion_I2_given_noise")
    outputs = iter(tensors["in.noise_pred"])
    schedule = Schedule.from_config(SCHEDULER)
    walked = inversion.walk(lambda latents, t: next(outputs)[None], schedule, tensors["in.z0"], 20, "current_t")
    torch.testing.assert_close(walked.latents[:, 0], tensors["out.levels"], rtol=1e-5, atol=1e-6)


@dataclass(eq=False)
class Texts(Backbone):
    """The recorded network in float64 with recorded text; remembers what it was asked about."""

    texts: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)

    def encode_text(self, prompts):
        return torch.cat([self.texts[text] for text in prompts]).double()

    def predict(self, latents, t, embeds, *, unet=None):
        self.seen.append(latents.detach())
        return super().predict(latents, t, embeds, unet=unet)


@torch.no_grad()
def test_edit_loop():
    described, tensors = load("edit_loop_4f_10s")
    given, frames = described["parameters"], described["parameters"]["frames"]
    unet = UNet2DConditionModel.from_pretrained(recorded.GOLDEN / "tiny_sd/unet", use_safetensors=True)
    texts = {"": tensors["in.text_empty"], "bad": tensors["in.text_negative"], "target": tensors["in.text_target"]}
    backbone = Texts(
        tokenizer=None,
        text_encoder=nn.Identity(),
        vae=nn.Identity(),
        unet=unet,
        scheduler_config=SCHEDULER,
        checkpoint="golden",
        digest="",
        native_size=128,
        device=torch.device("cpu"),
        dtype=torch.float64,
        texts=texts,
    )
    clip = Clip(torch.zeros(frames, 3, 128, 128), tensors["in.z0"].double(), 8.0, 128, 128)
    p = flatten.Flatten.Params(
        prompt="target",
        negative_prompt="bad",
        num_inference_steps=given["sample_steps"],
        num_inversion_steps=given["inverse_steps"],
        num_kept_steps=given["inverse_steps"],
        inversion_convention="current_t",
        trajectory_levels=0,
        guidance_scale=given["guidance_scale"],
        injection_until=given["inject_step"] / given["sample_steps"],
        legacy_start_level=True,
    )
    method = flatten.Flatten()
    trajectory = method.invert(Context(backbone, "invert"), guarded(p, "invert"), clip, None)
    assert backbone.frame_evals == given["inverse_calls"] * frames
    close(trajectory.latents[-1], tensors["out.inverted"], 1e-5)
    close(trajectory.latents[given["inverted_mid_index"] + 1], tensors["out.inverted_mid"], 1e-5)
    check_features(backbone, p, clip, trajectory, tensors, given["feature_timestep"])
    backbone.seen.clear()
    backbone.frame_evals = 0
    latents = method.edit(Context(backbone, "edit"), guarded(p, "edit"), clip, None, trajectory)
    states = [state[-1:] for state in backbone.seen[1:]] + [latents]
    for index in (0, 1, 4, 7, 8, 9):
        close(states[index], tensors[f"out.x_after_step{index}"], 1e-5)
    assert backbone.frame_evals == (3 * given["inject_step"] + 2 * (10 - given["inject_step"])) * frames


def check_features(backbone, p, clip, trajectory, tensors, t):
    """What the source's features are at one timestep, had again from the trajectory."""
    schedule, ctx = Schedule.from_config(SCHEDULER), Context(backbone, "edit")
    network = flatten.inflate(ctx, p, clip)
    layer = "up_blocks.2.attentions.1.transformer_blocks.0.attn1"
    names = {f"{layer}.to_q": "q_up2a1", f"{layer}.to_k": "k_up2a1", "up_blocks.1.resnets.1.conv2": "conv2_up1r1"}
    source = inversion.latents_at(schedule, trajectory, t, inversion.lag(schedule, p))
    with flatten.installed(network, flatten.attention(p, clip, {})), taps.recorded(network, list(names)) as kept:
        flatten.predictor(ctx, network)(source, t, backbone.encode_text([""]))
    for name, recorded_as in names.items():
        expected = tensors[f"out.{recorded_as}"]
        if recorded_as == "conv2_up1r1":
            expected = expected.permute(0, 2, 1, 3, 4).flatten(0, 1)
        close(kept[name], expected[: len(kept[name])], 2e-5)


def test_injected_layers():
    described, _ = load("edit_loop_4f_10s")
    unet = UNet2DConditionModel.from_pretrained(recorded.GOLDEN / "tiny_sd/unet", use_safetensors=True)
    found = flatten.injected_layers(unet)
    wanted = described["parameters"]
    assert [name for name in found if name.endswith("conv2")] == [f"{name}.conv2" for name in wanted["injected_conv"]]
    layers = [name.split(".transformer_blocks")[0] for name in found if name.endswith("to_q")]
    assert layers == wanted["injected_q_k"]


def test_flow_of_a_shift():
    """DIS finds a known shift, and what leaves the picture is lost."""
    texture = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    wide = functional.interpolate(texture, size=(140, 140), mode="bicubic").clamp(0, 1)
    frames = torch.cat([wide[..., 6 : 6 + 128, 3 * i : 3 * i + 128] for i in range(3)])
    clip = Clip(frames, torch.zeros(1, 4, 3, 16, 16), 8.0, 128, 128)
    forward, backward = optical_flow.forward(clip), optical_flow.backward(clip)
    assert forward.shape == (2, 2, 128, 128)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    shift = torch.tensor([-3.0, 0.0]).view(1, 2, 1, 1)
    assert (forward[inner] - shift).abs().mean() < 0.1
    assert (backward[inner] + shift).abs().mean() < 0.1
    lost = optical_flow.occluded(forward, backward)
    assert lost[..., :2].all() and lost[:, 16:-16, 16:-16].float().mean() < 0.01
    half = optical_flow.resized(forward, (64, 32))
    assert torch.allclose(half[:, :, 32, 16].mean(0), torch.tensor([-0.75, 0.0]), atol=0.1)


def test_trajectories_reach_the_edit():
    """On a grid that has a table attention follows flow: the edit differs from one without."""
    backbone = tiny.make()
    frames = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = Clip(frames, backbone.encode_frames(frames), 8.0, 64, 64)
    method, results = flatten.Flatten(), []
    for levels in (0, 1, 2):
        p = flatten.Flatten.Params(
            prompt="a red bear", num_inference_steps=2, num_inversion_steps=2, trajectory_levels=levels
        )
        with torch.no_grad():
            trajectory = method.invert(Context(backbone, "invert"), p, clip, None)
            results.append(method.edit(Context(backbone, "edit"), p, clip, None, trajectory))
    assert all((a - b).abs().max() > 1e-4 for a, b in pairwise(results))
