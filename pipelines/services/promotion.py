"""Promote a detector and roll back."""

from dataengine.errors import ConfigRefused, Conflict
from dataengine.records import AuditEvent, DetectorVersion
from pipelines.detectors import yes_no_question
from pipelines.detectors.promotion import objections_to
from storage.workspace import Workspace


def promote_by_hand(
    workspace: Workspace, detector_id: str, actor: str, reason: str, seen: str | None
) -> DetectorVersion:
    """Make a detector champion as a person asks, in one transaction with its audit event.

    `seen` is the champion that the person had before their eyes. Raises `NotFound`; `Conflict` when somebody
    else changed the champion meanwhile; `ConfigRefused` where no benchmark is frozen though there is a
    champion to replace, where the figures speak against it and no reason is given, and for a detector that
    gives no maps.
    """
    with workspace.catalog() as catalog:
        champion, candidate = catalog.detectors.champion(), catalog.detectors.get(detector_id)
        if (champion.id if champion else None) != seen:
            raise Conflict(
                f"somebody else made {champion.name if champion else 'no detector'} champion meanwhile, so "
                "nothing was changed; look at its figures, then decide again"
            )
        if yes_no_question.is_question(candidate):
            raise ConfigRefused(
                f"{candidate.name} says whether an image is broken and not where, so it cannot be champion"
            )
        if champion is not None:
            catalog.benchmarks.require_frozen()
        objections = objections_to(candidate, champion)
        if objections and not reason.strip():
            raise ConfigRefused(f"say why this detector should be promoted all the same: {objections[0]}")
        why = reason.strip() or "better on validation"
        promoted = catalog.detectors.promote(detector_id, actor, why)
        if objections:
            details = {"reasons": objections, "reason": why}
            catalog.audit.add(
                AuditEvent(
                    actor=actor, action="detector.promote.overruled", subject=detector_id, details=details
                )
            )
        catalog.commit()
    return promoted


def roll_back_by_hand(workspace: Workspace, actor: str, seen: str | None) -> DetectorVersion:
    """Make the previous champion champion again. Raises `Conflict` as `promote_by_hand`, and without one."""
    with workspace.catalog() as catalog:
        champion = catalog.detectors.champion()
        if (champion.id if champion else None) != seen:
            raise Conflict("somebody else changed the champion meanwhile; look again, then decide")
        restored = catalog.detectors.rollback(actor)
        catalog.commit()
    return restored
