"""Curators' verdicts on labels."""

from typing import Literal

from pydantic import Field

from dataengine.errors import InputRefused, NotFound
from dataengine.records import AuditEvent, Draft, Review
from pipelines.services.annotation import return_comment
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog
from storage.workspace import Workspace


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


def review_labels(workspace: Workspace, body: Verdict, reviewer: str) -> None:
    """Record a verdict on labels with its consequences: all of them, or none; the same again changes nothing.

    Raises `InputRefused` for a return without a note, `NotFound` for a label that does not exist.
    """
    if body.verdict == "rejected" and not body.note.strip():
        raise InputRefused("describe in the note what the annotator should change")
    with workspace.catalog() as catalog:
        for which in sorted(body.labels, key=lambda one: (one.image, one.author)):
            catalog.labels.lock(which.image, which.author)
            if body.alone or not _stands(catalog, which, body, reviewer):
                _review(catalog, which, body, reviewer)
        catalog.commit()


def _stands(catalog: Catalog, which: Which, body: Verdict, reviewer: str) -> bool:
    """Whether the newest verdict on this revision is this very one."""
    given = [
        one
        for one in catalog.reviews.of_image(which.image)
        if (one.author, one.revision) == (which.author, which.revision)
    ]
    last = given[-1] if given else None
    return last is not None and (last.reviewer, last.verdict, last.note) == (
        reviewer,
        body.verdict,
        body.note,
    )


def _review(catalog: Catalog, which: Which, body: Verdict, reviewer: str) -> None:
    newest = {label.author: label for label in catalog.labels.of_images([which.image])}
    label = newest.get(which.author)
    if label is None or label.revision != which.revision:
        raise NotFound(
            f"revision {which.revision} of {which.author!r} is not the newest for image {which.image!r}; "
            "reload the list"
        )
    _decide(catalog, which, reviewer, body.verdict, body.note)
    if body.verdict == "rejected":
        catalog.queue.give_back(label, body.note)
        catalog.comments.add(which.image, reviewer, return_comment(which.author, body.note))
    elif body.alone:
        for other in newest.values():
            if other.author != which.author:
                replaced = Which(image=which.image, author=other.author, revision=other.revision)
                _decide(catalog, replaced, reviewer, "corrected", f"replaced by {which.author}'s")


def _decide(
    catalog: Catalog,
    which: Which,
    reviewer: str,
    verdict: Literal["accepted", "rejected", "corrected"],
    note: str,
) -> None:
    """Store the verdict on a revision, and an audit event."""
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


def open_for_drawing(workspace: Workspace, image_id: str, author: str | None, person: str) -> None:
    """Assign an image to a person, whose draft begins with the author's newest map if one is named.

    Raises `NotFound`.
    """
    with workspace.catalog() as catalog:
        image = catalog.images.get(image_id)
        label = catalog.labels.latest(image.id, author) if author else None
        if label is not None and label.label_map is not None and author != person:
            start = workspace.blobs.get(label.label_map)
            catalog.drafts.save(
                Draft(image_id=image.id, author=person, label_map=start, regions=label.regions)
            )
        catalog.assignees.lease_for_editing(image.id, person)
        catalog.commit()
