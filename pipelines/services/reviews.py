"""Curators' verdicts on labels."""

from typing import Literal

from pydantic import Field

from dataengine.errors import NotFound
from dataengine.records import AuditEvent, Review
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog


class Which(RequestBody):
    """One revision of one person's label."""

    image: Name
    author: Name
    revision: int = Field(ge=1, le=1_000_000)


class Verdict(RequestBody):
    """A verdict on one label or many; `alone` also replaces other people's labels of the same image."""

    labels: list[Which] = Field(min_length=1, max_length=500)
    verdict: Literal["accepted", "rejected"]
    note: str = Field(default="", max_length=2000)
    alone: bool = False


def judge(catalog: Catalog, which: Which, body: Verdict, reviewer: str) -> None:
    """One verdict with its consequences. Raises `NotFound` for a label that does not exist."""
    newest = {label.author: label for label in catalog.labels.of_images([which.image])}
    label = newest.get(which.author)
    if label is None or label.revision != which.revision:
        raise NotFound(
            f"{which.author!r} has no newest revision {which.revision} of image {which.image!r}; it changed "
            "meanwhile, so load the list again"
        )
    decide_on(catalog, which, reviewer, body.verdict, body.note)
    if body.verdict == "rejected":
        catalog.queue.give_back(label, body.note)
        catalog.comments.add(which.image, reviewer, f"Returned to {which.author}: {body.note}")
    elif body.alone:
        for other in newest.values():
            if other.author != which.author:
                replaced = Which(image=which.image, author=other.author, revision=other.revision)
                decide_on(catalog, replaced, reviewer, "corrected", f"replaced by {which.author}'s")


def decide_on(
    catalog: Catalog,
    which: Which,
    reviewer: str,
    verdict: Literal["accepted", "rejected", "corrected"],
    note: str,
) -> None:
    """Keep the verdict on a revision, and who gave it when in the audit trail."""
    catalog.reviews.decide(
        Review(
            image_id=which.image,
            author=which.author,
            revision=which.revision,
            reviewer=reviewer,
            verdict=verdict,
            note=note,
        )
    )
    details = {"author": which.author, "revision": which.revision, "verdict": verdict, "note": note}
    catalog.audit.add(AuditEvent(actor=reviewer, action="label.review", subject=which.image, details=details))
