"""The drawn world: endless, seeded streams of captioned images with exact artifact masks.

`stream(use)[index]` is a pure function of the world's version, the use and the index. Uses are disjoint by
construction: each has its own entropy, so the judge and the generator are never trained on the same images.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from dataengine.clinic.drawing import SIZE, Canvas, plain_background, shrink
from dataengine.clinic.flaws import (
    CLASSES,
    STRUCTURAL,
    Spot,
    add_artifact,
    part_of,
    sample_kinds,
    sample_small_kind,
)
from dataengine.clinic.scenes import (
    ATTRIBUTES,
    CATEGORIES,
    COLOURS,
    EASY,
    HARD,
    Scene,
    attribute_names,
    caption,
    sample_scene,
)
from dataengine.clinic.subjects import SUBJECTS, Fault, Part

__all__ = [
    "ATTRIBUTES",
    "CATEGORIES",
    "EASY",
    "HARD",
    "SIZE",
    "USES",
    "WORLD_VERSION",
    "Drawing",
    "Prompt",
    "Scene",
    "Stream",
    "all_prompts",
    "attribute_names",
    "caption",
    "changed_pixels",
    "draw",
    "prompt_of",
    "prompts",
    "stream",
]

WORLD_VERSION = 1

MIN_MASK_PIXELS = 14
_VISIBLE_CHANGE = 16
_SMALL_TRIES = 200

_UNIFORM = {category: 1 / len(CATEGORIES) for category in CATEGORIES}


@dataclass(frozen=True)
class Mix:
    """The composition of a use: `shares` of the categories, and the `flawed` share of each."""

    flawed: Mapping[str, float]
    shares: Mapping[str, float]
    code: int


def _everywhere(rate: float) -> dict[str, float]:
    return dict.fromkeys(CATEGORIES, rate)


# The codes are part of every drawing's seed: never reuse or renumber one.
USES: dict[str, Mix] = {
    "generator": Mix(
        flawed=_everywhere(0.01) | dict.fromkeys(HARD, 0.35),
        shares={
            "hand": 0.2,
            "face": 0.2,
            "sign": 0.18,
            "animal": 0.15,
            "mug": 0.09,
            "house": 0.09,
            "tree": 0.09,
        },
        code=1,
    ),
    "previous": Mix(
        flawed=_everywhere(0.3) | {"hand": 0.96, "face": 0.96},
        shares={
            "hand": 0.15,
            "face": 0.15,
            "sign": 0.2,
            "animal": 0.2,
            "mug": 0.1,
            "house": 0.1,
            "tree": 0.1,
        },
        code=2,
    ),
    "teacher": Mix(_everywhere(0.5), _UNIFORM, code=3),
    "judge": Mix(_everywhere(0.5), _UNIFORM, code=4),
    "readers": Mix(_everywhere(0.4), _UNIFORM, code=5),
    "autoencoder": Mix(_everywhere(0.4), _UNIFORM, code=6),
    "benchmark": Mix(_everywhere(0.5), _UNIFORM, code=7),
    "validation": Mix(_everywhere(0.5), _UNIFORM, code=8),
    "photos": Mix(_everywhere(0.0), _UNIFORM, code=9),
    "loop": Mix(_everywhere(0.5), _UNIFORM, code=10),
    "generation": Mix(_everywhere(0.0), _UNIFORM, code=11),
    "treatment": Mix(_everywhere(0.0), _UNIFORM, code=12),
    "evaluation": Mix(_everywhere(0.0), _UNIFORM, code=13),
}


@dataclass(frozen=True)
class Drawing:
    """One drawing: `image` uint8 [64, 64, 3], `label_map` uint8 [64, 64], its scene and its artifacts."""

    image: np.ndarray
    label_map: np.ndarray
    caption: str
    category: str
    attributes: Mapping[str, str]
    flaws: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A caption to generate from, with the attributes that it names."""

    text: str
    category: str
    attributes: Mapping[str, str]


