"""What speaks against a candidate's promotion."""

from typing import Any

from dataengine.records import DetectorVersion
from pipelines.config import PromoteConfig


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
