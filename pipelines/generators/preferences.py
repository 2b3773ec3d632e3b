"""Pairs for the localized preference, from what the workspace holds: votes, repairs, corrected images.

Input: the catalog. Output: pairs of a winner and a loser with the region in which they differ, and what was
left out, by reason. The rules are those of all training images: active images of the training split alone;
and no pair whose prompt the treatment holds out for its comparison. Torch-free when imported.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ConfigRefused, Corrupt, ImageRefused, MaskRefused, NotFound
from dataengine.masks import Mask
from dataengine.quality.config import StudyDesign
from dataengine.quality.study import choices_by_pair, filter_votes, majority_choice
from dataengine.records import INJECTED, REPAIRED, Image, count_of
from dataengine.treatment.config import PairSource, PreferenceConfig
from pipelines.runtime.context import Context
from pipelines.runtime.images import StoredPixels, read_pixels
from storage.catalog import Catalog
from storage.queries.preferences import corrected_images
from storage.queries.repairs import mask_of_repair, original_id, repair_pairs
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.treatment.objectives.preference import PreferencePairs

PAIRS = "preference_pairs.json"
"""File of a run: its pairs, so that a resumed run has the same, and what was left out."""

AT_ONCE = 500
"""Groups of images that are looked up at once."""

Candidate = tuple[str, str] | str
"""The ids of a winner and a loser, or why a pair has none."""


@dataclass(frozen=True, kw_only=True)
class FoundPair:
    """Two images of one prompt and size, and where the winner comes from."""

    winner: Image
    loser: Image
    source: PairSource


@dataclass(kw_only=True)
class PairSearch:
    """Pairs with a winner, and the number of those left out by reason."""

    pairs: list[FoundPair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def found(self) -> int:
        """Number of all pairs."""
        return len(self.pairs) + self.left_out.total()

    @property
    def text(self) -> str:
        """What was found and left out, in words."""
        used = Counter(pair.source for pair in self.pairs)
        kinds = ", ".join(f"{count} from {source}" for source, count in sorted(used.items()))
        told = f"{count_of(self.found, 'pair')} found, {len(self.pairs)} with a winner"
        out = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        return told + (f" ({kinds})" if kinds else "") + (f"; left out: {out}" if out else "")


def find_pairs(
    catalog: Catalog, config: PreferenceConfig, detector_id: str | None, held_out: Collection[str] = ()
) -> PairSearch:
    """Every pair of the settings' sources, in a fixed order, at most `config.limit`; no pixels are read.

    A pair that was judged both ways has no winner. `held_out` are the prompts of the treatment's comparison;
    the detector of that id, if any, has a say about corrected images.
    """
    search = PairSearch()
    known: dict[frozenset[str], tuple[str, str, PairSource]] = {}
    torn: set[frozenset[str]] = set()
    for source in config.sources:
        for candidate in SOURCES[source](catalog, config, detector_id):
            if isinstance(candidate, str):
                search.left_out[candidate] += 1
                continue
            pair = frozenset(candidate)
            if pair in known and known[pair][:2] != candidate:
                torn.add(pair)
            known.setdefault(pair, (*candidate, source))
    search.left_out.update({"judged both ways": len(torn)} if torn else {})
    decided = [each for pair, each in known.items() if pair not in torn]
    images = {
        each.id: each for each in catalog.images.get_many(sorted({id for *ids, _ in decided for id in ids}))
    }
    for winner, loser, source in decided:
        reason = _unusable(images.get(winner), images.get(loser), held_out)
        if not reason and len(search.pairs) == config.limit:
            reason = "above the limit"
        if reason:
            search.left_out[reason] += 1
        else:
            search.pairs.append(FoundPair(winner=images[winner], loser=images[loser], source=source))
    return search


def _unusable(winner: Image | None, loser: Image | None, held_out: Collection[str]) -> str:
    """Why a pair is not trained on; "" if it may be."""
    if winner is None or loser is None:
        return "with an erased image"
    both = (winner, loser)
    if any(image.status != "active" for image in both):
        return "with a refused image"
    if any(image.split != "train" for image in both):
        return "of the validation or benchmark split"
    if any(image.source == INJECTED for image in both):
        return "with an injected artifact"
    if not winner.prompt or winner.prompt != loser.prompt:
        return "without a prompt in common"
    if winner.prompt in held_out:
        return "of a prompt that is held out"
    if (winner.height, winner.width) != (loser.height, loser.width):
        return "of two sizes"
    return ""


# ---- the sources ------------------------------------------------------------------------------------------


def _voted(catalog: Catalog, config: PreferenceConfig, detector_id: str | None) -> Iterator[Candidate]:
    """The pairs of studies: the winner has the majority of the raters who passed their attention checks."""
    for study in sorted(catalog.studies.list(), key=lambda study: study.id):
        count, design = len(study.pairs), StudyDesign.model_validate(study.design)
        if study.state != "closed":
            yield from ["of an open study"] * count
            continue
        if config.question not in design.questions:
            yield from [f"of a study without a question on {config.question}"] * count
            continue
        kept, _ = filter_votes(catalog.votes.of_study(study.id), count, design.keep_from)
        choices = choices_by_pair(kept, config.question)
        for number, (before, after) in enumerate(study.pairs):
            winner = majority_choice(choices[number]) if number in choices else None
            if winner is None:
                yield "without a vote that counts"
            elif winner == "tie":
                yield "tied"
            else:
                yield (after, before) if winner == "after" else (before, after)


def _repaired(catalog: Catalog, config: PreferenceConfig, detector_id: str | None) -> Iterator[Candidate]:
    """Accepted repairs win against their originals."""
    for pair in sorted(repair_pairs(catalog, "accepted"), key=lambda pair: pair.repaired.id):
        original = original_id(pair.repaired)
        yield (pair.repaired.id, original) if original else "of an imported repair"


def _corrected(catalog: Catalog, config: PreferenceConfig, detector_id: str | None) -> Iterator[Candidate]:
    """Images drawn with correction win against those drawn without one, all else equal, unless the detector
    has predicted both and does not find less in the corrected one."""
    corrected = corrected_images(catalog)
    groups = sorted({image.group for image in corrected})
    drawn: dict[tuple[str | None, str], list[Image]] = {}
    for start in range(0, len(groups), AT_ONCE):
        some = groups[start : start + AT_ONCE]
        for image in catalog.images.find(source="generated", status="active", group=some):
            drawn.setdefault((image.generator_id, image.group), []).append(image)
    means: dict[str, float] = {}
    if detector_id is not None:
        ids = [image.id for images in drawn.values() for image in images]
        means = {each.image_id: each.mean for each in catalog.predictions.of(detector_id, ids)}
    for image in corrected:
        plain = [
            other
            for other in drawn.get((image.generator_id, image.group), ())
            if "correction" not in other.settings and _drawn_as(other) == _drawn_as(image)
        ]
        if not plain:
            yield "corrected without an uncorrected image"
        elif plain[0].sha256 == image.sha256:
            yield "corrected without a change"
        elif {image.id, plain[0].id} <= means.keys() and means[image.id] >= means[plain[0].id]:
            yield "corrected in vain, by the detector"
        else:
            yield image.id, plain[0].id


def _drawn_as(image: Image) -> dict[str, Any]:
    """An image's settings but for its correction."""
    return {name: value for name, value in image.settings.items() if name not in ("correction", "detector")}


