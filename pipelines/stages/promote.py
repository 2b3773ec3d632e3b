"""Stage: promote the candidate unless the promotion gate objects."""

from dataengine.records import AuditEvent
from pipelines.detectors.promotion import regressions, sentence, verdicts
from pipelines.runtime.context import Context, Result
from pipelines.runtime.events import announce_promotion
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import recipe_of, results_of
from pipelines.stages.stage import Stage


def promote(context: Context, round_id: str) -> Result:
    """Apply the gate, then promote or record the objections.

    Raises `ConfigRefused` while there is no frozen benchmark; the round can be resumed once there is one.
    """
    with context.workspace.catalog(read_only=True) as catalog:
        benchmark = catalog.benchmarks.require_frozen()
    measured = results_of(context, round_id)["evaluate"]
    compared = measured["champion"], measured["candidate"], measured.get("comparison", {}).get("validation")
    objections = regressions(recipe_of(context, round_id).promote, *compared)
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
            announce_promotion(catalog, candidate)
        catalog.commit()
    return {
        "promoted": not objections,
        "champion": measured["before"] if objections else candidate,
        "reasons": objections,
        "verdicts": verdicts(*compared),
        "benchmark": benchmark.version,
    }


def _found(result: Result) -> str:
    decision = (
        "Candidate promoted" if result["promoted"] else f"Champion kept: {'; '.join(result['reasons'])}"
    )
    changes = [sentence(name, one) for name, one in result.get("verdicts", {}).items()]
    return "; ".join([decision, *changes]) if result["promoted"] else decision


STAGE = Stage(
    name="promote",
    title="promote the better detector",
    part="detector",
    section="promote",
    takes="figures of champion and candidate on validation",
    found=_found,
    work=promote,
)
