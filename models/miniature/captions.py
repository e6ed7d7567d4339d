"""Captions as training sees them: paraphrases, short ones, unknown words and none."""

import numpy as np

from models.miniature import scene as world_scene
from models.miniature.scene import Scene
from models.miniature.text import UNKNOWN

EMPTY, SHORT, NOISY = 0.10, 0.20, 0.08


def draw(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of the scene: a paraphrase, at times short, with an unknown word, or empty."""
    kind = rng.random()
    if kind < EMPTY:
        return ""
    caption = world_scene.caption(scene, int(rng.integers(world_scene.CAPTION_VARIANTS)))
    words = short(scene, rng) if kind < EMPTY + SHORT else caption.split()
    if rng.random() < NOISY:
        words.insert(int(rng.integers(len(words) + 1)), UNKNOWN)
    return " ".join(words)


def short(scene: Scene, rng: np.random.Generator) -> list[str]:
    """The words of a caption that leaves attributes out; the subject is rarely one of them."""
    style, colour, subject, place = rng.random(4) < (0.5, 0.6, 0.9, 0.5)
    medium, rest = world_scene.caption(scene, 1).split(" of ", 1)  # "a photo of a red fox in a meadow"
    words = [*medium.split(), "of"] if style else []
    words += ["a"] if subject and rng.random() < 0.7 else []
    words += [scene.colour] if colour else []
    words += [scene.subject] if subject else []
    return words + (rest.split(scene.subject, 1)[1].split() if place else [])
