"""The content of the world: its vocabulary, scenes sampled from it, and their captions.

Captions name everything that changes the meaning of an image, and nothing is mirrored: in a study, the
generator blended poses that the caption did not name (mugs with two handles, animals with two heads).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataengine.clinic.drawing import Colour, Pose

CATEGORIES = ("hand", "face", "sign", "animal", "mug", "house", "tree")
HARD = ("hand", "face", "sign")
EASY = ("animal", "mug", "house", "tree")

COLOURS: dict[str, Colour] = {
    "red": (208, 52, 48),
    "orange": (232, 136, 44),
    "yellow": (240, 206, 64),
    "green": (72, 156, 76),
    "blue": (58, 104, 196),
    "purple": (132, 78, 168),
    "pink": (236, 148, 176),
    "white": (240, 238, 232),
    "gray": (140, 144, 150),
    "brown": (130, 86, 52),
}
SKINS: dict[str, Colour] = {
    "pale": (246, 216, 192),
    "tan": (222, 172, 124),
    "brown": (160, 106, 68),
    "dark": (92, 62, 46),
}
BACKGROUNDS = ("red", "yellow", "green", "blue", "purple", "pink", "white")
GROUNDS = ("plain", "shaded")
HAIR = ("red", "orange", "yellow", "brown", "gray", "purple")
MOODS = ("smiling", "sad", "surprised")
SPREADS = ("open", "relaxed")
WORDS = ("up", "go", "no", "hi", "cat", "sun", "tea", "bus", "hat", "pie")
KINDS = ("dog", "cat", "horse")

_SUBJECT_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hand": ("spread", "skin"),
    "face": ("mood", "skin", "hair"),
    "sign": ("colour", "word"),
    "animal": ("colour", "kind"),
    "mug": ("colour",),
    "house": ("colour",),
    "tree": ("colour",),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "word": WORDS,
    "mood": MOODS,
    "skin": tuple(SKINS),
    "hair": HAIR,
    "kind": KINDS,
    "spread": SPREADS,
    "background": BACKGROUNDS,
    "ground": GROUNDS,
}


@dataclass(frozen=True)
class Scene:
    """The content of one image before it is drawn.

    `attributes` maps the names of `ATTRIBUTES` that apply to the category to their values; `seed` drives the
    small variations of the drawing (finger lengths, iris colour).
    """

    category: str
    attributes: Mapping[str, str]
    pose: Pose
    seed: int

    @property
    def caption(self) -> str:
        return caption(self.category, self.attributes)


def attribute_names(category: str) -> tuple[str, ...]:
    """The attributes of a category, in the order in which they are sampled."""
    return ("background", "ground", *_SUBJECT_ATTRIBUTES[category])


def caption(category: str, attributes: Mapping[str, str]) -> str:
    """The caption of a scene, at most 13 tokens of either tokenizer."""
    a = attributes
    subject = {
        "hand": lambda: f"{_article(a['spread'])} {a['spread']} {a['skin']} hand",
        "face": lambda: f"a {a['mood']} {a['skin']} face with {a['hair']} hair",
        "sign": lambda: f"{_article(a['colour'])} {a['colour']} sign saying {a['word']}",
        "animal": lambda: f"{_article(a['colour'])} {a['colour']} {a['kind']}",
    }.get(category, lambda: f"{_article(a['colour'])} {a['colour']} {category}")()
    return f"{subject} over a {a['ground']} {a['background']} background"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def sample_scene(rng: np.random.Generator, category: str) -> Scene:
    """Sample a scene of the category with uniform attributes; a subject never has its background's colour."""
    attributes: dict[str, str] = {}
    for name in attribute_names(category):
        choices = [
            value for value in ATTRIBUTES[name] if name != "colour" or value != attributes["background"]
        ]
        attributes[name] = choices[int(rng.integers(len(choices)))]
    pose = Pose(
        x=0.5 + rng.uniform(-0.02, 0.02),
        y=0.5 + rng.uniform(-0.02, 0.02),
        scale=rng.uniform(1.06, 1.16),
        tilt=rng.uniform(-7.0, 7.0),
    )
    return Scene(category, attributes, pose, int(rng.integers(1 << 30)))
