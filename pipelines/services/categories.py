"""Hard categories: figures, thresholds, and sending their images to annotators."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from dataengine.curation.balance import CategoryBalance, balance_of
from dataengine.curation.config import HardCategoryConfig
from dataengine.curation.hard_categories import scaled_to
from dataengine.errors import InputRefused
from dataengine.records import COLLECTED, THRESHOLD, AuditEvent, QueueItem, threshold_of
from dataengine.statistics import holm
from pipelines.detectors.training_data import injected_artifacts
from pipelines.selections.hard_categories import judge_histograms
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog
from storage.queries import categories
from storage.queries.datasets import examples_of_snapshot, pseudo_examples, unlabelled_real
from storage.queries.images import champion_id
from storage.queries.labels import Policy, valid_labels
from storage.queries.selections import Conditions
from storage.workspace import Workspace

SCALE = 100
"""Steps of the threshold sliders."""
DESK_ROUND = "desk"
"""Prefix of the round id of items that belong to no round."""


class Sending(RequestBody):
    """How images go to annotators."""

    priority: float = Field(default=0.5, ge=0, le=10)
    annotations_per_image: int = Field(
        default=1,
        ge=1,
        le=9,
        validation_alias=AliasChoices("annotations_per_image", "opinions"),
        serialization_alias="opinions",
    )
    """How many people annotate each image; answered, and still read, as `opinions`."""
    people: list[Name] = Field(default_factory=list, max_length=200)
    round: Name | None = None
    limit: int = Field(default=1000, ge=1, le=20_000)


class Ask(Sending):
    """Images of these categories at or above these thresholds go to annotators."""

    thresholds: dict[Annotated[str, Field(max_length=200)], Annotated[float, Field(ge=0, le=1)]] = Field(
        min_length=1, max_length=500
    )
    detector: Name | None = None


def detectors_to_try(catalog: Catalog) -> list[str | None]:
    """The champion, then its stand-ins while it has no predictions for categorised images: the newest first.

    Teachers come last, because they predict only on a round's unlabelled images.
    """
    others = [one for one in reversed(catalog.detectors.offered()) if one.role != "champion"]
    others.sort(key=lambda one: one.role == "teacher")
    return [champion_id(catalog), *(one.id for one in others)]


def category_report(catalog: Catalog, detector_id: str | None, only: Conditions = ()) -> dict[str, Any]:
    """The detector's own threshold, every category's figures over the images that `only` selects, and how
    many of them each threshold would select."""
    found = categories.histograms(catalog, detector_id, only)
    askable = categories.histograms(catalog, detector_id, [*only, *categories.not_queued()])
    reviewed = categories.reviewed_shares(catalog)
    threshold = threshold_of(catalog.detectors.get(detector_id)) if detector_id else THRESHOLD
    statistic = scaled_to(statistic_of(catalog), threshold)
    verdicts = {one.category: one for one in judge_histograms(found, statistic)}
    corrected = holm({name: one.p for name, one in verdicts.items() if one.p is not None})
    rows = []
    for category, one in found.items():
        verdict, (flawed, clean) = verdicts[category], reviewed.get(category, (0, 0))
        rows.append(
            {
                "category": category,
                "images": sum(one.counts.values()),
                "mean": one.mean,
                "p90": one.quantile(0.9),
                "above": [one.share(step / SCALE) for step in range(SCALE + 1)],
                "verdict": verdict.verdict,
                "limit": verdict.limit,
                "z": verdict.z,
                "p": corrected.get(category),
                "reviewed": flawed + clean,
                "positive": flawed / (flawed + clean) if flawed + clean else None,
                "askable": at_or_above(askable[category].counts) if category in askable else [],
            }
        )
    return {
        "detector": detector_id,
        "threshold": threshold,
        "categories": sorted(rows, key=lambda row: -float(row["mean"])),
    }


def statistic_of(catalog: Catalog) -> HardCategoryConfig:
    """The newest round's test for hard categories; the default before the first round."""
    rounds = catalog.rounds.list()
    recipe = rounds[-1].recipe if rounds else {}
    return HardCategoryConfig.model_validate(recipe.get("write_prompts", {}).get("statistic", {}))


