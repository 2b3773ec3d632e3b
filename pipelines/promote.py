"""Promote: the candidate becomes champion if it is better on validation, and only then.

Input: what `evaluate` measured. Output: the new champion, or a recorded refusal with its reasons. The
benchmark only has to exist, so that its report says what the promotion brought; it is never asked. Cost:
one transaction.
"""

from typing import Any

from dataengine.records import AuditEvent
from pipelines.config import PromoteConfig
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.steps import recipe_of, results_of


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
