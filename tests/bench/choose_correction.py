"""How early, how often and on what suspicion the trained detector corrects, for `bench-trainingfree`.

Chosen on validation prompts by what the clinic's teacher, who stands in for people, still marks; the judge
measures the outcome on other prompts, and has no say here.
"""

from collections.abc import Callable

import torch

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.oracles import load_teacher
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from dataengine.treatment.sampling.sampler import as_tensor
from tests.bench.guided_sampling import SAMPLING, Generator, Steering, generate_row
from tests.bench.harness import curve, device, quick
from tests.bench.treatment_rows import FLAWED, KEEPER, ClinicModels

COUNT = 16 if quick() else 400
"""Validation images of a choice."""
STOP = 0.15
"""Where repeated corrections end: the state at 0.2 of ten steps is the last that is replaced."""
RECORDED = "from 0.9 above 0.2"
"""What the last long run chose; the default form takes it as it is."""


def once(stop: float = 0.48) -> CorrectionConfig:
    """As the paper corrects: a single time, at T_c."""
    return CorrectionConfig(regions="detector", dynamics=DynamicsConfig(stop=stop))


def again(start: float, threshold: float) -> CorrectionConfig:
    """At every step after that one at which the detector still finds something."""
    window = DynamicsConfig(start=start, stop=STOP)
    return CorrectionConfig(regions="detector", repeated=True, threshold=threshold, dynamics=window)


CHOICES = {f"once at {stop:g}": once(stop) for stop in (0.48, 0.6, 0.7)} | {
    f"from {start:g} above {threshold:g}": again(start, threshold)
    for start in (0.7, 0.8, 0.9)
    for threshold in (0.5, 0.3, 0.2)
}


def choose_correction(clinic: ClinicModels, steer: Callable[[CorrectionConfig], Steering]) -> tuple[str, str]:
    """The choice that leaves the fewest validation images in which the teacher marks a flaw: its name, and
    how."""
    base = Generator(clinic.flux)
    teacher = load_teacher(clinic_parts.materialise("teacher", KEEPER.folder("clinic/teacher"))).to(device())

    @torch.no_grad()
    def frequency(row: str, config: CorrectionConfig | None) -> float:
        steps = None if config is None else steer(config)
        made = generate_row(clinic, row, base, SAMPLING["flux"], "validation", COUNT, steps)
        parts = as_tensor(made.images).to(device()).split(32)
        highest = torch.cat([teacher.confidence(part).amax((1, 2)) for part in parts])
        return float((highest >= FLAWED).float().mean())

    choices = dict(list(CHOICES.items())[::6]) if quick() else CHOICES
    left = {name: frequency(f"champion, {name}", config) for name, config in choices.items()}
    kept = curve("trainingfree-champion", {"choice": list(left), "frequency": list(left.values())})
    best = min(left, key=lambda name: left[name])
    note = (
        f"{best}, chosen among {len(left)} by the teacher, who still finds {left[best]:.3f} of {COUNT} "
        f"validation images flawed, and {frequency('none', None):.3f} without; all in {kept}"
    )
    return best, note
