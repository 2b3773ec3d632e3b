"""What a curator does to chosen images: tag, send, assign, move to a split, erase."""

from typing import Literal

from pydantic import Field

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import AuditEvent, count_of
from pipelines.selections.config import ImageSelection
from pipelines.services.categories import Sending, queue_images, refuse_unknown_people
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog
from storage.maintenance import erase
from storage.maintenance.erase import Erased
from storage.queries.categories import not_queued
from storage.queries.images import cards_of, conditions_of
from storage.queries.selections import (
    Conditions,
    active,
    by_id,
    count_of_selection,
    groups_of,
    ids_of_selection,
    in_groups,
    reserved_or_trained_on,
    waiting_items,
)
from storage.repositories.rows import chunks
from storage.workspace import Workspace

LONGEST_TAG = 64
MOST_ERASED = 5_000
"""Images that one request erases at most: the database is rewritten at its end."""


class OnImages(RequestBody):
    """Something to do to chosen images."""

    chosen: ImageSelection


class TagChange(OnImages):
    """Tags to add and to remove."""

    add: list[str] = Field(default_factory=list, max_length=20)
    remove: list[str] = Field(default_factory=list, max_length=20)


class SplitChange(OnImages):
    """The split that images move to."""

    split: Literal["train", "validation"]


class SendImages(OnImages, Sending):
    """Images that go to annotators."""


class AssignImages(OnImages):
    """Who may take the images that wait; everyone if nobody is named."""

    people: list[Name] = Field(default_factory=list, max_length=200)


class EraseImages(OnImages):
    """Images to erase, and how many the person was shown."""

    expected: int = Field(ge=1)


def chosen_images(catalog: Catalog, chosen: ImageSelection) -> tuple[Conditions, int]:
    """The conditions of the chosen images, and their number. Raises `NotFound` when there is none, or when
    one of the ids is unknown."""
    if chosen.images is not None:
        conditions: Conditions = conditions_of(catalog, chosen.images.filter())
    else:
        conditions = [by_id(chosen.ids)]
    count = count_of_selection(catalog, conditions)
    if not count:
        raise NotFound("no image matches this selection any more; reload the page")
    if missing := len(set(chosen.ids)) - count if chosen.ids else 0:
        raise NotFound(f"{count_of(missing, 'selected image')} no longer exist; reload the page")
    return conditions, count


def checked_tag(text: str) -> str:
    """A tag as it is stored. Raises `InputRefused` for an empty or long one."""
    tag = " ".join(text.split())
    if not tag or not tag.isprintable():
        raise InputRefused("a tag needs at least one visible character; write a short word")
    if len(tag) > LONGEST_TAG:
        raise InputRefused(
            f"a tag has at most {LONGEST_TAG} characters, and this one has {len(tag):,}; write a short word"
        )
    return tag


def tag_images(workspace: Workspace, body: TagChange, actor: str) -> dict[str, int]:
    """Add tags to the chosen images, and remove others; counts both. Raises `InputRefused`, `NotFound`."""
    add, remove = (list(dict.fromkeys(map(checked_tag, tags))) for tags in (body.add, body.remove))
    if not (add or remove):
        raise InputRefused("name a tag to add or to remove")
    if both := set(add) & set(remove):
        raise InputRefused(f"{min(both)!r} is to be added and removed at once; choose one of the two")
    with workspace.catalog() as catalog:
        conditions, count = chosen_images(catalog, body.chosen)
        # A filter by the tag itself matches other images afterwards, so they are named before.
        if body.chosen.images is not None and body.chosen.images.tag:
            ids = ids_of_selection(catalog, conditions)
            parts: list[Conditions] = [[by_id(chunk)] for chunk in chunks(ids)]
        else:
            parts = [conditions]
        added = sum(catalog.tags.add(part, add) for part in parts)
        removed = sum(catalog.tags.remove(part, remove) for part in parts)
        details = {"images": count, "add": add, "remove": remove}
        catalog.audit.add(AuditEvent(actor=actor, action="images.tag", subject="images", details=details))
        catalog.commit()
    return {"images": count, "added": added, "removed": removed}


