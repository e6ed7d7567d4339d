"""Attention control: words to tokens for any tokenizer, alignments, regions, and layers that are given back."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention.installed import attend
from models.backbones import tiny
from models.controls import blend, refine, replace, words
from models.controls.attend import apply, controlled, maps_of
from models.controls.cross import CrossEdit
from models.controls.follow import Follower
from models.controls.record import Layers, Recorder, Watch, watch
from models.errors import InvalidParams
from models.methods.fatezero import CONTROLLED
from models.miniature.text import build_tokenizer
from models.temporal import inflation
from tests.models.sd_shapes import UNET_1

BYTE_PAIRS = tiny.make_tokenizer()
WHOLE_WORDS = build_tokenizer(["red", "bear", "on", "the", "beach", "blue", "car"])


@pytest.mark.parametrize("tokenizer", [BYTE_PAIRS, WHOLE_WORDS], ids=["byte pairs", "whole words"])
@pytest.mark.parametrize("text", ["a red bear on the beach", "a Reddish, bear-like hippopotamus!", "red", ""])
def test_spans_are_the_tokens_of_each_word(tokenizer, text):
    tokens = words.tokenise(tokenizer, text)
    assert [p for span in tokens.spans for p in span] == list(range(1, len(tokens.ids) - 1))
    for word, span in zip(tokens.words, tokens.spans, strict=True):
        assert [tokens.ids[p] for p in span] == tokenizer(word, add_special_tokens=False).input_ids
    assert tokens.length == tokenizer.model_max_length


def test_words_beyond_what_is_read_have_no_tokens():
    tokens = words.tokenise(WHOLE_WORDS, "red " * 40 + "bear")
    assert len(tokens.ids) == WHOLE_WORDS.model_max_length
    assert tokens.positions("red") == list(range(1, len(tokens.ids) - 1))
    with pytest.raises(InvalidParams, match="bear"):
        tokens.positions("bear")


def test_phrases_are_found_without_case_and_punctuation():
    tokens = words.tokenise(BYTE_PAIRS, "A red bear, on the red beach")
    assert tokens.positions("Bear") == [3, 4]  # with its comma, a token of its own
    assert tokens.positions("red") == [2, 7]
    assert tokens.positions("red beach") == [7, 8]
    with pytest.raises(InvalidParams, match="wolf"):
        tokens.positions("wolf")


def test_tail_of_a_swap_is_shifted():
    source, target = (words.tokenise(BYTE_PAIRS, text) for text in ("a red wolverine on sand", "a red bear on sand"))
    matrix = replace.mapper(source, target)
    maps = torch.rand(5, source.length)
    maps /= maps.sum(dim=1, keepdim=True)
    swapped = maps @ matrix
    for word in ("a", "on", "sand"):
        assert torch.equal(swapped[:, target.positions(word)], maps[:, source.positions(word)])
    lost = maps[:, source.positions("wolverine")].sum(dim=1)
    torch.testing.assert_close(swapped[:, target.positions("bear")].sum(dim=1), lost)
    legacy = maps @ replace.mapper(source, target, shift_tail=False)
    assert torch.equal(legacy[:, target.positions("on")], maps[:, target.positions("on")])


def test_a_swap_needs_as_many_words():
    source, target = (words.tokenise(BYTE_PAIRS, text) for text in ("a red car", "a car"))
    with pytest.raises(InvalidParams, match="3 and 2"):
        replace.mapper(source, target)


@given(st.lists(st.integers(0, 4), max_size=9), st.lists(st.integers(0, 4), max_size=9))
@settings(max_examples=200, deadline=None)
def test_alignment_is_monotonous_and_as_long_as_can_be(source, target):
    aligned = refine.align(source, target)
    pairs = [(i, j) for j, i in enumerate(aligned) if i != refine.NEW]
    assert pairs == sorted(pairs) and len({i for i, _ in pairs}) == len(pairs)
    assert all(source[i] == target[j] for i, j in pairs)
    longest = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            longest[i][j] = max(longest[i - 1][j], longest[i][j - 1], longest[i - 1][j - 1] + (a == b))
    assert len(pairs) == longest[-1][-1]


@pytest.mark.parametrize(
    ("latents", "ratio", "grid"),
    [((64, 64), 4, (16, 16)), ((56, 72), 4, (14, 18)), ((96, 96), 4, (24, 24)), ((32, 32), 2, (16, 16)),
     ((16, 16), 1, (16, 16)), ((8, 8), 1, (8, 8)), ((64, 36), 4, (16, 9))],
)  # fmt: skip
def test_layers_that_show_words_depend_on_the_size_of_the_latents(latents, ratio, grid):
    assert blend.ratio(*latents) == ratio
    layers = Layers(*latents)
    assert layers.show_words(grid[0] * grid[1])
    assert layers.grid(grid[0] * grid[1]) == grid
    assert not layers.show_words(grid[0] * grid[1] * 4) and not layers.show_words(grid[0] * grid[1] // 4)


def test_region_is_where_words_are_attended_to():
    tokens = words.tokenise(WHOLE_WORDS, "red bear on the beach")
    seen = watch(WHOLE_WORDS, Layers(16, 16), "red bear on the beach", "bear, beach")
    maps = torch.full((2, 3, 256, tokens.length), 0.01)
    maps[0, :, 5 * 16 + 4, tokens.positions("bear")[0]] = 1.0
    maps[1, :, 9 * 16 + 12, tokens.positions("red")[0]] = 1.0
    maps[1, :, 2 * 16 + 2, tokens.positions("beach")[0]] = 0.5
    seen.see(maps)
    inside = blend.region(seen.relevance(), (16, 16), 0.3)
    assert inside[0].nonzero().tolist() == [[y, x] for y in (4, 5, 6) for x in (3, 4, 5)]
    assert inside[1].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert watch(WHOLE_WORDS, Layers(16, 16), "red bear", " , ") is None


def test_layers_are_given_back_also_after_a_failure():
    unet = tiny.make().unet
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError, match="broken"), controlled(unet, Recorder(Layers(8, 8)), CONTROLLED):
        assert all(unet.attn_processors[name] is not before[name] for name in before)
        raise RuntimeError("broken")
    assert all(unet.attn_processors[name] is before[name] for name in before)


@torch.no_grad()
def test_a_recorded_source_is_as_good_as_one_in_the_batch():
    backbone, frames = tiny.make(), 3
    generator = torch.Generator().manual_seed(2)
    source, edit = torch.randn(2, 1, 4, frames, 8, 8, generator=generator)
    prompts = ("a blue car on the road", "a red bear on the road")
    texts = backbone.encode_text(prompts)
    tokens = [words.tokenise(backbone.tokenizer, prompt) for prompt in prompts]
    cross = CrossEdit(replace.mapper(*tokens), words.schedule(4, 0.8, tokens[1].length))
    layers = Layers(8, 8)
    network = inflation.inflate(backbone.unet, frames, temporal=False)
    recorder = Recorder(layers)
    with controlled(network, recorder, CONTROLLED):
        backbone.predict(source, 500, texts[:1], unet=network)
    results = []
    for follower, latents, text in (
        (Follower(layers, cross, (0, 2), branches=1, kept=recorder.kept), edit, texts[1:]),
        (Follower(layers, cross, (0, 2), branches=2, source=0), torch.cat([source, edit]), texts),
    ):
        with controlled(network, follower, CONTROLLED):
            results.append(backbone.predict(latents, 500, text, unet=network)[-1])
    own = backbone.predict(edit, 500, texts[1:], unet=network)[0]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    assert (results[0] - own).abs().max() > 1e-3


def test_explicit_maps_attend_as_the_fused_kernel():
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, n, 12, generator=generator) for n in (5, 7, 7))
    torch.testing.assert_close(apply(maps_of(query, key, 3), value), attend(query, key, value, 3))


def stored_bytes(config, side, frames, steps):
    """What FateZero holds between two evaluations: the source's latents, and queries and keys of one step (float32).

    On the meta device: shapes are those of the real network, nothing is computed.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval()
        network = inflation.inflate(unet, frames, temporal=False)
        seen = Watch(Layers(side, side), torch.ones(77))
        recorder = Recorder(Layers(side, side), seen)
        with torch.no_grad(), controlled(network, recorder, CONTROLLED):
            text = torch.zeros(frames, 77, config["cross_attention_dim"])
            network(torch.zeros(frames, 4, side, side), 1, encoder_hidden_states=text)
    trajectory = (steps + 1) * 4 * frames * side * side * 4
    kept = sum(x.numel() * x.element_size() for pair in recorder.kept.values() for x in pair)
    return trajectory, kept, seen.total.numel() * 4


def test_fatezero_keeps_little():
    trajectory, kept, region = stored_bytes(UNET_1, 64, 8, 50)
    assert trajectory == 26_738_688
    assert trajectory + kept + region < 1e9
    small = UNET_1 | {"block_out_channels": [64, 128, 192, 192], "cross_attention_dim": 160, "sample_size": 16}
    assert sum(stored_bytes(small, 16, 8, 50)) < 200e6
