"""Annotators' answers: labels, skips, drafts."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence

from pydantic import Field

from dataengine.defects import checked_reason, marked_regions
from dataengine.errors import Conflict, MaskRefused, NotFound
from dataengine.masks import PackedMap
from dataengine.records import (
    AuditEvent,
    Comment,
    DetectorVersion,
    Draft,
    IdempotencyKey,
    Image,
    Label,
    Lease,
    Region,
    now,
)
from pipelines.services.gold import GOLD_ROUND, due_gold, score_gold
from pipelines.services.schemas import (
    Line,
    PackedMapText,
    RegionBody,
    RegionsBody,
    RequestBody,
    Seconds,
    Short,
)
from storage.catalog import Catalog
from storage.workspace import Workspace

MAX_DRAFTS = 200
"""Of one person; more are unfinished work that nobody comes back to."""
TOUR_FINISHED = "annotate.tour"
"""The audit event of an account that has seen the practice images."""
LOCKED = frozenset({"accepted", "corrected"})


class Annotation(RequestBody):
    """An annotator's answer: a label map, or that the image is clean."""

    lease: Short | None = None
    """The lease of the image. None to change one's own earlier answer."""
    image: Short
    revision: int = Field(ge=0, le=1_000_000)
    """The revision that this one was drawn over, 0 for none."""
    clean: bool = False
    label_map: PackedMapText | None = None
    """Base64 of zlib over runs (LEB128 length, class), in row order, at the image's own size."""
    regions: RegionsBody | None = None
    """Reason and importance of single regions, each of which the label map marks. Left out, those that the
    draft holds, or the answer that is changed, and that the label map still marks."""
    seconds: Seconds = 0.0
    """Time on task without idle time."""
    note: Line = ""
    simulated: bool = False
    key: Short | None = None
    """Idempotency key: the same request under the same key counts once."""


def submit_answer(workspace: Workspace, answer: Annotation, author: str) -> Label:
    """Store the answer; the same request again, later or at the same time, returns the stored label.

    Raises `MaskRefused`, `NotFound`, or `Conflict` for leases, revisions and keys that do not fit.
    """
    try:
        return _submit(workspace, answer, author)
    except Conflict:
        # On PostgreSQL the same request may have been stored after we had looked for it: now it shows.
        return _submit(workspace, answer, author)


def _submit(workspace: Workspace, answer: Annotation, author: str) -> Label:
    with workspace.catalog(read_only=True) as catalog:
        image, classes = catalog.images.get(answer.image), len(catalog.classes.names())
        shown = shown_detector(catalog, answer, author)
    packed = packed_map_of(answer, image, classes)
    if answer.regions is None:
        regions = regions_kept(workspace, image.id, author, packed)
    else:
        regions = regions_in(answer.regions, image)
        require_marked(regions, packed)
    blob = None if packed is None else workspace.blobs.put(packed.data)
    unsaid = {"regions"} if answer.regions is None else set()
    told = answer.model_dump_json(exclude={"lease", "seconds"} | unsaid)
    digest = hashlib.sha256(told.encode()).hexdigest()[:24]
    with workspace.catalog() as catalog:
        if answer.key and (known := catalog.idempotency_keys.find(author, answer.key, digest)):
            return next(one for one in catalog.labels.history(image.id) if is_that(one, known))
        if answer.lease is None:
            require_editable(catalog, image.id, author)
        label = Label(
            image_id=image.id,
            author=author,
            height=image.height,
            width=image.width,
            label_map=blob,
            clean=answer.clean,
            source="simulated" if answer.simulated else "person",
            lead_seconds=answer.seconds,
            detector_id=shown,
            note=answer.note,
            regions=regions,
            round_id=round_before(catalog, image.id, author) if answer.lease is None else None,
        )
        stored = catalog.labels.submit(label, answer.lease, answer.revision)
        if blob is not None and packed is not None:
            catalog.label_map_statistics.add_many([(blob, packed)])
        if answer.key:
            catalog.idempotency_keys.add(
                IdempotencyKey(
                    author=author,
                    key=answer.key,
                    digest=digest,
                    image_id=image.id,
                    revision=stored.revision,
                )
            )
        catalog.drafts.discard(image.id, author)
        if answer.lease is not None and stored.round_id == GOLD_ROUND:
            with contextlib.suppress(NotFound):  # the image may no longer be gold
                score_gold(workspace, catalog, stored, packed)
        catalog.commit()
    return stored