class Stream:
    """An endless sequence of drawings, addressable by index."""

    def __init__(self, use: str, mix: Mix, area: tuple[float, float] | None = None) -> None:
        self.use = use
        self._mix = mix
        self._area = area

    def __getitem__(self, index: int) -> Drawing:
        scene_rng, flaw_rng = self._generators(index)
        scene = self._scene(scene_rng)
        kinds = self._kinds(flaw_rng, scene.category)
        if kinds and self._area is not None:
            return self._with_small_flaw(scene, flaw_rng, self._area)
        image, label_map = draw(scene, kinds, flaw_rng)
        while kinds and np.count_nonzero(label_map) < MIN_MASK_PIXELS:
            kinds = sample_kinds(flaw_rng, scene.category)
            image, label_map = draw(scene, kinds, flaw_rng)
        return Drawing(image, label_map, scene.caption, scene.category, scene.attributes, kinds)

    def __iter__(self) -> Iterator[Drawing]:
        index = 0
        while True:
            yield self[index]
            index += 1

    def scene(self, index: int) -> Scene:
        """The scene of the drawing at the index, without rendering it."""
        return self._scene(self._generators(index)[0])

    def _with_small_flaw(self, scene: Scene, rng: np.random.Generator, area: tuple[float, float]) -> Drawing:
        """The scene with one artifact whose mask covers a share of the image within `area`."""
        for _ in range(_SMALL_TRIES):
            kind = sample_small_kind(rng)
            image, label_map = draw(scene, (kind,), rng, small=True)
            if area[0] <= np.count_nonzero(label_map) / label_map.size <= area[1]:
                return Drawing(image, label_map, scene.caption, scene.category, scene.attributes, (kind,))
        raise ValueError(
            f"No artifact of {area[0]:g} to {area[1]:g} of the image came about in {_SMALL_TRIES} tries; "
            "use a wider range, such as (0.01, 0.03)."
        )

    def _generators(self, index: int) -> tuple[np.random.Generator, np.random.Generator]:
        if index < 0:
            raise IndexError(f"The stream {self.use!r} has no index {index}; indices start at 0.")
        seeds = np.random.SeedSequence([WORLD_VERSION, self._mix.code, index]).spawn(2)
        return np.random.default_rng(seeds[0]), np.random.default_rng(seeds[1])

    def _scene(self, rng: np.random.Generator) -> Scene:
        shares = [self._mix.shares[category] for category in CATEGORIES]
        return sample_scene(rng, CATEGORIES[int(rng.choice(len(CATEGORIES), p=shares))])

    def _kinds(self, rng: np.random.Generator, category: str) -> tuple[str, ...]:
        return sample_kinds(rng, category) if rng.random() < self._mix.flawed[category] else ()


def stream(
    use: str,
    flawed: float | Mapping[str, float] | None = None,
    categories: Sequence[str] | None = None,
    area: tuple[float, float] | None = None,
) -> Stream:
    """The stream of a use (a key of `USES`).

    `flawed` overrides the share of flawed drawings, for all categories or by category; the scenes stay the
    same, so `stream("generator", flawed=0.0)` is the clean twin of `stream("generator")`, index by index.
    `categories` keeps only some categories, in equal shares. `area` makes each artifact a small one, whose
    mask covers a share of the image within that range: a variant of the world on the same scenes, for which
    (0.01, 0.03) is meant.
    """
    if use not in USES:
        raise KeyError(f"The world has no use {use!r}; choose one of {', '.join(USES)}.")
    mix = USES[use]
    if flawed is not None:
        rates = _everywhere(flawed) if isinstance(flawed, float | int) else {**mix.flawed, **flawed}
        mix = Mix(rates, mix.shares, mix.code)
    if categories is not None:
        mix = Mix(mix.flawed, {c: (c in categories) / len(categories) for c in CATEGORIES}, mix.code)
    return Stream(use, mix, area)


def prompts(use: str, n: int, categories: Sequence[str] | None = None) -> list[Prompt]:
    """The first `n` prompts of a use, taking the categories in turn.

    A hash of the caption assigns it to uses: a fifth of all captions belongs to `evaluation` and `benchmark`
    alone, so no generator is evaluated on a prompt that it was treated with. Captions repeat once all
    captions of a category are used (a hand has 112).
    """
    if use not in USES:
        raise KeyError(f"The world has no use {use!r}; choose one of {', '.join(USES)}.")
    chosen = tuple(categories or CATEGORIES)
    held_out = use in {"evaluation", "benchmark"}
    candidates = {category: _captions(use, category, held_out) for category in chosen}
    return [next(candidates[chosen[i % len(chosen)]]) for i in range(n)]


