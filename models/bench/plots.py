"""Two pictures of the suite's rows: how steady methods are, and how near the exact edit they come."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.bench import report, suite

Row = dict[str, Any]

COLOURS = {"subject": "#4269d0", "colour": "#ff725c", "style": "#3ca951", "background": "#9c6b4e"}


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """Write bench-steadiness.png and bench-fidelity.png into the folder."""
    tied = report.judged(rows)
    over_all = {name: report.verdict(name, rows).steadiness for name in tied}
    steadiness = "warp error as a fraction of frame_by_frame's (stroke: over all edits)"
    _dots(folder / "bench-steadiness.png", rows, "warp.to_frame_by_frame", steadiness, over_all, report.STEADINESS)
    edited = ["source", "vae", suite.UNTIED, *tied]
    means = {name: _mean([row for row in rows if row["method"] == name]) for name in edited}
    _dots(folder / "bench-fidelity.png", rows, "gt.psnr", "PSNR to the exact edit, dB (stroke: mean)", means)


def _mean(rows: Sequence[Row]) -> float:
    return sum(float(row["gt.psnr"]) for row in rows) / len(rows)


def _dots(
    path: Path, rows: Sequence[Row], figure: str, label: str, strokes: Mapping[str, float], bar: float | None = None
) -> None:
    """One line a method, one dot a kind of edit."""
    import matplotlib.figure

    names = list(strokes)[::-1]
    canvas = matplotlib.figure.Figure(figsize=(7, 0.3 * len(names) + 1.3), layout="constrained")
    axes = canvas.subplots()
    for kind, colour in COLOURS.items():
        points = [row for row in rows if row["edit_kind"] == kind and figure in row and row["method"] in strokes]
        heights = [names.index(row["method"]) for row in points]
        axes.scatter([row[figure] for row in points], heights, s=28, color=colour, label=kind, alpha=0.85, zorder=3)
    for height, name in enumerate(names):
        axes.plot([strokes[name]] * 2, [height - 0.32, height + 0.32], color="#333333", lw=1.6, zorder=2)
    if bar is not None:
        axes.axvline(bar, color="#888888", lw=1, ls="--")
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    canvas.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=len(COLOURS))
    canvas.savefig(path, dpi=110)