def shown_detector(catalog: Catalog, answer: Annotation, author: str) -> str | None:
    """The detector whose suggestions the answer was drawn over; the champion where there were none."""
    if answer.lease is None:
        before = catalog.labels.latest(answer.image, author)
        sender = before.detector_id if before else None
    else:
        lease = catalog.queue.lease(answer.lease)
        sender = catalog.queue.sent_by(answer.image, lease.round_id) if lease else None
    found = suggesting_detector(catalog, answer.image, sender)
    return found.id if found else catalog.detectors.champion_id()


def suggesting_detector(catalog: Catalog, image_id: str, sender: str | None) -> DetectorVersion | None:
    """The detector whose map of the image annotators see: the one that sent the image to them, also after
    another one was promoted, else the champion, else the newest that has a map of it. None where none has."""
    mapped = catalog.predictions.detectors_of(image_id)
    for detector_id in (sender, catalog.detectors.champion_id()):
        if detector_id in mapped:
            return catalog.detectors.get(detector_id)
    found = [one for one in map(catalog.detectors.get, mapped) if one.removed is None]
    return max(found, key=lambda one: (one.created, one.id), default=None)


def stand_in_note(catalog: Catalog, detector: DetectorVersion, sender: str | None) -> str:
    """What to say where the detector stands in for a champion that has no map of the image; else ""."""
    champion = catalog.detectors.champion_id()
    if champion is None or detector.id in (champion, sender):
        return ""
    return f"The champion, {catalog.detectors.get(champion).name}, has not looked at this image yet."


def earlier_answer(catalog: Catalog, image_id: str, author: str) -> tuple[Label, str] | None:
    """The person's newest label of the image, and the curator's note where it was returned to them, else "";
    None where they have not labelled it."""
    mine = catalog.labels.latest(image_id, author)
    if mine is None:
        return None
    verdicts = [
        one
        for one in catalog.reviews.of_image(image_id)
        if (one.author, one.revision) == (author, mine.revision)
    ]
    returned = bool(verdicts) and verdicts[-1].verdict == "rejected"
    return mine, verdicts[-1].note if returned else ""


def is_that(label: Label, key: IdempotencyKey) -> bool:
    """Whether the label is the one that was stored under the key."""
    return label.author == key.author and label.revision == key.revision


def round_before(catalog: Catalog, image_id: str, author: str) -> str | None:
    """The round of the person's newest answer, which a correction stays in."""
    before = catalog.labels.latest(image_id, author)
    return before.round_id if before else None


def require_editable(catalog: Catalog, image_id: str, author: str) -> Label:
    """The person's own newest answer, if it may still be changed. Raises `Conflict`."""
    mine = catalog.labels.latest(image_id, author)
    if mine is None:
        raise Conflict("you have not labelled this image, so there is nothing to change")
    verdict = catalog.reviews.verdicts([image_id]).get((image_id, author, mine.revision))
    if verdict in LOCKED:
        raise Conflict(f"a curator has {verdict} this label, so it can no longer be changed")
    return mine


def packed_map_of(answer: Annotation, image: Image, classes: int) -> PackedMap | None:
    """The answer's label map, or None for a clean image. Raises `MaskRefused`."""
    if answer.label_map is None:
        if answer.clean:
            return None
        raise MaskRefused("the answer has no label map; send one, or mark the image as clean")
    packed = PackedMap.from_base64(answer.label_map, image.height, image.width, classes)
    if bool(packed.areas) == answer.clean:
        raise MaskRefused("the answer is contradictory: an image is clean exactly when nothing is painted")
    return None if answer.clean else packed


