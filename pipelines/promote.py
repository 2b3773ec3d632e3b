"""Promote: the candidate becomes champion if it is better on validation, and only then.

Input: what `evaluate` measured. Output: the new champion, or a recorded refusal with its reasons. The
benchmark only has to exist, so that its report says what the promotion brought; it is never asked. Cost:
one transaction.
"""

from typing import Any

from dataengine.errors import ConfigRefused, Conflict
from dataengine.records import AuditEvent, DetectorVersion
from pipelines import questioning
from pipelines.config import PromoteConfig
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.steps import recipe_of, results_of
from storage.workspace import Workspace


def promote(context: Context, round_id: str) -> Result:
    """Ask the gate, then change the champion or write down why not.

    Raises `ConfigRefused` while there is no frozen benchmark; the round can be resumed once there is one.
    """
    with context.workspace.catalog(read_only=True) as catalog:
        benchmark = catalog.benchmarks.require_frozen()
    measured = results_of(context, round_id)["evaluate"]
    objections = regressions(
        recipe_of(context, round_id).promote, measured["champion"], measured["candidate"]
    )
    actor, candidate = f"round {round_id}", measured["after"]
    fail_point("promote:decided")
    with context.workspace.catalog() as catalog:
        if objections:
            catalog.audit.add(
                AuditEvent(
                    actor=actor,
                    action="detector.promote.refused",
                    subject=candidate,
                    details={"reasons": objections},
                )
            )
        else:
            catalog.detectors.promote(candidate, actor, "passed the gate on validation")
        catalog.commit()
    return {
        "promoted": not objections,
        "champion": measured["before"] if objections else candidate,
        "reasons": objections,
        "benchmark": benchmark.version,
    }


def objections_to(candidate: DetectorVersion, champion: DetectorVersion | None) -> list[str]:
    """Why a person should think twice before promoting: what the gate says of the figures on validation.

    Figures taken together with the champion's count; else those that either has. Empty when there is no
    champion to compare with.
    """
    if champion is None:
        return []
    beside = candidate.metrics.get("beside", {})
    before = beside if beside.get("detector") == champion.id else champion.metrics
    if "validation" in candidate.metrics and "validation" not in before:
        return [f"{champion.name}, the champion, was never measured on validation; nothing can be compared"]
    return regressions(PromoteConfig(), before, candidate.metrics)


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
        if questioning.asks(candidate):
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


def regressions(config: PromoteConfig, champion: dict[str, Any], candidate: dict[str, Any]) -> list[str]:
    """Why the candidate may not become champion; empty when it may. Figures as `evaluate.measure` gives."""
    if "validation" not in candidate:
        return ["no validation image has a label, so nothing shows that the candidate is better"]
    objections = []
    before, after = champion["validation"][config.metric], candidate["validation"][config.metric]
    if after > config.max_ratio * before:
        objections.append(
            f"{config.metric} on validation is {after:.5f}, and {config.max_ratio:g} times the champion's "
            f"{before:.5f} is allowed"
        )
    if "validation_real" in candidate:
        before, after = champion["validation_real"]["mse"], candidate["validation_real"]["mse"]
        if after > max(config.max_real_ratio * before, before + config.real_slack):
            objections.append(
                f"mse on real validation pictures is {after:.5f}, and {config.max_real_ratio:g} times the "
                f"champion's {before:.5f} is allowed"
            )
    return objections
