"""Detector versions: register, measure, calibrate, compare, promote, roll back, retire."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused, Conflict
from dataengine.licences import forbidden_by
from dataengine.records import (
    AuditEvent,
    DetectorVersion,
    Job,
    Report,
    no_report,
)
from pipelines.config import PromoteConfig
from pipelines.detectors import vlm_boxes, yes_no_question
from pipelines.detectors.promotion import FIGURES, regressions, sentence, verdicts
from pipelines.runtime.events import announce_promotion
from pipelines.selections.domain import foreign_note
from pipelines.services.jobs import request_job
from pipelines.services.names import plain_name
from storage.queries.domains import count_elsewhere
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.catalog import Catalog


OTHER_IMAGES = (
    "the champion {} was measured on another set of validation images ({} of them), so nothing can be "
    "compared; measure both on the same images"
)


def register_detector(workspace: Workspace, path: Path, name: str = "", licence: str = "") -> DetectorVersion:
    """Register a detector folder or a file of weights; a workspace's first detector becomes champion.

    Raises `InputRefused` for a missing path, `ModelRefused` for unsupported files.
    """
    from pipelines.detectors import register

    return register.register_detector(workspace, path, name, licence)


def register_boxes(
    workspace: Workspace, model: str, coordinates: str = "", name: str = ""
) -> DetectorVersion:
    """Register a vision-language model behind an endpoint's URL, which answers boxes, as a detector.

    Raises `ConfigRefused` for what is no endpoint or no such coordinates.
    """
    from dataengine.coordinates import coordinates_named
    from dataengine.curation.config import BoxesConfig
    from dataengine.curation.endpoints import Endpoint

    Endpoint(model)
    given = {"coordinates": coordinates} if coordinates and coordinates_named(coordinates) else {}
    config = BoxesConfig.model_validate({"model": model, **given})
    return vlm_boxes.get_or_register_detector(workspace, config, name)


def note_on_image(catalog: "Catalog", version: DetectorVersion, image_id: str) -> str:
    """What to say beside the detector's map of an image that it was not made for; "" for nothing."""
    foreign = count_elsewhere(catalog, [image_id]) if version.domain else 0
    return foreign_note(version, foreign, 1)


def licence_limits(version: DetectorVersion) -> str:
    """What the detector's licence forbids, such as "commercial use"; "" for nothing that its name says."""
    return forbidden_by(version.licence)


def leaderboard_rows(workspace: Workspace, split: str = "validation") -> list[dict[str, Any]]:
    """A row for each version from the stored figures of a split, the lowest MSE on validation first."""
    from pipelines.detectors.leaderboard import leaderboard

    return leaderboard(workspace, split)


def leaderboard_table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of text."""
    from pipelines.detectors.leaderboard import format_table

    return format_table(rows)


def measure_detectors(
    workspace: Workspace, round_id: str, device: str | None = None, report: Report = no_report
) -> int:
    """Measure every version on the round's labelled and real images, and store the figures; how many."""
    from pipelines.detectors.leaderboard import measure_all_versions
    from pipelines.runtime.context import real_context

    return measure_all_versions(real_context(workspace, device, report), round_id)


