"""One suite for every file in models/methods: what engine, cache, form and API rely on. There is no skip list."""

import json
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
import torch

from models import catalogue, engine, keys, video
from models.backbones import tiny, unet3d
from models.context import MemoryCache, Preview
from models.digest import digest_file
from models.errors import Cancelled, InvalidParams
from models.method import Method, absent
from models.params import STAGES, stage_of
from models.types import File

METHODS = engine.method_ids()
FRAMES, SIZE, FPS = 4, 64, 8
PROMPTS = {"prompt": "a red bear on the beach", "source_prompt": "a blue car on the road"}


TINY = {"sd": tiny.make, "grounded": tiny.make_grounded, "t2v": unet3d.make_tiny}
"""A small member of each family of backbones."""


@pytest.fixture(scope="session")
def backbones():
    """One backbone a family, made when a method of the family comes up."""
    return cache(lambda family: TINY[family]())


@pytest.fixture
def backbone(backbones, method_id):
    return backbones(engine.find(method_id).backbone.family)


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """One small file of each kind a method may ask for."""
    folder = tmp_path_factory.mktemp("media")
    ramp = torch.linspace(0, 1, SIZE)
    frames = torch.stack(
        [
            torch.stack(
                [ramp.roll(4 * i).expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.full((SIZE, SIZE), 0.3)]
            )
            for i in range(FRAMES)
        ]
    )
    video.write(folder / "video.mp4", frames, FPS)
    video.write(folder / "frames", frames, FPS)
    picture = sorted((folder / "frames").iterdir())[0]
    paths = {"video": folder / "video.mp4", "image": picture}
    return {kind: File(path, digest_file(path), path.name) for kind, path in paths.items()}


def small(kind: type[Method]) -> dict:
    """The defaults, with as few steps as possible, and an example for every required field."""
    values = {}
    for name, field in kind.Params.model_json_schema()["properties"].items():
        if name in PROMPTS:
            values[name] = PROMPTS[name]
        elif "default" not in field:
            values[name] = field["examples"][0]
        elif name.endswith("_steps") and isinstance(field["default"], int):
            values[name] = min(field["default"], 3)
    return values


def files(kind: type[Method], media: dict) -> dict:
    schema = kind.Inputs.model_json_schema()
    given = {}
    for name in schema.get("required", []):
        field = schema["properties"][name]
        single = media[field.get("x-media") or field["items"]["x-media"]]
        given[name] = (single,) if field.get("type") == "array" else single
    return given


def edit(method_id, backbone, media, cache=None, preview=None, **changes):
    kind = engine.find(method_id)
    values = {**small(kind), **changes}
    return engine.run(kind, values, files(kind, media), backbone, cache=cache, preview=preview)


def fingerprint(backbone) -> dict:
    """Weights, attention processors and hooks of a backbone: what must be as it was."""
    state = {}
    for role in ("unet", "vae", "text_encoder"):
        network = getattr(backbone, role)
        for name, module in network.named_modules():
            hooks = (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                "forward" in vars(module),
                module.training,
            )
            state[role, name] = (type(module), hooks, type(getattr(module, "processor", None)))
        for name, tensor in network.named_parameters():
            state[role, name, "parameter"] = (
                tensor.data_ptr(),
                tensor._version,
                tensor.requires_grad,
                tensor.grad is None,
            )
    return state


@pytest.fixture(scope="session")
def cold(backbones, media):
    """One cold run per method, shared by the tests that only look at it."""
    done = {}

    def run(method_id):
        if method_id not in done:
            kept, backbone = MemoryCache(), backbones(engine.find(method_id).backbone.family)
            before = fingerprint(backbone)
            result = edit(method_id, backbone, media, kept)
            done[method_id] = (result, kept, before, fingerprint(backbone))
        return done[method_id]

    return run


CARRIED = {
    "dreamix": {"eta": 1.0, "guidance_scale": 1.0},
    "ei2": {"eta": 1.0},
    "fatezero": {"num_tuning_steps": 2, "num_inference_steps": 5, "blend_latents": True}
    | {"blend_source_words": "car", "blend_target_words": "bear"},
    "frame_by_frame": {"eta": 1.0},
    "gen_l_video": {"num_tuning_steps": 3, "window": 2, "window_stride": 1},
    "ground_a_video": {"null_text_inner_steps": 2, "grounding_until": 0.5},
    "infusion": {"num_inference_steps": 5, "num_feature_steps": 1, "num_attention_steps": 1},
    "tune_a_video": {"eta": 1.0, "use_inverted_latents": False},
    "video_p2p": {"num_inference_steps": 5, "blend_source_words": "car", "blend_target_words": "bear"},
}
"""Options with which a step leaves more to the next than latents: noise, regions, null texts, moments."""


