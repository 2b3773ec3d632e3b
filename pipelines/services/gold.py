"""Gold images: images with a known answer, shown to annotators among the others."""

import hashlib
from typing import Any

import numpy as np

from dataengine.curation.agreement import iou
from dataengine.errors import Conflict, NotFound
from dataengine.masks import LabelMap, PackedMap, unpack_label_map
from dataengine.records import INJECTED, AuditEvent, GoldImage, GoldScore, Label
from storage.catalog import Catalog
from storage.workspace import Workspace

GOLD_ROUND = "gold"
GOLD_EVERY = 12
"""One image in this many is gold, until a person has seen all gold images."""


def choose_gold(workspace: Workspace, image_id: str, author: str, actor: str) -> None:
    """Make an image gold: the author's newest label of it is the right answer.

    Raises `NotFound` without such a label, `Conflict` for one that was returned or replaced.
    """
    with workspace.catalog() as catalog:
        known = catalog.labels.latest(image_id, author)
        if known is not None and known.source == INJECTED:
            raise Conflict("that artifact was injected; only a person's or an imported label can be gold")
        if known is None:
            raise NotFound(f"{author!r} has not labelled image {image_id!r}")
        verdicts = catalog.reviews.verdicts([image_id])
        if verdicts.get((image_id, author, known.revision)) in ("rejected", "corrected"):
            raise Conflict("that label was returned or replaced; only a label that counts can be gold")
        catalog.gold.choose(
            GoldImage(image_id=known.image_id, label_map=known.label_map, clean=known.clean, chosen_by=actor)
        )
        catalog.audit.add(AuditEvent(actor=actor, action="gold.choose", subject=known.image_id))
        catalog.commit()


def drop_gold(workspace: Workspace, image_id: str, actor: str) -> bool:
    """Make it an ordinary image again; False if it was not gold."""
    with workspace.catalog() as catalog:
        dropped = catalog.gold.drop(image_id)
        if dropped:
            catalog.audit.add(AuditEvent(actor=actor, action="gold.drop", subject=image_id))
        catalog.commit()
    return bool(dropped)


def due_gold(catalog: Catalog, annotator: str, besides: set[str]) -> str | None:
    """The gold image that this person should see now, if one is due: rarely, and at unpredictable places."""
    if not (unseen := catalog.gold.unseen(annotator)) or unseen.image_id in besides:
        return None
    answered = catalog.labels.count(annotator) + len(besides)
    place = int(hashlib.sha256(f"{annotator} {answered // GOLD_EVERY}".encode()).hexdigest()[:8], 16)
    return unseen.image_id if answered % GOLD_EVERY == place % GOLD_EVERY else None


def score_gold(workspace: Workspace, catalog: Catalog, label: Label, given: PackedMap | None) -> None:
    """Compare an answer with the known one, for curators to see."""
    gold = catalog.gold.get(label.image_id)
    size = label.height, label.width
    right: LabelMap = np.zeros(size, np.uint8)
    if gold.label_map is not None:
        right = unpack_label_map(workspace.blobs.get(gold.label_map), *size)
    mine = np.zeros(size, np.uint8) if given is None else given.unpack()
    both = (mine > 0) & (right > 0)
    right_class = float((mine == right)[both].mean()) if both.any() else 1.0
    score = GoldScore(
        image_id=label.image_id,
        author=label.author,
        revision=label.revision,
        iou=iou(mine > 0, right > 0),
        right_class=right_class,
    )
    catalog.gold.score(score)


def gold_report(workspace: Workspace) -> dict[str, Any]:
    """Scores of annotators on gold images: mean IoU and share of correct classes."""
    with workspace.catalog(read_only=True) as catalog:
        gold, scores = catalog.gold.list(), catalog.gold.scores()
    people = sorted({score.author for score in scores})
    return {
        "images": [{"id": one.image_id, "clean": one.clean, "by": one.chosen_by} for one in gold],
        "people": [
            {
                "name": name,
                "answered": len(mine),
                "iou": float(np.mean([score.iou for score in mine])),
                "right_class": float(np.mean([score.right_class for score in mine])),
                "lowest": min(score.iou for score in mine),
            }
            for name in people
            for mine in [[score for score in scores if score.author == name]]
        ],
    }
