"""Two pictures of the suite's rows: how steady methods are, and how near the exact edit they come."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.bench import report, suite

COLOURS = {"subject": "#4269d0", "colour": "#ff725c", "style": "#3ca951", "background": "#9c6b4e"}


def draw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write bench-steadiness.png and bench-fidelity.png into the folder."""
    tied = [row for row in rows if row["method"] not in (*suite.REFERENCES, suite.UNTIED)]
    edits = [row for row in rows if row["method"] not in ("exact",)]
    _dots(
        folder / "bench-steadiness.png",
        tied,
        "warp.to_frame_by_frame",
        "warp error, as a fraction of frame_by_frame's",
        report.STEADINESS,
    )
    _dots(folder / "bench-fidelity.png", edits, "gt.psnr", "PSNR to the exact edit (dB)")


def _dots(path: Path, rows: Sequence[dict[str, Any]], figure: str, label: str, bar: float | None = None) -> None:
    """One line a method, one dot a kind of edit, and the mean as a stroke."""
    import matplotlib.figure

    names = list(dict.fromkeys(row["method"] for row in rows))[::-1]
    canvas = matplotlib.figure.Figure(figsize=(7, 0.3 * len(names) + 1.3), layout="constrained")
    axes = canvas.subplots()
    for kind, colour in COLOURS.items():
        points = [row for row in rows if row["edit_kind"] == kind and figure in row]
        heights = [names.index(row["method"]) for row in points]
        axes.scatter([row[figure] for row in points], heights, s=28, color=colour, label=kind, alpha=0.85, zorder=3)
    for height, name in enumerate(names):
        values = [row[figure] for row in rows if row["method"] == name and figure in row]
        if values:
            axes.plot(
                [sum(values) / len(values)] * 2, [height - 0.32, height + 0.32], color="#333333", lw=1.6, zorder=2
            )
    if bar is not None:
        axes.axvline(bar, color="#888888", lw=1, ls="--")
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.9 / len(names)), ncols=4)
    canvas.savefig(path, dpi=110)