def send_images(workspace: Workspace, body: SendImages, actor: str, round_id: str = "") -> dict[str, int]:
    """Queue the chosen images for annotators, at most `limit`; counts those queued and those left out, which
    are labelled or queued already, part of a benchmark, refused, or injected. Raises `InputRefused`,
    `NotFound`.
    """
    with workspace.catalog() as catalog:
        conditions, count = chosen_images(catalog, body.chosen)
        images = queueable_images(catalog, conditions, body.limit)
        sent = queue_images(catalog, images, body, actor, {"selected": count}, round_id)
        catalog.commit()
    return {"selected": count, "sent": sent, "left_out": count - sent}


def queueable_images(
    catalog: Catalog, conditions: Conditions, limit: int
) -> list[tuple[str, float | None, str | None]]:
    """Those of the images that may go to annotators, each with its highest confidence and the detector whose
    that is."""
    ids = ids_of_selection(catalog, [*conditions, active(), *not_queued()], limit)
    cards = [card for chunk in chunks(ids) for card in cards_of(catalog, chunk)]
    return [(card.id, card.max, card.detector_id) for card in cards]


def assign_images(workspace: Workspace, body: AssignImages, actor: str) -> dict[str, int]:
    """Assign the chosen images that wait for annotators to these people alone. Raises `InputRefused`,
    `NotFound`, `Conflict` when none of them waits."""
    people = sorted(set(body.people))
    with workspace.catalog() as catalog:
        refuse_unknown_people(catalog, people)
        conditions, count = chosen_images(catalog, body.chosen)
        items = waiting_items(catalog, conditions)
        if not items:
            raise Conflict("none of these images waits for annotators; send them first")
        catalog.assignees.replace(items, people)
        assigned = len({image_id for image_id, _ in items})
        details = {"images": assigned, "people": people}
        catalog.audit.add(AuditEvent(actor=actor, action="queue.assign", subject="images", details=details))
        catalog.commit()
    return {"selected": count, "assigned": assigned}


def split_images(workspace: Workspace, body: SplitChange, actor: str) -> dict[str, int]:
    """Move the chosen images to a split, together with all images of their groups, which show the same.

    Groups with an image of a benchmark or of a training set stay where they are, and are counted. Raises
    `NotFound`.
    """
    with workspace.catalog() as catalog:
        conditions, count = chosen_images(catalog, body.chosen)
        groups = groups_of(catalog, conditions)
        held = {
            group
            for chunk in chunks(sorted(groups))
            for group in groups_of(catalog, [in_groups(chunk), reserved_or_trained_on()])
        }
        moved = sum(
            catalog.images.set_split([in_groups(chunk)], body.split)
            for chunk in chunks(sorted(groups - held))
        )
        ungrouped = [*conditions, in_groups([""]), ~reserved_or_trained_on()]
        moved += catalog.images.set_split(ungrouped, body.split)
        kept = sum(
            count_of_selection(catalog, [*conditions, in_groups(chunk)]) for chunk in chunks(sorted(held))
        )
        kept += count_of_selection(catalog, [*conditions, in_groups([""]), reserved_or_trained_on()])
        details = {"images": moved, "split": body.split, "kept": kept}
        catalog.audit.add(AuditEvent(actor=actor, action="images.split", subject="images", details=details))
        catalog.commit()
    return {"selected": count, "moved": moved, "kept": kept}


def erasure_of(workspace: Workspace, chosen: ImageSelection) -> Erased:
    """What an erasure of the chosen images would delete, and what would still hold something. Raises
    `NotFound`, `InputRefused`."""
    return erase.erase_images(workspace, _erasable(workspace, chosen), "", trial=True)


def erase_images(workspace: Workspace, body: EraseImages, actor: str) -> Erased:
    """Erase the chosen images. Raises `Conflict` if they are not as many as the person was shown."""
    ids = _erasable(workspace, body.chosen)
    if len(ids) != body.expected:
        raise Conflict(
            f"the selection now has {count_of(len(ids), 'image')}, not {body.expected:,}; look at it again"
        )
    return erase.erase_images(workspace, ids, actor)


def _erasable(workspace: Workspace, chosen: ImageSelection) -> list[str]:
    with workspace.catalog(read_only=True) as catalog:
        conditions, count = chosen_images(catalog, chosen)
        if count > MOST_ERASED:
            raise InputRefused(
                f"{count:,} images are selected, and at most {MOST_ERASED:,} are erased at once; narrow the "
                "selection"
            )
        return ids_of_selection(catalog, conditions)