def regions_in(bodies: Sequence[RegionBody], image: Image) -> tuple[Region, ...]:
    """The regions of a request. Raises `MaskRefused` for a box that is empty or outside the image."""
    for body in bodies:
        left, top, right, bottom = body.box
        if not (left < right <= image.width and top < bottom <= image.height):
            raise MaskRefused(
                f"the box {list(body.box)} of a region is empty or outside the image of "
                f"{image.width}×{image.height} pixels; it is left, top, right, bottom"
            )
    return tuple(
        Region(body.value, body.box, checked_reason(body.reason), body.importance) for body in bodies
    )


def regions_kept(
    workspace: Workspace, image_id: str, author: str, packed: PackedMap | None
) -> tuple[Region, ...]:
    """What the person said of regions before, in the draft or else the earlier answer, where the label map
    still marks them: for pages and programs that do not know regions."""
    with workspace.catalog(read_only=True) as catalog:
        draft = catalog.drafts.get(image_id, author)
        earlier = [one for one in catalog.labels.history(image_id) if one.author == author]
    known = draft.regions if draft else earlier[-1].regions if earlier else ()
    if not known or packed is None:
        return ()
    return tuple(marked_regions(known, packed.unpack()))


def require_marked(regions: Sequence[Region], packed: PackedMap | None) -> None:
    """Raise `MaskRefused` for a region that the label map does not mark."""
    if not regions:
        return
    marked = () if packed is None else marked_regions(regions, packed.unpack())
    for region in regions:
        if region not in marked:
            raise MaskRefused(
                f"the label map has no pixel of class {region.value} in the box {list(region.box)} of a "
                "region; leave out what is said of regions that are not marked"
            )


def save_draft(
    workspace: Workspace,
    image_id: str,
    text: str,
    seconds: float,
    author: str,
    regions: Sequence[RegionBody] | None = None,
) -> None:
    """Keep an unfinished label map, with the draft's former regions where none are given. Raises
    `MaskRefused`, `NotFound`, or `Conflict` as `require_drawable`."""
    with workspace.catalog(read_only=True) as catalog:
        image, classes = catalog.images.get(image_id), len(catalog.classes.names())
        require_drawable(catalog, image.id, author)
    packed = PackedMap.from_base64(text, image.height, image.width, classes)
    with workspace.catalog() as catalog:
        former = catalog.drafts.get(image.id, author) if regions is None else None
        kept = former.regions if former else ()
        catalog.drafts.save(
            Draft(
                image_id=image.id,
                author=author,
                label_map=packed.data,
                regions=kept if regions is None else regions_in(regions, image),
                seconds=seconds,
            )
        )
        catalog.commit()


def require_drawable(catalog: Catalog, image_id: str, author: str) -> None:
    """Raise `Conflict` unless the person leases the image or may change an own answer to it.

    A lease that expired still counts, as it does for a late answer, so that nobody who comes back after a
    pause loses work; one that ended with an answer or a skip does not.
    """
    if catalog.drafts.count_of(author, besides=image_id) >= MAX_DRAFTS:
        raise Conflict(
            f"you have {MAX_DRAFTS} unfinished drafts; submit or skip some of these images before you begin "
            "another"
        )
    if catalog.queue.was_leased(image_id, author):
        return
    if catalog.labels.latest(image_id, author) is None:
        raise Conflict("this image is not leased to you, so its draft is not kept; take the next image")
    require_editable(catalog, image_id, author)


def skip_image(workspace: Workspace, lease_id: str, annotator: str, reason: str) -> None:
    """Decline a leased image, so that another annotator gets it; its draft is deleted.

    Repeating the request changes nothing. Raises `Conflict` if the lease was lost.
    """
    with workspace.catalog() as catalog:
        lease = catalog.queue.lease(lease_id)
        try:
            catalog.queue.skip(lease_id, annotator, reason)
        except Conflict:
            if was_done(catalog, "skip", lease_id, annotator):
                return
            raise
        if lease is not None:
            catalog.drafts.discard(lease.image_id, annotator)
            mark_done(catalog, "skip", lease, annotator)
        catalog.commit()


def mark_done(catalog: Catalog, action: str, lease: Lease, person: str) -> None:
    """Remember what ended a lease, so that the same request again is known to be done.

    A lease ends once, so its id serves as the idempotency key.
    """
    key = IdempotencyKey(
        author=person, key=f"{action} {lease.id}", digest=action, image_id=lease.image_id, revision=0
    )
    catalog.idempotency_keys.add(key)


