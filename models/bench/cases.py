"""The suite's edits: held-out clips of the miniature world, an edited caption each, and the exact edited clip."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from models import video
from models.digest import digest_file
from models.miniature import scene as scenes
from models.miniature import world
from models.types import File

EDIT_KINDS = ("subject", "colour", "style", "background")
CLIPS_PER_KIND = 6
FRAMES, SIZE, FPS = 8, 128, 8
FIRST_SEED = 9_000_000
"""Training draws its scenes from ten million upwards."""


@dataclass(frozen=True)
class Case:
    """One edit: which attribute changes, the scene before and after, and the captions of both."""

    id: str
    kind: str
    before: scenes.Scene
    after: scenes.Scene

    @property
    def source_prompt(self) -> str:
        """What the clip shows."""
        return scenes.caption(self.before, 1)

    @property
    def prompt(self) -> str:
        """What the edit shows."""
        return scenes.caption(self.after, 1)


def cases(kind: str, count: int = CLIPS_PER_KIND) -> list[Case]:
    """The first `count` edits of a kind; every one on another clip, the same on every machine."""
    found = []
    for index in range(count):
        seed = FIRST_SEED + 100 * EDIT_KINDS.index(kind) + index
        before = scenes.sample_scene(seed)
        others = [word for word in scenes.ATTRIBUTES[kind] if word != getattr(before, kind)]
        drawn = int(scenes.generator("suite", kind, seed).integers(len(others)))
        changed: dict[str, Any] = {kind: others[drawn]}
        found.append(Case(f"{kind}-{index}", kind, before, replace(before, **changed)))
    return found


@lru_cache(maxsize=64)
def rendered(shown: scenes.Scene) -> world.Render:
    """A scene of the suite with its ground truth."""
    return world.render(shown, FRAMES, SIZE)


def source_file(case: Case, folder: Path) -> File:
    """The clip of a case as a video file, written once."""
    path = folder / f"{case.id}.mp4"
    if not path.exists():
        video.write(path, rendered(case.before).frames, FPS)
    return File(path, digest_file(path), path.name)