class Handover:
    """Keeps states in memory; wants to stop, or the process dies, once a loop has reached a step."""

    keeps_results = False

    def __init__(self):
        self.kept, self.at, self.reached, self.dies = {}, None, False, False

    def arm(self, at, dies=False):
        self.at, self.reached, self.dies = at, False, dies

    def tick(self, progress):
        if self.at == (progress.stage, progress.label, progress.step) and progress.steps:
            self.reached = True
            if self.dies:
                raise RuntimeError("killed")

    def wanted(self):
        return self.reached

    def due(self, seconds):
        return self.dies

    def get(self, key):
        found = self.kept.get(key)
        return None if found is None else ({name: t.clone() for name, t in found[0].items()}, dict(found[1]))

    def put(self, key, tensors, meta):
        self.kept[key] = ({name: t.contiguous().clone() for name, t in tensors.items()}, dict(meta))

    def drop(self, key):
        self.kept.pop(key, None)


N = 3
"""Denoising, inversion and tuning steps of `small`."""
NULL_TEXT = 1 + 1
"""Evaluations of a step of null-text optimisation beside those of its updates: the source prompt's, the result's."""
WORDS = int(0.8 * (N + 1))
"""Steps in which words attend to where the source's do: the schedule of Prompt-to-Prompt has a row more than steps."""
FRAME_EVALS = {
    "frame_by_frame": N + 2 * N,
    "tune_a_video": N + N + 2 * N,
    "ei2": N + N + 2 * N,
    "video_p2p": N + N + N * (NULL_TEXT + 3) + 2 * N + 2 * int(0.5 * N),  # source beside while temporal maps are its
    "tokenflow": N + 3 * N * Fraction(FRAMES + 1, FRAMES),  # one key frame beside the four frames
    "fatezero": N + 2 * N + WORDS,  # maps are computed again, not stored, while they are the source's
    "medm": 2 * round(0.8 * N),
    "gen_l_video": N + 2 * N,
    "flatten": N + 2 * N + int(0.8 * N),  # features are computed again, not stored; the published inversion takes 2 N
    "infusion": N + 3 * N,
    "vid2vid_zero": N + N * (NULL_TEXT + 1) + 2 * N + 2 * WORDS,
    "ground_a_video": N + 2 * N,
    "motion_director": N + N + 2 * N,  # the steps drawn here leave the looks out; others: test_motion_director
    "dreamix": 2 * N + 2 * round(0.75 * N),  # the clip as a clip and as a heap of frames
}
"""Evaluations of one frame, fit, inversion and edit together: the formulas of the papers' loops."""


@pytest.mark.parametrize("method_id", METHODS)
def test_frame_evals_are_those_of_the_formula(method_id, cold):
    result, *_ = cold(method_id)
    assert sum(stage.frame_evals for stage in result.stages) == FRAMES * FRAME_EVALS[method_id]


