"""The sides of a study: any two ways of drawing the same prompts and seeds, named in plain words."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from dataengine.errors import InputRefused
from dataengine.records import REPAIRED, threshold_of
from storage.catalog import Catalog
from storage.queries.repairs import repair_pairs
from storage.queries.studies import (
    SETTINGS,
    SharedPair,
    Way,
    digest_of_settings,
    flagged_by,
    prompt_categories,
    shared_pairs,
    ways_of_drawing,
)

MOST_WAYS = 200
"""Ways of one workspace that the form offers."""
MOST_LETTERS = 200
"""Letters of a side's words that a study keeps."""
GUIDANCE = {
    "safe": "with Safe Latent Diffusion",
    "reward": "guided by a reward",
    "clean": "guided to clean images",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What a study may compare: its key, its name and the number of its images, None if not counted."""

    id: str
    name: str
    parent: str | None
    images: int | None = None


def sides_of(catalog: Catalog) -> list[Side]:
    """Every generator on the lists, newest first, its ways of drawing where it has several, and accepted
    repairs."""
    ways: dict[str, list[Way]] = defaultdict(list)
    for way in ways_of_drawing(catalog):
        ways[way.generator].append(way)
    found: list[Side] = []
    for one in reversed(catalog.generators.offered()):
        found.append(Side(id=one.id, name=one.name, parent=one.parent))
        several = ways[one.id] if len(ways[one.id]) > 1 else []
        for way, words in zip(several, words_of([way.settings for way in several]), strict=True):
            name = f"{one.name}, {words}"
            found.append(Side(id=way.side, name=name, parent=None, images=way.images))
    if repairs := len(repair_pairs(catalog, "accepted")):
        found.append(Side(id=REPAIRED, name="repaired (accepted)", parent=None, images=repairs))
    return found[:MOST_WAYS]


def words_of(ways: list[dict[str, Any]]) -> list[str]:
    """What tells each of these settings from the others, in plain words."""
    flat = [_flat(settings) for settings in ways]
    names = list(dict.fromkeys(name for each in flat for name in each))
    differing = [name for name in names if len({each.get(name, "") for each in flat}) > 1]
    found = [", ".join(each[name] for name in differing if each.get(name)) or "as usual" for each in flat]
    return [
        words if found.count(words) == 1 else f"{words} ({digest_of_settings(settings)[:6]})"
        for words, settings in zip(found, ways, strict=True)
    ]


def _flat(settings: dict[str, Any]) -> dict[str, str]:
    """The settings as words by name; correction and guidance in one phrase each."""
    words: dict[str, str] = {}
    for name, value in settings.items():
        if name == "detector":
            continue
        if name == "correction":
            words[name] = f"corrected during sampling ({value.get('method', '')}, {_rest(value)})"
        elif name == "guidance" and isinstance(value, dict):
            kind = value.get("kind", "clean")
            words["guided"] = f"{GUIDANCE.get(kind, 'guided')} (strength {value.get('strength', '?')})"
        elif name == "guidance":
            words[name] = f"guidance scale {value:g}"
        elif name == "steps":
            words[name] = f"{value} steps"
        elif name in ("height", "width"):
            words[name] = f"{name} {value}"
        else:
            words[name] = f"{name} {value}"[:60]
    return words


def _rest(correction: dict[str, Any]) -> str:
    """Where a correction works, and how strongly."""
    return f"{correction.get('regions', 'everywhere')}, γ {correction.get('gamma', 0)}"


def words_for(catalog: Catalog, side: str) -> str:
    """What tells a side from others of its generator; "" for all of a generator's images."""
    generator, _, settings = side.partition(SETTINGS)
    if not settings:
        return ""
    ways = ways_of_drawing(catalog, [generator])
    words = words_of([way.settings for way in ways])
    found = next((text for way, text in zip(ways, words, strict=True) if way.side == side), None)
    if found is None:
        raise InputRefused("no images of this generator have these settings any more; choose another side")
    return found[:MOST_LETTERS]


def pairs_between(
    catalog: Catalog,
    before: str,
    after: str,
    purpose: str | None = None,
    categories: list[str] | None = None,
    round_id: str | None = None,
    flawed_by: str | None = None,
) -> list[SharedPair]:
    """The pairs of two sides. Only those whose first image the detector `flawed_by` flags at its operating
    point, if one is given.

    Raises `NotFound` for an unknown generator or detector, `InputRefused` for the same side twice.
    """
    for side in (before, after):
        if side != REPAIRED:
            catalog.generators.get(side.partition(SETTINGS)[0])
    if before == after:
        raise InputRefused("both sides are the same; choose two different ones")
    if before == REPAIRED:
        raise InputRefused("repairs can only be the second side; choose their originals as the first")
    if after == REPAIRED:
        pairs = _pairs_with_repairs(catalog, before, purpose, categories or [], round_id)
    else:
        pairs = shared_pairs(catalog, before, after, purpose, categories or [], round_id)
    if flawed_by is None:
        return pairs
    flagged = flagged_by(catalog, flawed_by, threshold_of(catalog.detectors.get(flawed_by)))
    return [pair for pair in pairs if pair.before in flagged]


def _pairs_with_repairs(
    catalog: Catalog, before: str, purpose: str | None, categories: list[str], round_id: str | None
) -> list[SharedPair]:
    """The side's images with their accepted repairs, the newest repair of each."""
    generator, _, settings = before.partition(SETTINGS)
    meant, found = prompt_categories(catalog), dict[str, SharedPair]()
    for pair in repair_pairs(catalog, "accepted"):
        image = pair.original
        if image is None or image.status != "active" or image.generator_id != generator:
            continue
        if settings and digest_of_settings(image.settings) != settings:
            continue
        category = image.category or meant.get(image.prompt)
        fits = purpose in (None, image.purpose) and round_id in (None, image.round_id)
        if image.id in found or not fits or (categories and category not in categories):
            continue
        found[image.id] = SharedPair(
            before=image.id,
            after=pair.repaired.id,
            prompt=image.prompt,
            seed=image.seed or 0,
            category=category,
            purpose=image.purpose,
        )
    return sorted(found.values(), key=lambda one: (one.prompt, one.seed, one.before))