SOURCES: Mapping[PairSource, Callable[[Catalog, PreferenceConfig, str | None], Iterator[Candidate]]] = {
    "votes": _voted,
    "repairs": _repaired,
    "corrected": _corrected,
}


# ---- pairs of a run ---------------------------------------------------------------------------------------


def gather_pairs(
    context: Context, run: str, config: PreferenceConfig, detector_id: str, held_out: Collection[str]
) -> "PreferencePairs":
    """The pairs of a run with their regions. They are chosen once, so that a resumed run has the same, but
    for images that were erased or refused since.

    Raises `ConfigRefused` for no pair with a winner, with the number of those found and why they were left
    out.
    """
    files, workspace = context.workspace.job_files, context.workspace
    if (stored := files.get(run, PAIRS)) is None:
        with workspace.catalog(read_only=True) as catalog:
            search = find_pairs(catalog, config, detector_id, held_out)
        _leave_out_by_region(context, search, config)
        chosen = [[pair.winner.id, pair.loser.id, pair.source] for pair in search.pairs]
        stored = {"pairs": chosen, "left_out": dict(search.left_out)}
        if search.pairs:
            files.put(run, PAIRS, stored)
    with workspace.catalog(read_only=True) as catalog:
        ids = [id for winner, loser, _ in stored["pairs"] for id in (winner, loser)]
        images = {each.id: each for each in catalog.images.get_many(sorted(set(ids)))}
    search = PairSearch(left_out=Counter(stored["left_out"]))
    for winner, loser, source in stored["pairs"]:
        reason = _unusable(images.get(winner), images.get(loser), held_out)
        if reason:
            search.left_out[reason] += 1
        else:
            search.pairs.append(FoundPair(winner=images[winner], loser=images[loser], source=source))
    if not search.pairs:
        raise ConfigRefused(NONE.format(search.text))
    context.report(0, 1, search.text)
    return _as_pairs(workspace, search.pairs, config)