@pytest.mark.parametrize("method_id", METHODS)
class TestEveryMethod:
    def test_defaults_run_and_shape_is_kept(self, method_id, cold):
        result, *_ = cold(method_id)
        assert result.video.frames.shape == (FRAMES, 3, SIZE, SIZE)
        assert (result.video.width, result.video.height, result.video.fps) == (SIZE, SIZE, FPS)
        assert result.video.frames.min() >= 0 and result.video.frames.max() <= 1

    def test_backbone_is_given_back(self, method_id, cold):
        _, _, before, after = cold(method_id)
        assert before == after

    def test_warm_equals_cold_and_saves_work(self, method_id, backbone, media, cold):
        result, cache, *_ = cold(method_id)
        shown = []
        preview = Preview(1, lambda frames, step, steps: shown.append((frames, step, steps)))
        warm = edit(method_id, backbone, media, cache, preview)
        assert torch.equal(warm.video.frames, result.video.frames)
        assert shown and all(step < steps for _, step, steps in shown)
        assert all(0 < len(frames) <= FRAMES and frames.shape[1:] == (3, SIZE, SIZE) for frames, *_ in shown)
        states = {stage.name: stage.state for stage in warm.stages}
        assert (
            states["prepare"] == "hit"
            and states["fit"] in {"hit", "skipped"}
            and states["invert"] in {"hit", "skipped"}
        )
        assert sum(s.frame_evals + s.saved_frame_evals for s in warm.stages) == sum(
            s.frame_evals for s in result.stages
        )

    def test_target_prompt_keeps_fit_and_inversion(self, method_id, backbone, media, cold):
        result, cache, *_ = cold(method_id)
        other = edit(method_id, backbone, media, cache, prompt="a yellow robot in the snow")
        assert all(stage.state != "done" for stage in other.stages if stage.name in {"prepare", "fit", "invert"})
        assert not torch.equal(other.video.frames, result.video.frames)

    def test_cached_artifacts_are_not_written_to(self, method_id, backbone, media, cold):
        _, cache, *_ = cold(method_id)
        versions = {
            key: {n: (t._version, t.sum().item()) for n, t in tensors.items()}
            for key, (tensors, _) in cache.stored.items()
        }
        edit(method_id, backbone, media, cache, seed=5)
        after = {
            key: {n: (t._version, t.sum().item()) for n, t in tensors.items()}
            for key, (tensors, _) in cache.stored.items()
        }
        assert {key: after[key] for key in versions} == versions

    def test_stops_when_asked_and_gives_the_backbone_back(self, method_id, backbone, media):
        kind, before = engine.find(method_id), fingerprint(backbone)
        last = [stage for stage in STAGES if not absent(kind, stage)]
        for target in last:
            reached = []
            with pytest.raises(Cancelled):
                engine.run(
                    kind,
                    small(kind),
                    files(kind, media),
                    backbone,
                    progress=lambda p, target=target, reached=reached: (
                        reached.append(p.stage) if p.stage == target else None
                    ),
                    cancelled=lambda reached=reached: bool(reached),
                )
            assert fingerprint(backbone) == before

    def test_goes_on_at_the_step_it_was_stopped_at(self, method_id, backbone, media):
        """In every loop it is handed over once, in the last one it is also killed: same numbers, no step twice."""
        kind, seen = engine.find(method_id), []
        params, kept = {**small(kind), **CARRIED.get(method_id, {})}, MemoryCache()
        before = backbone.frame_evals
        whole = engine.run(kind, params, files(kind, media), backbone, cache=kept, progress=seen.append)
        needed = backbone.frame_evals - before
        loops = {(p.stage, p.label): p.steps for p in seen if p.steps}
        assert ("edit", "") in loops

        cache, handover, before = MemoryCache(), Handover(), backbone.frame_evals
        resume = partial(
            engine.run, kind, params, files(kind, media), backbone,
            cache=cache, handover=handover, progress=handover.tick,
        )  # fmt: skip
        for (stage, label), steps in loops.items():
            handover.arm((stage, label, Random(f"{method_id}/{stage}/{label}").randrange(steps - 1)))
            with pytest.raises(Cancelled, match="handed over"):
                resume()
        handover.arm(("edit", "", loops["edit", ""] - 1), dies=True)
        with pytest.raises(RuntimeError, match="killed"):
            resume()
        handover.arm(None)
        result = resume()

        assert torch.equal(result.video.frames, whole.video.frames)
        assert backbone.frame_evals - before == needed
        assert sum(stage.resumed_frame_evals for stage in result.stages) > 0
        assert list(cache.stored) == list(kept.stored)
        for place, (tensors, meta) in kept.stored.items():
            again, described = cache.stored[place]
            assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items()), place
            if place[0] in {"fit", "invert"}:
                costs = [json.loads(found["cost"])["frame_evals"] for found in (meta, described)]
                assert costs[0] == costs[1], place
        edited = next(stage.key for stage in result.stages if stage.name == "edit")
        assert list(handover.kept) == [f"{edited}-0"]  # until the result is safe, which only the caller knows

    def test_backbone_is_given_back_after_a_failure(self, method_id, backbone, media):
        kind, before = engine.find(method_id), fingerprint(backbone)

        def fail(progress):
            if progress.stage == "edit" and progress.step == 1:
                raise RuntimeError("broken on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            engine.run(kind, small(kind), files(kind, media), backbone, progress=fail)
        assert fingerprint(backbone) == before

    def test_stage_tags_are_what_the_keys_hold(self, method_id, backbone, media):
        kind = engine.find(method_id)
        base = stage_keys(kind, small(kind), media, backbone)
        for name, field in kind.Params.model_json_schema()["properties"].items():
            changed = stage_keys(kind, {**small(kind), name: other_value(name, field, small(kind))}, media, backbone)
            if changed is None:
                continue
            first = STAGES.index(stage_of(kind.Params, name))
            for position, stage in enumerate(STAGES):
                assert (changed[stage] == base[stage]) == (position < first), f"{name} and the key of {stage}"

    def test_every_parameter_and_input_is_described(self, method_id):
        kind = engine.find(method_id)
        for model in (kind.Params, kind.Inputs):
            for name, field in model.model_fields.items():
                assert field.description and len(field.description) > 8, name

    def test_wrong_parameters_are_refused_by_name(self, method_id, media):
        kind = engine.find(method_id)
        for wrong in ({"no_such_parameter": 1}, {"seed": -1}, {"prompt": None}):
            with pytest.raises(InvalidParams) as caught:
                engine.validated(kind, {**small(kind), **wrong}, files(kind, media))
            assert next(iter(wrong)) in caught.value.details["errors"][0]["pointer"]

    def test_catalogue_agrees_with_pydantic(self, method_id):
        committed = json.loads(catalogue.PATH.read_text(encoding="utf-8"))["methods"][method_id]
        kind = engine.find(method_id)
        schema = kind.Params.model_json_schema()
        assert committed["params"]["properties"] == schema["properties"]
        assert committed["inputs"]["properties"] == kind.Inputs.model_json_schema()["properties"]

    def test_docstring_names_the_paper(self, method_id):
        kind = engine.find(method_id)
        text = Path(catalogue.__file__).parent.joinpath("methods", f"{method_id}.py").read_text(encoding="utf-8")
        head = text.split('"""')[1]
        assert kind.paper.arxiv in head and "How it works" in head and "Differs" in head

    def test_same_seed_same_video(self, method_id, backbone, media, cold):
        result, *_ = cold(method_id)
        again = edit(method_id, backbone, media)
        assert torch.equal(again.video.frames, result.video.frames)


def stage_keys(kind, params, media, backbone):
    """The Merkle keys of all stages, or None when a cross-field rule refuses the change."""
    try:
        parsed, given = engine.validated(kind, params, files(kind, media))
    except InvalidParams:
        return None
    key, found = keys.root(backbone, ""), {}
    for stage in STAGES:
        key = found[stage] = keys.of_stage(kind, parsed, given, stage, key)
    return found


def other_value(name, field, values):
    """Another allowed value of a field, from its schema."""
    options = [field, *field.get("anyOf", []), *field.get("allOf", [])]
    merged = {key: value for option in reversed(options) for key, value in option.items()}
    now = values.get(name, field.get("default"))
    if "enum" in merged:
        return next(choice for choice in merged["enum"] if choice != now)
    kind = merged.get("type")
    if kind == "boolean":
        return not now
    if kind == "string":
        return f"{now or ''} dog" if "x-widget" in field or "pattern" not in merged else merged["examples"][-1]
    if kind in {"integer", "number"}:
        return other_number(merged, now, whole=kind == "integer")
    if kind == "array" and not now:
        return merged["examples"][-1]
    if kind == "array":
        return [*now[:-1]] if len(now) > merged.get("minItems", 0) else [*now, *now]
    return merged["examples"][-1]


def other_number(bounds, now, *, whole):
    low = bounds.get("minimum", bounds.get("exclusiveMinimum", 0))
    high = bounds.get("maximum", bounds.get("exclusiveMaximum", low + 100))
    step = bounds.get("multipleOf", 1)
    for fraction in (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(0)):
        candidate = float(low + fraction * Fraction(high - low))
        candidate = int(candidate // step * step) or step if whole else candidate
        if candidate != now and low <= candidate <= high:
            return candidate
    raise AssertionError(f"no other value than {now} in {bounds}")
