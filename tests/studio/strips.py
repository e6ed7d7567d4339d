"""Make the gallery's strips (source, then its edit) of the methods' pictures: `python tests/studio/strips.py`."""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "images" / "methods"
STRIPS = ROOT / "api" / "web" / "src" / "strips"
CELL, GAP = 112, 4
AFTER = (0, 1, 3)
"""Frames of the edit that follow the source's first one."""


def make() -> None:
    """One WebP of a few kilobytes for every picture."""
    STRIPS.mkdir(exist_ok=True)
    for path in PICTURES.glob("*.png"):
        with Image.open(path) as picture:
            side = picture.height // 2
            cells = [picture.crop((0, 0, side, side))]
            cells += [picture.crop((n * side, side, (n + 1) * side, 2 * side)) for n in AFTER]
            strip = Image.new("RGB", (len(cells) * (CELL + GAP) - GAP, CELL), "white")
            for place, cell in enumerate(cells):
                small = cell.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
                strip.paste(small, (place * (CELL + GAP), 0))
        strip.save(STRIPS / f"{path.stem}.webp", quality=60, method=6)


if __name__ == "__main__":
    make()
