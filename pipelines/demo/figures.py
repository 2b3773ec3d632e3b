"""A figure of the demo's report, and the figures of a detector's sight: misses, false alarms, pixel AP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataengine.clinic.flaws import UNREASONABLE_CONTENT
from dataengine.statistics import Interval, difference_interval

REPORTED = "reported"
"""The goal of a figure without one."""
Measured = tuple[float, Interval]
"""A value and its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure with its goal; `met` is decided by the value, `interval` is its 95 % confidence interval."""

    id: str
    title: str
    value: float | bool
    goal: str
    met: bool | None
    """None without a goal."""
    interval: Interval | None = None
    unit: str = "ratio"
    n: int = 1
    note: str = ""


def wall_time(seconds: float) -> Figure:
    """Duration of the demo, as a figure."""
    return Figure(
        id="wall_s", title="duration of the demo", value=seconds, goal="≤ 600 s", met=seconds <= 600, unit="s"
    )


def sight_figures(evaluated: Mapping[str, Any], promoted: bool) -> list[Figure]:
    """What the champions before and after the round miss, and flag by mistake, on the hard benchmark.

    At each detector's own operating point, and at 0.5 under ids that end in "_at_half".
    """
    before = evaluated["champion"]["benchmark"]
    after = evaluated["candidate"]["benchmark"] if promoted else before
    found = [
        *_sight_at(before["operating"], after["operating"], "", "at its own operating point"),
        _share(
            "pixel_ap_gain",
            "gain in pixel AP, hard benchmark",
            _change(before, after, "pixel_ap"),
            "≥ 0.3",
            after["images"],
        ),
        *_sight_at(before["at_half"], after["at_half"], "_at_half", "at 0.5"),
    ]
    return [figure for figure in found if figure is not None]


def _sight_at(
    before: Mapping[str, Any], after: Mapping[str, Any], ending: str, where: str
) -> list[Figure | None]:
    """Misses and false alarms at one kind of threshold; None for what the benchmark does not hold."""
    unreasonable = after["classes"].get(str(UNREASONABLE_CONTENT))
    flawed, clean = after["flawed"], after["clean"]
    detector = f"the detector after the round {where}"
    return [
        _share(
            f"miss_before{ending}",
            f"misses of the first detector {where}",
            _measured(before, "miss"),
            REPORTED,
            flawed,
        ),
        _share(f"miss_after{ending}", f"misses of {detector}", _measured(after, "miss"), "≤ 0.12", flawed),
        _share(
            f"miss_after_minus_before{ending}",
            f"change of the misses {where}",
            _change(before, after, "miss"),
            "≤ 0.03",
            flawed,
        ),
        _share(
            f"false_alarm_after{ending}",
            f"false alarms of {detector}",
            _measured(after, "false_alarm"),
            "≤ 0.08",
            clean,
        ),
        _share(
            f"miss_unreasonable_after{ending}",
            f"missed regions of unreasonable content, {detector}",
            None if unreasonable is None else (unreasonable["miss"], tuple(unreasonable["interval"])),
            "≤ 0.3",
            0 if unreasonable is None else unreasonable["components"],
        ),
    ]


def _measured(metrics: Mapping[str, Any], name: str) -> Measured | None:
    """A figure with its interval, as an evaluation stores it; None if it was not measured."""
    if metrics[name] is None:
        return None
    low, high = metrics["intervals"][name]
    return metrics[name], (low, high)


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> Measured | None:
    """after − before of a figure with its interval; 0 for one and the same detector."""
    if after is before:
        return 0.0, (0.0, 0.0)
    old, new = _measured(before, name), _measured(after, name)
    return None if old is None or new is None else (new[0] - old[0], difference_interval(*old, *new))


def _share(id: str, title: str, found: Measured | None, goal: str, n: int) -> Figure | None:
    """A figure whose goal is "≤ X", "≥ X" or `REPORTED`; None if it was not measured."""
    if found is None:
        return None
    value, interval = found
    met = None
    if goal != REPORTED:
        sign, limit = goal.split(" ")
        met = value <= float(limit) if sign == "≤" else value >= float(limit)
    return Figure(id=id, title=title, value=value, interval=interval, goal=goal, met=met, unit="share", n=n)