def was_done(catalog: Catalog, action: str, lease_id: str, person: str) -> bool:
    """Whether this action by this person ended the lease."""
    return catalog.idempotency_keys.find(person, f"{action} {lease_id}", action) is not None


def comment_on(workspace: Workspace, image_id: str, author: str, text: str) -> Comment:
    """Store a comment on an image. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        catalog.images.get(image_id)
        made = catalog.comments.add(image_id, author, text)
        catalog.commit()
    return made


def comments_for(catalog: Catalog, image_id: str, person: str, curating: bool) -> list[Comment]:
    """An image's comments that this person may read, oldest first; curators may read all.

    Others read what they wrote, and the notes with which their own labels were returned; the comments of
    others once they have given an own opinion, so that nobody's is led, but never a note to somebody else.
    """
    found = catalog.comments.of_image(image_id)
    if curating or not found:
        return found
    to = {
        (one.reviewer, return_comment(one.author, one.note)): one.author
        for one in catalog.reviews.of_image(image_id)
        if one.verdict == "rejected"
    }
    answered = catalog.labels.latest(image_id, person) is not None
    return [
        one
        for one in found
        if one.author == person or to.get((one.author, one.text), person if answered else "") == person
    ]


def return_comment(author: str, note: str) -> str:
    """The comment that tells a label's author why it was returned."""
    return f"Returned to {author}: {note}"


def renew_leases(
    workspace: Workspace, leases: Iterable[str], annotator: str, lease_seconds: float
) -> list[str]:
    """Extend leases from now on; returns those that were lost."""
    lost, moment = [], now()
    with workspace.catalog() as catalog:
        for lease in dict.fromkeys(leases):
            try:
                catalog.queue.renew(lease, annotator, moment + lease_seconds, moment)
            except Conflict:
                lost.append(lease)
        catalog.commit()
    return lost


def release_lease(workspace: Workspace, lease_id: str, annotator: str) -> bool:
    """Give an image back unanswered; False when the lease was lost.

    One that the person opened for editing leaves the queue unless a draft of theirs is stored.
    """
    with workspace.catalog() as catalog:
        lease = catalog.queue.lease(lease_id)
        released = catalog.queue.release(lease_id, annotator)
        if released and lease is not None and catalog.drafts.get(lease.image_id, annotator) is None:
            catalog.assignees.close_editing(lease, annotator)
        catalog.commit()
    return released


def take_lease(
    catalog: Catalog, annotator: str, lease_seconds: float, besides: set[str], prefer: str | None = None
) -> Lease | None:
    """A lease of an image that is not among `besides`: one held already, renewed, or else the next free one.

    The preferred image comes first where the person holds it or it is free. None when nothing waits.
    """
    moment = now()
    held = [lease for lease in catalog.queue.held(annotator, moment) if lease.kind == "draw"]
    held = [lease for lease in held if lease.image_id not in besides]
    for lease in sorted(held, key=lambda lease: (lease.image_id != prefer, lease.expires)):
        if prefer in (None, lease.image_id):
            return catalog.queue.renew(lease.id, annotator, moment + lease_seconds, moment)
    if prefer is not None:
        found = catalog.queue.next(annotator, moment, lease_seconds, image_id=prefer)
        return found or take_lease(catalog, annotator, lease_seconds, besides)
    gold = due_gold(catalog, annotator, besides)
    if gold is not None:
        return catalog.queue.lease_without_item(gold, GOLD_ROUND, annotator, moment + lease_seconds)
    return catalog.queue.next(annotator, moment, lease_seconds)


def tour_is_due(catalog: Catalog, person: str) -> bool:
    """Whether this account has neither finished nor left the practice images."""
    return not catalog.audit.count(TOUR_FINISHED, person, since=0.0)


def finish_tour(workspace: Workspace, person: str) -> None:
    """Remember that the account needs no practice any more; the same again changes nothing."""
    with workspace.catalog() as catalog:
        if tour_is_due(catalog, person):
            catalog.audit.add(AuditEvent(actor=person, action=TOUR_FINISHED, subject=person))
            catalog.commit()