def calibrate_detector(
    workspace: Workspace,
    round_id: str,
    detector_id: str,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Fit a detector's temperature on validation and store it with both reliability diagrams."""
    from pipelines.detectors.leaderboard import calibrate_on_validation
    from pipelines.runtime.context import real_context

    return calibrate_on_validation(real_context(workspace, device, report), round_id, detector_id)


def objections_to(candidate: DetectorVersion, champion: DetectorVersion | None) -> list[str]:
    """Reasons against promoting: the objections of the promotion gate to the figures on validation.

    Figures taken together with the champion's count; else those that either has. Empty when there is no
    champion to compare with.
    """
    if champion is None:
        return []
    before = champion_figures(candidate, champion)
    if "validation" in candidate.metrics and "validation" not in before:
        return [f"the champion {champion.name} was never measured on validation, so nothing can be compared"]
    if not same_images(before, candidate.metrics, "validation"):
        return [OTHER_IMAGES.format(champion.name, before["validation"].get("images", "other"))]
    return regressions(PromoteConfig(), before, candidate.metrics, _compared(candidate, champion))


def verdicts_on(candidate: DetectorVersion, champion: DetectorVersion | None) -> list[dict[str, Any]]:
    """What the promotion gate sees on validation: by figure its name, both values, the interval of the change
    and the verdict. Empty without a champion to compare with."""
    if champion is None or champion.id == candidate.id:
        return []
    before = champion_figures(candidate, champion)
    if not same_images(before, candidate.metrics, "validation"):
        return []
    found = verdicts(before, candidate.metrics, _compared(candidate, champion))
    return [
        {"figure": name, "name": FIGURES[name], "text": sentence(name, one), **one}
        for name, one in found.items()
    ]


def promotion_verdicts(workspace: Workspace, detector_id: str) -> list[str]:
    """What the promotion gate sees in a candidate, as lines of text. Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        champion, candidate = catalog.detectors.champion(), catalog.detectors.get(detector_id)
    return [one["text"] for one in verdicts_on(candidate, champion)]


def verdict_texts(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The verdicts of a round's promotion, by figure, as lines of text."""
    return [sentence(name, one) for name, one in found.items()]


def champion_figures(candidate: DetectorVersion, champion: DetectorVersion) -> dict[str, Any]:
    """The champion's figures to set against a candidate's: those taken together with it, else its newest."""
    beside: dict[str, Any] = candidate.metrics.get("beside", {})
    return beside if beside.get("detector") == champion.id else champion.metrics


def same_images(one: Mapping[str, Any], other: Mapping[str, Any], split: str) -> bool:
    """Whether two detectors' figures of a split were measured on the same images; figures of older versions,
    which do not name their images, by their number."""
    first, second = one.get(split, {}), other.get(split, {})
    named = "set" in first and "set" in second
    return bool(
        first.get("set") == second.get("set") if named else first.get("images") == second.get("images")
    )


def _compared(candidate: DetectorVersion, champion: DetectorVersion) -> dict[str, Any] | None:
    """The paired comparison on validation with this champion, if it was measured."""
    beside = candidate.metrics.get("beside", {})
    if beside.get("detector") != champion.id:
        return None
    found: dict[str, Any] | None = beside.get("comparison", {}).get("validation")
    return found


def promote_detector(
    workspace: Workspace, detector_id: str, actor: str, reason: str, seen: str | None
) -> DetectorVersion:
    """Promote a detector by a person's decision, in one transaction with its audit event.

    `seen` is the champion that the person saw when they decided. Raises `NotFound`; `Conflict` when the
    champion was changed in the meantime; `ConfigRefused` where no benchmark is frozen though there is a
    champion to replace, where the figures speak against it and no reason is given, and for a detector that
    gives no maps.
    """
    with workspace.catalog() as catalog:
        champion, candidate = catalog.detectors.champion(), catalog.detectors.get(detector_id)
        if (champion.id if champion else None) != seen:
            raise Conflict(
                f"the champion is now {champion.name if champion else 'no detector'}, so nothing "
                "was changed; check its figures, then decide again"
            )
        if yes_no_question.is_question(candidate):
            raise ConfigRefused(
                f"{candidate.name} predicts whether an image is flawed, not where, so it cannot be champion"
            )
        if vlm_boxes.is_boxes(candidate):
            raise ConfigRefused(
                f"{candidate.name} has no weights that a round could train further, so it cannot be "
                "champion; name it as the detector of a diagnosis or comparison, or as diagnose.boxes of a "
                "round"
            )
        if champion is not None:
            catalog.benchmarks.require_frozen()
        objections = objections_to(candidate, champion)
        if objections and not reason.strip():
            raise ConfigRefused(f"give a reason to promote this detector anyway: {objections[0]}")
        why = reason.strip() or "better on validation"
        promoted = catalog.detectors.promote(detector_id, actor, why)
        announce_promotion(catalog, detector_id)
        if objections:
            details = {"reasons": objections, "reason": why}
            catalog.audit.add(
                AuditEvent(
                    actor=actor, action="detector.promote.overruled", subject=detector_id, details=details
                )
            )
        catalog.commit()
    return promoted


def roll_back_champion(workspace: Workspace, actor: str, seen: str | None) -> DetectorVersion:
    """Make the previous champion champion again. Raises `Conflict` as `promote_detector`, and without one."""
    with workspace.catalog() as catalog:
        champion = catalog.detectors.champion()
        if (champion.id if champion else None) != seen:
            raise Conflict("the champion was changed in the meantime; reload the page, then decide")
        restored = catalog.detectors.rollback(actor)
        catalog.commit()
    return restored


def rename_detector(workspace: Workspace, detector_id: str, name: str, actor: str) -> DetectorVersion:
    """Give a detector another name. Raises `NotFound`, `InputRefused` for what is no name, and `Conflict` for
    one that another detector has."""
    with workspace.catalog() as catalog:
        renamed = catalog.detectors.rename(detector_id, plain_name(name), actor)
        catalog.commit()
    return renamed


def request_comparison(workspace: Workspace, detector_id: str, actor: str) -> Job:
    """Queue a measurement of a detector and the champion on the same images. Raises `NotFound`, and
    `ConfigRefused` for a detector that predicts no maps."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if yes_no_question.is_question(version):
        raise ConfigRefused(f"{version.name} predicts whether an image is flawed, not where: it has no maps")
    return request_job(workspace, "measure", {"detector": detector_id}, actor)


def retire_detector(workspace: Workspace, detector_id: str, actor: str, reason: str = "") -> DetectorVersion:
    """Take a detector off the lists: it is offered nowhere and cannot become champion. Its maps, figures and
    lineage stay. Raises `NotFound`, and `Conflict` for the champion."""
    with workspace.catalog() as catalog:
        retired = catalog.detectors.remove(detector_id, actor, reason.strip())
        catalog.commit()
    return retired


def restore_detector(workspace: Workspace, detector_id: str, actor: str) -> DetectorVersion:
    """Put a retired detector back on the lists. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        restored = catalog.detectors.restore(detector_id, actor)
        catalog.commit()
    return restored
