"""Typed scenes of the miniature world and their caption grammar, both ways."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

SUBJECTS = (
    "fox", "cat", "dog", "elephant", "fish", "turtle", "butterfly", "owl",
    "car", "boat", "balloon", "rocket", "mushroom", "umbrella", "flower", "teapot",
)  # fmt: skip
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
BACKGROUNDS = ("beach", "forest", "desert", "city", "snow", "night", "ocean", "meadow")
STYLES = ("photo", "pencil sketch", "watercolour", "pixel art", "neon")
MOTIONS = ("drift", "arc", "bounce", "spin", "zoom")
CAMERAS = ("still", "pan")
ATTRIBUTES = {
    "style": STYLES,
    "colour": COLOURS,
    "subject": SUBJECTS,
    "background": BACKGROUNDS,
    "motion": MOTIONS,
    "camera": CAMERAS,
}
CAPTION_VARIANTS = 5


@dataclass(frozen=True)
class Scene:
    """One clip of the miniature world.

    `seed` alone fixes position, size, path and the phases of the background, so an edit of any
    attribute keeps them.
    """

    style: str = "photo"
    colour: str = "red"
    subject: str = "fox"
    background: str = "meadow"
    motion: str = "drift"
    camera: str = "still"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse words outside the world. Raises ValueError."""
        for name, choices in ATTRIBUTES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")


def generator(*key: object) -> np.random.Generator:
    """A generator keyed by the words of `key`: the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def sample_scene(seed: int) -> Scene:
    """A uniformly random scene; `seed` also becomes the scene's own seed."""
    rng = generator("scene", seed)
    drawn = {name: choices[int(rng.integers(len(choices)))] for name, choices in ATTRIBUTES.items()}
    return Scene(**drawn, seed=seed)


_PLACES = {
    "beach": "on a beach", "forest": "in a forest", "desert": "in a desert", "city": "in a city",
    "snow": "in the snow", "night": "at night", "ocean": "in the ocean", "meadow": "in a meadow",
}  # fmt: skip
_MEDIA = {
    "photo": "a photo", "pencil sketch": "a pencil sketch", "watercolour": "a watercolour painting",
    "pixel art": "a pixel art picture", "neon": "a neon picture",
}  # fmt: skip
_MOVES = {
    "drift": "drifting", "arc": "moving in an arc", "bounce": "bouncing", "spin": "spinning", "zoom": "coming closer",
}  # fmt: skip
_SHOTS = {"still": "still camera", "pan": "panning camera"}


def caption(scene: Scene, variant: int = 0) -> str:
    """The scene in words, in one of `CAPTION_VARIANTS` paraphrases (`variant` wraps around).

    Variant 0 names the motion, 1 neither motion nor camera, 2 both; 3 and 4 put the style last.
    """
    thing = f"a {scene.colour} {scene.subject}"
    place, medium = _PLACES[scene.background], _MEDIA[scene.style]
    move, shot = _MOVES[scene.motion], _SHOTS[scene.camera]
    forms = (
        f"{medium} of {thing} {place}, {move}",
        f"{medium} of {thing} {place}",
        f"{medium} of {thing} {move} {place}, {shot}",
        f"{thing} {place}, {scene.style}",
        f"{thing} {move} {place}, {scene.style} style",
    )
    return forms[variant % len(forms)]


_SYNONYMS = {
    "style": {
        "photo": "photograph photographic realistic",
        "pencil sketch": "pencil sketch sketched drawing drawn",
        "watercolour": "watercolor aquarelle",
        "pixel art": "pixel pixels pixelated pixelart bit",
        "neon": "glowing",
    },
    "colour": {
        "red": "crimson scarlet", "yellow": "golden gold", "green": "emerald", "blue": "azure",
        "purple": "violet", "white": "ivory",
    },
    "subject": {
        "fox": "foxes", "cat": "kitten", "dog": "puppy", "elephant": "", "fish": "fishes", "turtle": "tortoise",
        "butterfly": "butterflies", "owl": "", "car": "automobile", "boat": "sailboat ship yacht", "balloon": "",
        "rocket": "spaceship", "mushroom": "toadstool", "umbrella": "parasol", "flower": "tulip",
        "teapot": "kettle",
    },
    "background": {
        "beach": "seaside shore", "forest": "woods woodland jungle", "desert": "dunes", "city": "town street urban",
        "snow": "snowy winter", "night": "moonlight moonlit", "ocean": "sea underwater", "meadow": "field grass lawn",
    },
    "motion": {
        "drift": "drifting drifts gliding", "arc": "arcing leaping", "bounce": "bouncing bounces jumping",
        "spin": "spinning spins rotating turning", "zoom": "zooming closer approaching growing",
    },
    "camera": {"still": "static fixed tripod", "pan": "panning pans"},
}  # fmt: skip
_FUNCTION_WORDS = (
    "a an the of in on at under with and is it to by its this that into as "
    "camera painting picture image style art moving coming sky video clip shot view landscape scene "
    "make turn change replace become from without no not there one two big small left right"
)


def _lexicon() -> dict[str, tuple[str, str]]:
    words: dict[str, tuple[str, str]] = {}
    for attribute, table in _SYNONYMS.items():
        for value, synonyms in table.items():
            words.update({word: (attribute, value) for word in synonyms.split()})
            if " " not in value:
                words[value] = (attribute, value)
    return words


_LEXICON = _lexicon()
WORDS: tuple[str, ...] = tuple(sorted({*_LEXICON, *_FUNCTION_WORDS.split()}))
"""Every word the grammar writes or the parser knows, lower case."""


def parse(text: str) -> dict[str, str]:
    """The attributes that `text` names, by word; the first mention of each wins.

    Word order is free, a plural s is tolerated, unknown words are passed over.
    """
    found: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", text.lower()):
        hit = _LEXICON.get(word) or _LEXICON.get(word.removesuffix("s"))
        if hit is not None:
            found.setdefault(*hit)
    return found


def edited(scene: Scene, text: str) -> Scene:
    """The same scene with the attributes that `text` names; seed and path stay."""
    named = {attribute: getattr(scene, attribute) for attribute in ATTRIBUTES} | parse(text)
    return Scene(**named, seed=scene.seed)
