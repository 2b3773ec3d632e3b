"""How early, how often and on what suspicion the trained detector corrects, for `bench-trainingfree`.

Chosen on validation prompts by what the champion's corrections leave; figures stand on others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.treatment.config import CorrectionConfig
from dataengine.treatment.loading import load_family
from tests.bench.harness import curve, device, quick
from tests.bench.steered import SAMPLING, Drawn, drawn
from tests.bench.treated import Ward

COUNT = 16 if quick() else 400
"""Validation images of a choice."""
STOP = 0.15
"""Where repeated corrections end: two steps of ten before the picture."""


def once(stop: float = 0.48) -> CorrectionConfig:
    """As the paper corrects: a single time, at the end of the window."""
    return CorrectionConfig(regions="detector", dynamics=DynamicsConfig(stop=stop))


def again(start: float, threshold: float) -> CorrectionConfig:
    """At every step from there on at which the detector still finds something."""
    window = DynamicsConfig(start=start, stop=STOP)
    return CorrectionConfig(regions="detector", repeated=True, threshold=threshold, dynamics=window)


CHOICES = {f"once at {stop:g}": once(stop) for stop in (0.48, 0.6, 0.7)} | {
    f"from {start:g} above {threshold:g}": again(start, threshold)
    for start in (0.7, 0.8, 0.9)
    for threshold in (0.5, 0.3, 0.2)
}


def chosen(ward: Ward, steer: Callable[[CorrectionConfig], Any]) -> tuple[str, str]:
    """The choice that leaves the fewest flawed validation images by the judge: its name, and how."""
    base = partial(load_family, ward.flux, device=device())

    def frequency(row: str, config: CorrectionConfig | None) -> float:
        made: Drawn = drawn(
            ward, row, base, SAMPLING["flux"], "validation", COUNT, None if config is None else steer(config)
        )
        return float(made.flawed.mean())

    choices = dict(list(CHOICES.items())[::6]) if quick() else CHOICES
    left = {name: frequency(f"champion, {name}", config) for name, config in choices.items()}
    kept = curve("trainingfree-champion", {"choice": list(left), "frequency": list(left.values())})
    best = min(left, key=lambda name: left[name])
    without = frequency("none", None)
    note = (
        f"{best}, chosen among {len(left)} on {COUNT} validation images, of which {left[best]:.3f} of "
        f"{without:.3f} stay flawed; all in {kept}"
    )
    return best, note