def _captions(use: str, category: str, held_out: bool) -> Iterator[Prompt]:
    """Every caption of a category that the use may have, once per pass, in an order of the use's own."""
    rng = np.random.default_rng(
        np.random.SeedSequence([WORLD_VERSION, USES[use].code, CATEGORIES.index(category), 1])
    )
    allowed = [prompt for prompt in all_prompts(category) if is_held_out(prompt.text) == held_out]
    while True:
        yield from (allowed[int(i)] for i in rng.permutation(len(allowed)))


def all_prompts(category: str) -> list[Prompt]:
    """Every caption that a category can have."""
    combinations: list[dict[str, str]] = [{}]
    for name in attribute_names(category):
        combinations = [known | {name: value} for known in combinations for value in ATTRIBUTES[name]]
    return [
        Prompt(caption(category, c), category, c) for c in combinations if c.get("colour") != c["background"]
    ]


def prompt_of(text: str) -> Prompt | None:
    """The scene that a caption describes; None when it is no caption of this world."""
    return _known_prompts().get(text)


@cache
def _known_prompts() -> dict[str, Prompt]:
    return {prompt.text: prompt for category in CATEGORIES for prompt in all_prompts(category)}


def is_held_out(text: str) -> bool:
    """Whether a caption is reserved for evaluation."""
    return hashlib.sha256(text.encode()).digest()[0] % 5 == 0


def draw(
    scene: Scene,
    kinds: Sequence[str] = (),
    rng: np.random.Generator | None = None,
    small: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene as image uint8 [64, 64, 3] and label map uint8 [64, 64], with artifacts of the given
    kinds; `small` puts those of pixels on a part of their spot.

    The label map is exact: it marks where the image visibly differs from the same image without that
    artifact, closed and grown by one pixel. Raises ValueError when `kinds` are given without `rng`.
    """
    canvas, spots = _paint(scene, None)
    image, label_map = shrink(canvas), np.zeros((SIZE, SIZE), np.uint8)
    for kind in kinds:
        if rng is None:
            raise ValueError("Drawing artifacts needs a random generator; pass rng.")
        if kind in STRUCTURAL:
            canvas, _ = _paint(scene, Fault(kind, float(rng.random())))
        else:
            places = [part_of(spot, rng) for spot in spots] if small else spots
            canvas = add_artifact(canvas, kind, places, rng)
        before, image = image, shrink(canvas)
        label_map[changed_pixels(before, image, fill=kind != "mark")] = CLASSES[kind]
    return image, label_map


def changed_pixels(before: np.ndarray, after: np.ndarray, fill: bool = True) -> np.ndarray:
    """Where two uint8 images visibly differ, as bool [64, 64]: closed (wider with `fill`) and grown by one
    pixel.
    """
    difference = np.abs(before.astype(np.int16) - after).max(-1) > _VISIBLE_CHANGE
    closing = np.ones((5, 5) if fill else (3, 3), bool)
    return ndimage.binary_dilation(_closed(difference, closing), np.ones((3, 3), bool))


def _closed(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    # Erosion treats pixels outside the image as set, or the closing would erode marks at the border.
    return ndimage.binary_erosion(ndimage.binary_dilation(mask, element), element, border_value=1)


def _paint(scene: Scene, fault: Fault | None) -> tuple[Image.Image, list[Spot]]:
    """The supersampled image, and its subject's parts in canvas pixels."""
    subject = SUBJECTS[scene.category]
    background = plain_background(
        COLOURS[scene.attributes["background"]], scene.attributes["ground"] == "shaded"
    )
    canvas = Canvas(background, scene.pose.adjusted(subject.scale, subject.tilt, subject.shift))
    parts: list[Part] = subject.draw(canvas, scene, fault)
    return canvas.image, [Spot(*canvas.at(part.x, part.y), canvas.length(part.radius)) for part in parts]
