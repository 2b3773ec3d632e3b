"""The gate of a promotion: what got better, what got worse, and what lies within noise.

Squared error on sparse masks rewards a detector that goes quiet, so the gate looks at the paper's errors and
at misses, false alarms and pixel AP, each detector at its own operating point. A figure is worse or better
only if the 95 % interval of its change excludes 0.
"""

from collections.abc import Mapping
from typing import Any

from dataengine.diagnosis.intervals import HIGHER_IS_BETTER
from dataengine.statistics import difference_interval, verdict_of
from pipelines.config import PromoteConfig

FIGURES = {
    "mse": "MSE",
    "kl": "KL(P‖Q)",
    "kl1m": "KL(1−P‖1−Q)",
    "miss": "misses",
    "false_alarm": "false alarms",
    "miss_at_equal_alarms": "misses at the champion's false alarms",
    "pixel_ap": "pixel AP",
}
"""The figures that the gate looks at, and what they are called."""

Metrics = Mapping[str, Any]


def regressions(
    config: PromoteConfig, champion: Metrics, candidate: Metrics, comparison: Metrics | None = None
) -> list[str]:
    """Why the candidate may not become champion; empty if it may.

    Metrics as `measure_on_sets` returns them; `comparison`, of the validation set, as `compare_detectors`.
    """
    if "validation" not in candidate:
        return ["no validation image has a label, so the candidate cannot be compared with the champion"]
    found = verdicts(champion, candidate, comparison)
    objections = []
    before, after = champion["validation"][config.metric], candidate["validation"][config.metric]
    if after > config.max_ratio * before:
        noise = " (within noise)" if found.get(config.metric, {}).get("verdict") == "within noise" else ""
        objections.append(
            f"validation {FIGURES[config.metric]} {after:.5f} exceeds the limit of "
            f"{config.max_ratio * before:.5f} ({config.max_ratio:g} × champion){noise}"
        )
    if "validation_real" in candidate:
        before, after = champion["validation_real"]["mse"], candidate["validation_real"]["mse"]
        limit = max(config.max_real_ratio * before, before + config.real_slack)
        if after > limit:
            objections.append(
                f"MSE on real validation photos {after:.5f} exceeds the limit of {limit:.5f} "
                f"({config.max_real_ratio:g} × champion, and at least {config.real_slack:g} more is allowed)"
            )
    return objections + [f"{sentence(name, found[name])} on validation" for name in _worse(found)]


def verdicts(
    champion: Metrics, candidate: Metrics, comparison: Metrics | None = None
) -> dict[str, dict[str, Any]]:
    """By figure its value before and after, the interval of its change, and the verdict, on validation.

    From the paired comparison where there is one, else from the interval of each detector's figure. A figure
    that was not measured for both is left out.
    """
    if comparison:
        return {name: dict(comparison[name]) for name in FIGURES if name in comparison}
    found = {}
    for name in FIGURES:
        measured = [_with_interval(metrics.get("validation", {}), name) for metrics in (champion, candidate)]
        if None in measured:
            continue
        (before, of_before), (after, of_after) = (each for each in measured if each is not None)
        interval = difference_interval(before, of_before, after, of_after)
        found[name] = {
            "before": before,
            "after": after,
            "interval": interval,
            "verdict": verdict_of(interval, lower_is_better=name not in HIGHER_IS_BETTER),
        }
    return found


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """A figure's change, its interval and the verdict, for people."""
    low, high = found["interval"]
    change = found["after"] - found["before"]
    return (
        f"{FIGURES[name]} {found['before']:.3g} → {found['after']:.3g} "
        f"({change:+.3g}, 95 % interval {low:+.3g} to {high:+.3g}): {found['verdict']}"
    )


def _worse(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The figures at the operating points that forbid a promotion.

    More false alarms are no objection where misses fell beyond noise, nor where the candidate, moved to the
    champion's false alarms, misses no more than it beyond noise: an operating point trades one for the other,
    and can be moved.
    """
    verdict = {name: one["verdict"] for name, one in found.items()}
    worse = [name for name in ("miss", "pixel_ap") if verdict.get(name) == "worse"]
    traded = verdict.get("miss") == "better" or verdict.get("miss_at_equal_alarms", "worse") != "worse"
    if verdict.get("false_alarm") == "worse" and not traded:
        worse.append("false_alarm")
    return worse


def _with_interval(metrics: Metrics, name: str) -> tuple[float, tuple[float, float]] | None:
    """The figure of one detector and its interval; misses and false alarms at the operating point."""
    source = metrics.get("operating", {}) if name in ("miss", "false_alarm") else metrics
    value, interval = source.get(name), source.get("intervals", {}).get(name)
    return None if value is None or interval is None else (value, (interval[0], interval[1]))