def at_or_above(counts: dict[int, int]) -> list[int]:
    """How many images lie at or above each of the slider's steps."""
    reached = [0] * (SCALE + 1)
    for step, count in counts.items():
        reached[step * SCALE // categories.BINS] += count
    for step in reversed(range(SCALE)):
        reached[step] += reached[step + 1]
    return reached


def send_to_people(workspace: Workspace, body: Ask, actor: str) -> int:
    """Queue the images for annotators; returns how many were new. Raises `InputRefused`."""
    with workspace.catalog() as catalog:
        new = _send(catalog, body, actor)
        catalog.commit()
    return new


def _send(catalog: Catalog, body: Ask, actor: str) -> int:
    detector = body.detector or champion_id(catalog)
    chosen = categories.queueable(catalog, detector, body.thresholds, body.limit)
    images = [(image_id, highest, detector) for image_id, highest in chosen]
    return queue_images(catalog, images, body, actor, {"thresholds": body.thresholds})


def queue_images(
    catalog: Catalog,
    images: Sequence[tuple[str, float | None, str | None]],
    how: Sending,
    actor: str,
    details: Mapping[str, Any],
    round_id: str = "",
) -> int:
    """Queue images, each with its highest confidence and the detector whose that is, for annotators; returns
    how many were new. `details` say in the audit how they were chosen. Raises `InputRefused`.
    """
    refuse_unknown_people(catalog, how.people)
    if 0 < len(set(how.people)) < how.annotations_per_image:
        raise InputRefused(
            f"{how.annotations_per_image} annotators per image are required, and only "
            f"{len(set(how.people))} assigned"
        )
    round_id = round_id or how.round or f"{DESK_ROUND}-{time.strftime('%Y%m%d')}"
    items = [
        QueueItem(
            image_id=image_id,
            round_id=round_id,
            priority=how.priority + (highest or 0) / 1000,
            annotations_per_image=how.annotations_per_image,
            reason=f"sent by {actor}" + ("" if highest is None else f": confidence {highest:.2f}"),
            detector_id=detector,
        )
        for image_id, highest, detector in images
    ]
    new = catalog.queue.add_many(items)
    catalog.assignees.add_many([item.image_id for item in items], round_id, sorted(set(how.people)))
    details = {"images": new, **details, "opinions": how.annotations_per_image, "people": how.people}
    catalog.audit.add(AuditEvent(actor=actor, action="queue.send", subject=round_id, details=details))
    return new


def refuse_unknown_people(catalog: Catalog, people: Sequence[str]) -> None:
    """Raise `InputRefused` for a name without an account."""
    known = {user.name for user in catalog.users.list()}
    if unknown := sorted(set(people) - known):
        raise InputRefused(f"there is no account {unknown[0]!r}; choose from the existing accounts")


def balance_report(catalog: Catalog, policy: Policy, injected: int = 0) -> dict[str, Any]:
    """Positives and negatives of every category in the newest snapshot, and in the one that comes next.

    The next one holds what `publish` would take now: labels that count, unlabelled real photos, the newest
    round's pseudo-labels, and at most `injected` images with an injected artifact.
    """
    snapshots, rounds = catalog.snapshots.list(), catalog.rounds.list()
    now: Counter[tuple[str, bool]] = Counter()
    if snapshots:
        for category, flawed, count in examples_of_snapshot(catalog, snapshots[-1].id):
            now[category, flawed] += count
    found = catalog.images.find(split="train", status="active", source=COLLECTED)
    images = {image.id: image for image in found}
    counting = valid_labels(catalog, images, policy)
    later = Counter((images[id].category or "", not labels[-1].clean) for id, labels in counting.items())
    real = unlabelled_real(catalog)
    later.update((category, False) for _, category in real)
    newest = rounds[-1].id if rounds else None
    later.update(pseudo_examples(catalog, newest, set(counting) | {id for id, _ in real}))
    later.update((image.category or "", True) for image, _ in injected_artifacts(catalog, injected))
    before = {one.category: one for one in balance_of(now.elements())}
    after = {one.category: one for one in balance_of(later.elements())}
    rows = [
        {
            "category": category or "uncategorised",
            "now": signs(before.get(category)),
            "next": signs(after.get(category)),
            "wanted": after[category].negatives_wanted(0.5) if category in after else 0,
        }
        for category in sorted(set(before) | set(after))
    ]
    return {"snapshot": snapshots[-1].id if snapshots else None, "round": newest, "categories": rows}


def signs(one: CategoryBalance | None) -> dict[str, int]:
    """Positives and negatives, zero for an absent category."""
    return {"positive": one.positive if one else 0, "negative": one.negative if one else 0}
