"""The gate of a promotion: metrics that got worse."""

from typing import Any

from pipelines.config import PromoteConfig


def regressions(config: PromoteConfig, champion: dict[str, Any], candidate: dict[str, Any]) -> list[str]:
    """Why the candidate may not become champion; empty if it may. Metrics as `measure_on_sets` returns
    them."""
    if "validation" not in candidate:
        return ["no validation image has a label, so the candidate cannot be compared with the champion"]
    objections = []
    before, after = champion["validation"][config.metric], candidate["validation"][config.metric]
    if after > config.max_ratio * before:
        objections.append(
            f"{config.metric} on validation is {after:.5f}; at most {config.max_ratio:g} times the "
            f"champion's "
            f"{before:.5f} is allowed"
        )
    if "validation_real" in candidate:
        before, after = champion["validation_real"]["mse"], candidate["validation_real"]["mse"]
        if after > max(config.max_real_ratio * before, before + config.real_slack):
            objections.append(
                f"mse on real validation images is {after:.5f}; at most {config.max_real_ratio:g} times the "
                f"champion's {before:.5f} is allowed"
            )
    return objections
