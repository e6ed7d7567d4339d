"""The suite's bookkeeping: what is compared with what, which bars are missed, and a page that is not stale."""

import json
from pathlib import Path

import pytest

from models import engine
from models.bench import report, settings, suite
from models.bench.cases import EDIT_KINDS, cases
from models.bench.proofs import BOUNDED

DOCS = Path(__file__).resolve().parents[2] / "docs"


def plan(clips=2, methods=("frame_by_frame", "medm")):
    return suite.Plan(methods, clips, 20, 30, Path("none.json"))


def done(plan, errors, success=1.0):
    """Finished edits of the first clips of every kind, with these warp errors by method."""
    return {
        suite._key(plan, "miniature", name, case): {"warp.exact_flow": error, "judge.edit_success": success}
        for name, values in errors.items()
        for kind in EDIT_KINDS
        for case, error in zip(cases(kind, len(values)), values, strict=True)
    }


def test_methods_are_compared_on_the_clips_they_did():
    chosen = plan()
    found = suite.rows(chosen, "miniature", done(chosen, {"frame_by_frame": [0.02, 0.06], "medm": [0.01]}))
    by_method = {name: [row for row in found if row["method"] == name] for name in chosen.methods}
    assert [row["clips"] for row in by_method["medm"]] == [1] * 4
    assert by_method["medm"][0]["warp.to_frame_by_frame"] == pytest.approx(0.5)
    assert by_method["frame_by_frame"][0]["warp.exact_flow"] == pytest.approx(0.04)
    assert not [row for row in found if row["method"] in suite.REFERENCES]


def test_bars_say_what_is_missed():
    chosen = plan(clips=1)
    steady = suite.rows(chosen, "miniature", done(chosen, {"frame_by_frame": [0.02], "medm": [0.014]}))
    assert report.verdict("medm", steady).misses == []
    shaky = suite.rows(chosen, "miniature", done(chosen, {"frame_by_frame": [0.02], "medm": [0.015]}))
    assert report.verdict("medm", shaky).misses == ["warp error 0.75 of frame_by_frame's, bar 0.7"]
    blind = suite.rows(chosen, "miniature", done(chosen, {"frame_by_frame": [0.02], "medm": [0.01]}, success=0.5))
    assert report.verdict("medm", blind).misses == ["edit success of subject 50%, bar 60%"]
    part = [row for row in steady if row["method"] != "medm" or row["edit_kind"] != "style"]
    assert "not yet run: style" in report.bars(part) and "not yet run" not in report.bars(steady)
    assert "met" in report.bars(steady) and "[missed](#medm)" in report.bars(shaky)


def test_only_claimed_kinds_are_held_to_the_bar():
    chosen = plan(clips=1, methods=("frame_by_frame", "motion_director"))
    rows = suite.rows(chosen, "miniature", done(chosen, {"frame_by_frame": [0.02], "motion_director": [0.01]}))
    blind = [row | {"judge.edit_success": 0.0} if row["edit_kind"] == "colour" else row for row in rows]
    assert report.verdict("motion_director", blind).misses == []
    assert "not claimed: colour, style" in report.bars(blind)


def test_another_parameter_is_another_edit():
    case = cases("subject", 1)[0]
    keys = {suite._key(suite.Plan((), 1, 20, fit, Path("x")), "miniature", "tune_a_video", case) for fit in (30, 31)}
    assert len(keys) == 2


def test_settings_reach_the_parameters():
    subject, colour = (cases(kind, 1)[0] for kind in ("subject", "colour"))
    assert suite.params_of("fatezero", subject, plan())["self_replace_until"] == 0.3
    assert "self_replace_until" not in suite.params_of("fatezero", colour, plan())
    infusion = suite.params_of("infusion", colour, plan())
    assert (infusion["num_feature_steps"], infusion["num_attention_steps"]) == (8, 6)  # set, and 15 of 50
    for one in settings.SETTINGS:
        for method_id in one.methods:
            assert one.field in engine.find(method_id).Params.model_fields
    for method_id, params in BOUNDED.items():
        assert params.keys() <= engine.find(method_id).Params.model_fields.keys()


def test_the_page_holds_the_committed_figures():
    rows = json.loads((DOCS / "benchmarks.json").read_text())
    page = (DOCS / "benchmarks.md").read_text()
    assert report.generated(rows) in page
    assert {row["method"] for row in rows} >= {*suite.REFERENCES, suite.UNTIED}
    for name in report.judged(rows):
        assert not report.verdict(name, rows).misses or f"### {name}\n" in page, f"the page must say why {name} misses"
