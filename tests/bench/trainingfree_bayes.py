"""BayesDiff beside score dynamics, for `bench-trainingfree`: as a map, and as the regions of a correction.

The posterior is fitted to clean drawings of the world that the clinic's generator learned from. Thresholds
come from validation prompts; the images are the first of those that score dynamics are measured on.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import BayesDiffConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import CORRECTION_WINDOW, CorrectionConfig
from dataengine.treatment.guided_sampling.correction import Corrector
from dataengine.treatment.sampling.bayesdiff import (
    Posterior,
    VarianceCarrier,
    fit_posterior,
    variance_confidence,
)
from dataengine.treatment.sampling.sampler import Step, Stepper, denoise, generate
from tests.bench.detection_rows import accuracy, generate_with_dynamics, pixel_ap
from tests.bench.guided_sampling import (
    KEEPER,
    SAMPLING,
    SEED,
    SIZES,
    Generator,
    ImageRow,
    Steering,
    generate_row,
    judge_confidence,
    prompts_of_row,
)
from tests.bench.harness import Figure, device, figure, full, mean, quick
from tests.bench.sensitivity import changed_figures
from tests.bench.treatment_rows import ClinicModels

KNOWN, TESTED = (4, 8) if quick() else (300, 700) if full() else (60, 120)
"""Validation and evaluation images of the maps."""
CORRECTED = 8 if quick() else 300 if full() else 150
SAMPLES = 10 if full() else 4
"""States drawn at each step; the authors' 10 for `FULL=1`."""
FITTED = 16 if quick() else 500
PART = 8 if quick() else 30
CONFIG = BayesDiffConfig(images=FITTED, samples=SAMPLES)


