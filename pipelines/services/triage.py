"""Triage: many images at a glance, confirmed as clean or queued for drawing, and taken back."""

from collections.abc import Iterable, Sequence

from dataengine.errors import Conflict, InputRefused
from dataengine.records import Label
from pipelines.services.annotation import mark_done, was_done
from storage.catalog import Catalog
from storage.workspace import Workspace

SECONDS_EACH = 0.5
"""Least time on the screen for each image of a batch."""
TRIAGE_NOTE = "triage"


def confirm_triage(
    workspace: Workspace, clean: Iterable[str], flawed: Iterable[str], person: str, seconds: float
) -> tuple[int, int, list[str]]:
    """Label the images of the clean leases as such, each with its share of the seconds, and queue the flawed
    ones for drawing; a lease in both counts as flawed. Returns how many were labelled clean, how many were
    queued, and the leases that were lost, which change nothing. The same again returns the same.

    Raises `InputRefused` where the time cannot have sufficed to see every image.
    """
    to_draw = sorted(set(flawed))
    to_label = sorted(set(clean) - set(to_draw))
    count = len(to_draw) + len(to_label)
    if seconds < SECONDS_EACH * count:
        raise InputRefused(
            f"{count} images were confirmed after {seconds:.1f} s; each must be on the screen for at least "
            f"{SECONDS_EACH} s, so look at them again"
        )
    share = seconds / max(1, count)
    with workspace.catalog() as catalog:
        not_queued = [lease for lease in to_draw if not queue_for_drawing(catalog, lease, person)]
        not_labelled = [lease for lease in to_label if not label_clean(catalog, lease, person, share)]
        catalog.commit()
    labelled, queued = len(to_label) - len(not_labelled), len(to_draw) - len(not_queued)
    return labelled, queued, not_queued + not_labelled


def label_clean(catalog: Catalog, lease_id: str, person: str, seconds: float) -> bool:
    """Label the leased image as clean; False when the lease was lost or its image answered meanwhile."""
    lease = catalog.queue.lease(lease_id)
    if lease is None:
        return was_done(catalog, "clean", lease_id, person)
    image = catalog.images.get(lease.image_id)
    sender = catalog.queue.sent_by(image.id, lease.round_id)
    label = Label(
        image_id=image.id,
        author=person,
        height=image.height,
        width=image.width,
        clean=True,
        lead_seconds=seconds,
        detector_id=sender or catalog.detectors.champion_id(),
        note=TRIAGE_NOTE,
    )
    try:
        catalog.labels.submit(label, lease_id, 0)
    except Conflict:
        return was_done(catalog, "clean", lease_id, person)
    mark_done(catalog, "clean", lease, person)
    return True


def queue_for_drawing(catalog: Catalog, lease_id: str, person: str) -> bool:
    """Queue the leased image for drawing; False when the lease was lost."""
    lease = catalog.queue.lease(lease_id)
    try:
        catalog.queue.request_drawing(lease_id, person)
    except Conflict:
        return was_done(catalog, "flawed", lease_id, person)
    if lease is not None:
        mark_done(catalog, "flawed", lease, person)
    return True


def undo_triage(workspace: Workspace, leases: Sequence[str], person: str) -> tuple[int, list[str]]:
    """Take back what this person decided on these leases: labels that triage made are deleted, drawings that
    it asked for are no longer asked for, and the images wait for triage again.

    Returns how many were taken back, and the leases of those that stay because a curator has reviewed the
    label, or it was changed, or somebody draws the image already. The same again changes nothing.
    """
    undone, kept = 0, list[str]()
    with workspace.catalog() as catalog:
        for lease_id in dict.fromkeys(leases):
            done = _undo_clean(catalog, lease_id, person) or _undo_flawed(catalog, lease_id, person)
            undone += done
            kept += [] if done else [lease_id]
        catalog.commit()
    return undone, kept


def _undo_clean(catalog: Catalog, lease_id: str, person: str) -> bool:
    key = catalog.idempotency_keys.find(person, f"clean {lease_id}", "clean")
    if key is None:
        return False
    label = catalog.labels.latest(key.image_id, person)
    reviewed = any(one.author == person for one in catalog.reviews.of_image(key.image_id))
    if label is None or label.note != TRIAGE_NOTE or reviewed or label.round_id is None:
        return False
    catalog.labels.withdraw(label)
    catalog.queue.take_back_answer(label.image_id, label.round_id, person)
    return True


def _undo_flawed(catalog: Catalog, lease_id: str, person: str) -> bool:
    key = catalog.idempotency_keys.find(person, f"flawed {lease_id}", "flawed")
    return key is not None and catalog.queue.cancel_drawing(key.image_id, person)
