"""Prompt-to-Prompt: alignment, schedules, map edits and local blend against numbers of the published code."""

import pytest

from models.controls import blend, refine, replace, reweight, words
from models.controls.cross import CrossEdit
from models.controls.record import Layers
from tests.models.recorded import close, prompt, windows
from tests.models.recorded import load as recorded_case


def load(case):
    return recorded_case("prompt_to_prompt", case)


@pytest.mark.parametrize("index", range(4))
def test_replace_mapper(index):
    described, tensors = load("mapper_replace")
    pair = described["pairs"][index]
    source, target = prompt(pair["source"]), prompt(pair["target"])
    assert [list(span) for span in source.spans] == pair["word_token_positions_source"]
    assert [list(span) for span in target.spans] == pair["word_token_positions_target"]
    close(replace.mapper(source, target, shift_tail=False), tensors[f"pair{index}.mapper"], 0)


@pytest.mark.parametrize("index", range(4))
def test_refine_mapper(index):
    described, tensors = load("mapper_refine")
    pair = described["pairs"][index]
    mapper, shared = refine.mapper(prompt(pair["source"]), prompt(pair["target"]))
    close(mapper, tensors[f"pair{index}.mapper"], 0)
    close(shared, tensors[f"pair{index}.alphas"], 0)


@pytest.mark.parametrize("index", range(3))
def test_equalizer(index):
    described, tensors = load("equalizer")
    case = described["cases"][index]
    weights = dict(zip(case["words"], case["values"], strict=True))
    close(reweight.equalizer(prompt(case["target"]), weights), tensors[f"eq{index}.equalizer_zip"], 0)


@pytest.mark.parametrize("index", range(3))
def test_time_words_schedule(index):
    described, tensors = load("time_words_alpha")
    case = described["cases"][index]
    alpha = scheduled(case["num_steps"], case["cross_replace_steps"], prompt(case["target"]))
    close(alpha, tensors[f"case{index}.alpha"], 0)


def scheduled(num_steps, fractions, target):
    return words.cross_schedule(num_steps, windows(fractions)[0], target, windows(fractions)[1])


@pytest.mark.parametrize("kind", ["replace", "refine", "reweight_replace", "reweight_refine"])
def test_map_control(kind):
    described, tensors = load(f"attention_{kind}")
    given = described["parameters"]
    source, target = prompt(described["source"]), prompt(described["target"])
    alpha = scheduled(given["num_steps"], given["cross_replace_steps"], target)
    close(alpha, tensors["cross_replace_alpha"], 0)
    if kind.endswith("replace"):
        mapper, shared = replace.mapper(source, target, shift_tail=False), None
    else:
        mapper, shared = refine.mapper(source, target)
    factors = None
    if given["equalizer"]:
        factors = reweight.equalizer(target, dict(zip(*given["equalizer"], strict=True)))
    edit = CrossEdit(mapper, alpha, shared, factors)
    _, _, cross_source, cross_target = tensors["cross_in"].chunk(4)
    _, _, self_source, self_target = tensors["self_in"].chunk(4)
    fractions = given["self_replace_steps"]
    start, end = words.window(tuple(fractions) if isinstance(fractions, list) else fractions, given["num_steps"])
    accumulated = 0
    for step in range(given["num_steps"]):
        edited = edit(cross_source, cross_target, step)
        close(edited, tensors["cross_out"][step], described["tolerance"])
        close(self_source if start <= step < end else self_target, tensors["self_out"][step], 0)
        accumulated = accumulated + edited
    close(accumulated, tensors["accumulated_cross"].chunk(2)[1], 1e-5)


@pytest.mark.parametrize("variant", ["stable", "null_substruct"])
def test_local_blend(variant):
    described, tensors = load("local_blend")
    given = described["parameters"]
    heads, size = given["heads"], tensors["x"].shape[-2:]
    maps = tensors["maps"].unflatten(1, (2, heads))  # layer branch head query token

    def united(word_mask, threshold, pool):
        seen = blend.attended(maps, word_mask[None, :, None, None]).mean(dim=(0, 2))
        return blend.region(seen.unflatten(1, (16, 16)), size, threshold, pool=pool).any(dim=0)

    mask = united(tensors["word_mask"], given["threshold"][0], True)
    if variant == "null_substruct":
        mask &= ~united(tensors["substruct_mask"], given["threshold"][1], False)
    close(mask.float(), tensors[f"mask_{variant}"], 0)
    source, target = tensors["x"][:, :, None].chunk(2)
    out = blend.keep_outside(source, target, mask[None])
    close(out[:, :, 0], tensors[f"out_{variant}"][1:], described["tolerance"])


@pytest.mark.parametrize(("variant", "side"), [("stable", 16), ("null_text", 32)])
def test_only_small_self_attention_maps_are_replaced(variant, side):
    _, tensors = load("self_size_rule")
    layers = Layers(18, 18, max_queries=side * side)
    *_, source, own = tensors["self_in"]
    followed = source if layers.change(len(own)) else own
    close(followed, tensors[f"self_out_{variant}"][-1], 0)