def posterior_of(name: str, base: Path) -> Posterior:
    """The posterior of a generator's last layer, fitted once and kept."""
    folder = KEEPER.folder(f"bayes-posterior/{name}", CONFIG)
    if not (folder / "posterior.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = render(stream("generator", flawed=0.0), range(FITTED))
        images = drawn.images.permute(0, 2, 3, 1).numpy()
        fit_posterior(load_family(base, device=device()), images, drawn.captions, CONFIG).save(folder)
    return Posterior.load(folder)


def generate_with_variance(
    clinic: ClinicModels, name: str, base: Path, use: str, count: int
) -> dict[str, np.ndarray]:
    """Images with the judge's verdict, the confidence by their pixel-wise variance (8 bits), and its mean."""
    asked, sampling = prompts_of_row(use, count), SAMPLING[name].model_copy(update={"batch": PART})
    posterior, family = posterior_of(name, base), load_family(base, device=device())

    def make(rows: range) -> dict[str, np.ndarray]:
        carriers: list[VarianceCarrier] = []
        seeds = [SEED[use] + i for i in rows]

        def steppers(batch: slice) -> Stepper:
            carriers.append(VarianceCarrier(posterior, CONFIG, seeds[batch]))
            return carriers[-1]

        images = generate(family, [asked[i].text for i in rows], seeds, sampling, steppers=steppers)
        with torch.no_grad():
            variances = np.concatenate([
                each.pixel_variance(family, each.state).cpu().numpy()
                for each in carriers
                if each.state is not None
            ])  # fmt: skip
        maps = np.stack([variance_confidence(each, CONFIG.deviations) for each in variances])
        return {
            "images": images,
            "judged": judge_confidence(clinic, images),
            "map": np.rint(255 * maps).astype(np.uint8),
            "mean": variances.mean((1, 2)),
            "highest": variances.max((1, 2)),
            "regions": (maps >= 0.5).mean((1, 2)),
        }

    parts = []
    for start in range(0, count, PART):
        rows = range(start, min(start + PART, count))
        settings = {"config": CONFIG, "sampling": sampling, "base": Generator(base).facts}
        key = f"bayes-{name}/{use}/{start}-{len(rows)}"
        parts.append(KEEPER.arrays(key, partial(make, rows), settings))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def bayes_figures(clinic: ClinicModels, name: str, base: Path) -> list[Figure]:
    """Accuracy, precision, recall and pixel AP by BayesDiff, and by score dynamics on the same images."""
    known, test = (
        generate_with_variance(clinic, name, base, use, count)
        for use, count in (("validation", KNOWN), ("evaluation", TESTED))
    )
    flawed = [
        ImageRow(row["images"], row["judged"], np.zeros(len(row["images"]))).flawed for row in (known, test)
    ]
    figures = []
    for by in ("mean", "highest", "regions"):
        note = f"by the variance's {by}, {SAMPLES} draws a step"
        figures += accuracy(f"bayes_{name}_{by}", (known[by], flawed[0]), (test[by], flawed[1]), note)
    truth = test["judged"][flawed[1]]
    ap = pixel_ap(test["map"][flawed[1]], truth)
    regions = float(test["regions"].mean())
    note = f"regions cover {regions:.3f} of an image; chance {(truth >= 128).mean() if truth.size else 0:.3f}"
    figures.append(figure(f"pixel_ap_bayes_{name}", ap, n=len(truth), note=note))
    return figures + beside_dynamics(clinic, name, base, flawed)


def beside_dynamics(
    clinic: ClinicModels, name: str, base: Path, flawed: Sequence[np.ndarray]
) -> list[Figure]:
    """Score dynamics on as many of the same prompts and seeds."""
    rows = [
        first_of(generate_with_dynamics(clinic, name, base, use, most), count)
        for use, most, count in (
            ("validation", SIZES.validation, KNOWN),
            ("evaluation", SIZES.accuracy, TESTED),
        )
    ]
    told = [(row.extras["released|strength"], row.flawed) for row in rows]
    figures = accuracy(
        f"bayes_{name}_dynamics", told[0], told[1], "score dynamics' strength, the same images"
    )
    truth = rows[1].judged[rows[1].flawed]
    ap = pixel_ap(rows[1].extras["released|map"][rows[1].flawed], truth)
    same = float(np.mean(rows[1].flawed == flawed[1]))
    note = f"the same images; {same:.3f} of the judge's verdicts are equal"
    return [*figures, figure(f"pixel_ap_bayes_{name}_dynamics", ap, n=len(truth), note=note)]


def first_of(row: ImageRow, count: int) -> ImageRow:
    """The first images of a row, which is drawn whole once for all that use it."""
    extras = {key: values[:count] for key, values in row.extras.items()}
    return ImageRow(row.images[:count], row.judged[:count], row.categories[:count], extras)


class SuspectsVariance:
    """Stands for a detector: suspects where the state's variance is high, and ends its carrying."""

    def __init__(self, carrier: VarianceCarrier) -> None:
        self._carrier = carrier
        self._asked = False

    def confidence(self, images: Tensor) -> Tensor:
        """NHW over latents: the confidence by Var(x_t) at T_c."""
        self._asked = True
        assert self._carrier.variance is not None
        maps = self._carrier.variance.mean(1).cpu().numpy()
        found = np.stack([variance_confidence(each, CONFIG.deviations) for each in maps])
        return torch.from_numpy(found).to(images.device)

    def __call__(self, *step: object) -> Step:
        """The carrier's step until the regions are known, a plain one after."""
        return (denoise if self._asked else self._carrier)(*step)  # type: ignore[arg-type]


def variance_steering(posterior: Posterior, config: CorrectionConfig) -> Steering:
    """Sampling that is corrected where the variance of the state at T_c is high."""

    def steppers(texts: Sequence[str], seeds: Sequence[int]):  # type: ignore[no-untyped-def]
        def of(rows: slice) -> Corrector:
            suspects = SuspectsVariance(VarianceCarrier(posterior, CONFIG, seeds[rows]))
            return Corrector(config, seeds[rows], suspects, suspects)  # type: ignore[arg-type]

        return of

    return Steering(config, f"bayesdiff {CONFIG.model_dump_json()}", steppers)


class Resampling:
    """A `Stepper` that draws the state at T_c anew from N(x_t, Var(x_t)) in regions of high variance.

    BayesDiff's own way to rectify an image: from the estimated distribution of a state on its chain.
    """

    def __init__(self, carrier: VarianceCarrier, step: int) -> None:
        self._carrier, self._step = carrier, step

    def __call__(self, family: GeneratorFamily, latents: Tensor, *others: object) -> Step:
        """The step after the draw."""
        step = int(others[2])  # type: ignore[call-overload]
        if step < self._step:
            return self._carrier(family, latents, *others)  # type: ignore[arg-type]
        if step == self._step and self._carrier.variance is not None:
            variance = self._carrier.variance
            maps = [variance_confidence(each, CONFIG.deviations) for each in variance.mean(1).cpu().numpy()]
            inside = torch.from_numpy(np.stack(maps) >= 0.5).to(latents.device)[:, None]
            drawn = latents + variance.sqrt() * self._carrier.noise.draw(latents)
            latents = torch.where(inside, drawn, latents)
        return denoise(family, latents, *others)  # type: ignore[arg-type]


def bayes_correction_figures(clinic: ClinicModels) -> list[Figure]:
    """TTC in the regions of high variance at T_c, and BayesDiff's own resampling there, against none."""
    posterior = posterior_of("flux", clinic.flux)
    none = generate_row(clinic, "none", Generator(clinic.flux), SAMPLING["flux"], "evaluation", CORRECTED)
    config = CorrectionConfig(regions="detector", dynamics=CORRECTION_WINDOW)
    at = 5
    """The step of T_c in ten steps of flow matching: 0.5 is the last level at or above 0.48."""

    def resampled(texts: Sequence[str], seeds: Sequence[int]):  # type: ignore[no-untyped-def]
        return lambda rows: Resampling(VarianceCarrier(posterior, CONFIG, seeds[rows]), at)

    ways = {
        "ttc": variance_steering(posterior, config),
        "resampling": Steering(config, f"resampling {CONFIG.model_dump_json()}", resampled),
    }
    figures = []
    for name, steering in ways.items():
        found, _ = changed_figures(
            clinic, none, "bayes", f"bayes-{name}", config, {name: {}}, lambda _, by=steering: by
        )
        touched = generate_row(
            clinic,
            f"bayes-{name}",
            Generator(clinic.flux),
            SAMPLING["flux"],
            "evaluation",
            CORRECTED,
            steering,
        )
        differ = (touched.images != none.images).any((1, 2, 3)).astype(float)
        figures += [*found, mean(f"touched_bayes_{name}", differ, "share", "images that differ from none's")]
    return figures