NONE = (
    "there is no pair with a winner for the localized preference: {}. Close a study with votes, accept "
    "repairs, or draw the same seeds with and without correction; or set tuning.preference to null"
)


def pairs_result(workspace: Workspace, run: str) -> dict[str, Any]:
    """The number of a run's pairs by source, and of those left out by reason; empty without any."""
    stored = workspace.job_files.get(run, PAIRS)
    if stored is None:
        return {}
    used = Counter(source for *_, source in stored["pairs"])
    return {"pairs": {"used": dict(used), "left_out": stored["left_out"]}}


def _leave_out_by_region(context: Context, search: PairSearch, config: PreferenceConfig) -> None:
    """Leave out pairs that cannot be read, do not differ, or differ nearly everywhere."""
    kept = []
    for number, pair in enumerate(search.pairs):
        context.report(number, len(search.pairs), "comparing pairs")
        try:
            share = float(region_of(context.workspace, pair, config).mean())
        except (NotFound, Corrupt, ImageRefused, MaskRefused):
            search.left_out["that cannot be read"] += 1
            continue
        if share == 0:
            search.left_out["without a visible difference"] += 1
        elif share > config.largest:
            search.left_out[f"that differ in more than {config.largest:.0%} of the image"] += 1
        else:
            kept.append(pair)
    search.pairs = kept


def region_of(workspace: Workspace, pair: FoundPair, config: PreferenceConfig) -> Mask:
    """Where a pair differs, bool HW: a repair's own mask, else the pixels that changed visibly."""
    for repaired, other in ((pair.winner, pair.loser), (pair.loser, pair.winner)):
        if repaired.source == REPAIRED and original_id(repaired) == other.id:
            return mask_of_repair(repaired)
    winner, loser = (read_pixels(workspace, image).astype(np.int16) for image in (pair.winner, pair.loser))
    mask: Mask = np.abs(winner - loser).max(-1) >= config.difference * 255
    return mask


class StoredRegions(Sequence[np.ndarray]):
    """The regions of pairs, bool HW, each made when it is asked for."""

    def __init__(self, workspace: Workspace, pairs: Sequence[FoundPair], config: PreferenceConfig) -> None:
        self._workspace, self._pairs, self._config = workspace, pairs, config

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [region_of(self._workspace, pair, self._config) for pair in self._pairs[index]]
        return region_of(self._workspace, self._pairs[index], self._config)


def _as_pairs(
    workspace: Workspace, pairs: Sequence[FoundPair], config: PreferenceConfig
) -> "PreferencePairs":
    from dataengine.treatment.objectives.preference import PreferencePairs

    return PreferencePairs(
        winners=StoredPixels(workspace, [pair.winner for pair in pairs]),
        losers=StoredPixels(workspace, [pair.loser for pair in pairs]),
        masks=StoredRegions(workspace, pairs, config),
        prompts=[pair.winner.prompt for pair in pairs],
    )
