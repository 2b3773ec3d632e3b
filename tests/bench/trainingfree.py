"""Detection, correction and guidance without training, on the clinic's generators, by its judge.

    make bench-trainingfree            detection by the released rule and the one before it, BayesDiff,
                                       corrections on 300 images, weak spots, a linear probe, times: 55
                                       minutes on two quiet cores (estimated), resumable
    QUICK=1 make bench-trainingfree    proves that the command works
    FULL=1 make bench-trainingfree     corrections on 1,000 images by settings that are chosen anew, with
                                       guidance and treatment, self-refining, a DDPM in pixels, sensitivity,
                                       FID on 5,000 images a row: some seven hours on two cores

Settings and thresholds are chosen on validation prompts; figures stand on others. Where a GPU is, the
trainings are longer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.detector import load_detector
from dataengine.diagnosis.dynamics import Dynamics
from dataengine.quality.distances import compute_features, frechet_distance, precision_recall
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import CORRECTION_WINDOW, CorrectionConfig, GuidanceConfig
from dataengine.treatment.guided_sampling.correction import make_correctors
from dataengine.treatment.guided_sampling.guidance import make_guides
from dataengine.treatment.sampling.sampler import Step, as_tensor, generate
from dataengine.treatment.sampling.trajectory import Recorder, frames_of
from pipelines.runtime.line_chart import Line, draw_line_chart
from tests.bench.choose_correction import CHOICES, RECORDED, choose_correction, once
from tests.bench.ddpm import DDPM, trained_ddpm
from tests.bench.detection_rows import detection, detector_figures, generate_with_dynamics
from tests.bench.guided_sampling import (
    COMPARED,
    FORMS,
    KEEPER,
    SAMPLING,
    SEED,
    SIZES,
    Generator,
    ImageRow,
    Steering,
    generate_row,
    kid_by_fold,
    prompts_of_row,
)
from tests.bench.harness import (
    RESULTS,
    Figure,
    bootstrap,
    device,
    figure,
    full,
    mean,
    quick,
    seconds,
    share,
    timing_ratio,
    write_in_parts,
)
from tests.bench.self_refining import (
    fam_figures,
    fid_figures,
    gain_over_seeds,
    self_refining,
    sensitivity_of_training,
)
from tests.bench.sensitivity import moment_figures, setting_figures, step_figures
from tests.bench.source_hash import state_hash
from tests.bench.trainingfree_bayes import bayes_correction_figures, bayes_figures
from tests.bench.trainingfree_contrast import disc_figures, low_contrast_figures, persistence_figures
from tests.bench.trainingfree_probe import probe_figures
from tests.bench.trainingfree_refined import inpainting_figures, pretrained_figures
from tests.bench.treatment import SHEET, framed
from tests.bench.treatment import rows as treatments
from tests.bench.treatment_rows import ClinicModels, open_clinic_models, paired_ratio, run_treatment

NONE = (SAMPLING["flux"], "evaluation", COMPARED)
"""The sampler of the plain row."""
AT_CORRECTION = 5
"""The step of T_c in ten steps of flow matching: 0.5 is the last level at or above 0.48."""
PARTS = 5
"""Of the images whose FID is taken."""


class Patch:
    """Stands for a detector that suspects a square, wherever nothing is wrong."""

    def confidence(self, images: Tensor) -> Tensor:
        """1 in a square of a quarter of the side, off the middle."""
        found = torch.zeros_like(images[:, 0])
        side = images.shape[-1] // 4
        found[:, side : 2 * side, side : 2 * side] = 1
        return found


@dataclass(frozen=True)
class Choices:
    """What validation decided."""

    form: str
    """Of score dynamics."""
    champion: str
    """How the champion corrects, by its name among the choices."""

    def rows(self) -> dict[str, CorrectionConfig]:
        """The corrections that are compared."""
        window = {each: getattr(CORRECTION_WINDOW, each) for each in ("stop", "dilation")}
        found = FORMS[self.form].model_copy(update=window)
        released = FORMS["released, on 8-bit images"].model_copy(update=window)
        again = CHOICES[self.champion].model_copy(update={"regions": "everywhere", "cover": 1.0})
        return {
            "ttc": CorrectionConfig(dynamics=found),
            "ttc_released": CorrectionConfig(dynamics=released, gamma=0.0, cover=1.0),
            "replacement": CorrectionConfig(method="replacement", dynamics=found),
            "clipping": CorrectionConfig(method="clipping", dynamics=found),
            "sargd": CorrectionConfig(method="sargd", regions="detector", dynamics=found),
            "ttc_champion_once": once(),
            "ttc_champion": CHOICES[self.champion],
            "everywhere": CorrectionConfig(regions="everywhere", dynamics=found),
            "everywhere_again": again,
        }

    def folder(self, row: str) -> str:
        """Where a row's images are kept."""
        if row == "ttc_released":
            return row
        return f"{row}-{self.champion if row in ('ttc_champion', 'everywhere_again') else self.form}"


def correction_steering(clinic: ClinicModels, config: CorrectionConfig, detector: Any = None) -> Steering:
    """Sampling with a correction; by the champion unless another detector is given."""
    asking = detector or (clinic.detector if config.needs_detector else None)
    asked = state_hash(clinic.detector) if asking is not None and detector is None else type(asking).__name__
    return Steering(config, asked, lambda texts, seeds: make_correctors(config, seeds, asking))


def guidance_steering(clinic: ClinicModels, config: GuidanceConfig) -> Steering:
    """Sampling guided by the champion."""
    return Steering(
        config, state_hash(clinic.detector), lambda texts, seeds: make_guides(config, texts, clinic.detector)
    )


def compared(
    clinic: ClinicModels, real: Tensor, none: ImageRow, row: str, other: ImageRow, how: str = ""
) -> list[Figure]:
    """One row against none: KID, precision, recall, and the judge's frequency."""
    before, after = (compute_features(each.images, clinic.features) for each in (none, other))
    gap = kid_by_fold(real, after) - kid_by_fold(real, before)
    gained = np.array(precision_recall(real, after)) - precision_recall(real, before)
    touched = float((none.images != other.images).any((1, 2, 3)).mean())
    note = f"{touched:.2f} of the images differ from none's"
    figures = [
        figure(f"kid_{row}_minus_none", float(gap.mean()), bootstrap(gap), "KID", len(none.images), note),
        figure(f"precision_{row}_minus_none", float(gained[0]), None, "share", len(none.images)),
        figure(f"recall_{row}_minus_none", float(gained[1]), None, "share", len(none.images)),
        paired_ratio(
            f"true_freq_{row}", other.flawed, none.flawed, f"none's is {none.flawed.mean():.3f}{how}"
        ),
    ]
    return figures


def correction_fid_figures(clinic: ClinicModels, choices: Choices) -> list[Figure]:
    """FID of every row against none, on more images, and on parts of them to estimate its spread."""
    count, base = SIZES.fid, Generator(clinic.flux)
    clean = render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy()
    real = compute_features(clean, clinic.features)

    def fids(folder: str, config: CorrectionConfig | None) -> np.ndarray:
        steering = None if config is None else correction_steering(clinic, config)
        made = generate_row(clinic, folder, base, SAMPLING["flux"], "evaluation", count, steering)
        vectors = compute_features(made.images, clinic.features)
        parts = zip([real, *real.chunk(PARTS)], [vectors, *vectors.chunk(PARTS)], strict=True)
        return np.array([frechet_distance(*pair) for pair in parts])

    none = fids("none", None)
    figures = []
    for row, config in choices.rows().items():
        gap = fids(choices.folder(row), config) - none
        parts = ", ".join(f"{each:.3f}" for each in gap[1:])
        note = f"none's is {none[0]:.3f}; in {PARTS} parts {parts}"
        figures.append(figure(f"fid_{row}_minus_none", float(gap[0]), None, "FID", count, note))
    return figures


def correction_figures(
    clinic: ClinicModels, choices: Choices, how: str, names: Sequence[str]
) -> list[Figure]:
    """Rows on FLUX, by prompts and seeds that all share; `how` says why the champion corrects so."""
    clean = render(stream("photos"), range(COMPARED)).images.permute(0, 2, 3, 1).numpy()
    real = compute_features(clean, clinic.features)
    none, figures = uncorrected(clinic), []
    for row in names:
        note = f"; {how}" if row == "ttc_champion" else ""
        figures += compared(clinic, real, none, row, corrected(clinic, choices, row), note)
    return figures


def uncorrected(clinic: ClinicModels) -> ImageRow:
    """The row that all others are compared with."""
    return generate_row(clinic, "none", Generator(clinic.flux), *NONE)


def corrected(clinic: ClinicModels, choices: Choices, row: str) -> ImageRow:
    """The images of a row."""
    steering = correction_steering(clinic, choices.rows()[row])
    return generate_row(clinic, choices.folder(row), Generator(clinic.flux), *NONE, steering)


def shown_figures(clinic: ClinicModels, choices: Choices) -> list[Figure]:
    """The sheet of all rows and, in the long form, guidance and a treated generator beside them."""
    none, figures = uncorrected(clinic), []
    shown = {"none": none} | {row: corrected(clinic, choices, row) for row in choices.rows()}
    if full() or quick():
        figures += guidance_figures(clinic, none, shown)
        figures.append(with_treatment(clinic, choices))
    sheet = f"{', '.join(shown)}, from top to bottom, in {sheet_of(shown, none.flawed[: COMPARED // 5])}"
    return [*figures, figure("correction_sheet", "reported", n=len(shown), note=sheet)]


def guidance_figures(clinic: ClinicModels, none: ImageRow, shown: dict[str, ImageRow]) -> list[Figure]:
    """Guidance by the champion, on a fifth of the images; its rows join those that are shown."""
    few, figures = len(none.images) // 5, []
    for row, guide in {"guidance": GuidanceConfig(), "reward": GuidanceConfig(kind="reward")}.items():
        steering = guidance_steering(clinic, guide)
        base = Generator(clinic.flux)
        other = generate_row(clinic, row, base, SAMPLING["flux"], "evaluation", few, steering)
        shown[row] = other
        part = ImageRow(none.images[:few], none.judged[:few], none.categories[:few])
        note = f"by the champion, defaults; none's is {part.flawed.mean():.3f}"
        figures.append(paired_ratio(f"true_freq_{row}", other.flawed, part.flawed, note))
    return figures


def sheet_of(shown: Mapping[str, ImageRow], flawed: np.ndarray) -> str:
    """The first images that are flawed uncorrected, a row of the sheet for each way; its file name.

    A red frame is a flaw by the judge.
    """
    columns = np.flatnonzero(flawed)[:SHEET]
    if not len(columns):
        columns = np.arange(min(SHEET, len(flawed)))
    rows = [
        np.concatenate([framed(one.images[i], bool(one.flawed[i])) for i in columns], axis=1)
        for one in shown.values()
    ]
    file = RESULTS / "trainingfree-sheet.png"
    PIL.Image.fromarray(np.concatenate(rows)).save(file, optimize=True)
    return file.name


def on_clean(clinic: ClinicModels, config: CorrectionConfig) -> Figure:
    """New artifacts where a region without fault is corrected (ASCED, Sec. 7.2)."""
    few, none = SIZES.clean, uncorrected(clinic)
    wanted = config.model_copy(update={"regions": "detector"})
    steering = correction_steering(clinic, wanted, Patch())
    base = Generator(clinic.flux)
    other = generate_row(clinic, "patch", base, SAMPLING["flux"], "evaluation", few, steering)
    clean = ~none.flawed[:few]
    new = int(other.flawed[clean].sum())
    return share(
        "ttc_on_clean", new, int(clean.sum()), "a square of 1/16 of the image corrected; goal ≤ 0.02"
    )


def with_treatment(clinic: ClinicModels, choices: Choices) -> Figure:
    """Treated, corrected by the champion, and both."""
    run = run_treatment(clinic, "all", treatments(clinic)["all"])
    few, sampling = SIZES.clean, SAMPLING["flux"]
    treated = Generator(run.base, run.points[run.last])
    untreated = Generator(run.base)
    steering = correction_steering(clinic, choices.rows()["ttc_champion"])
    rows = {
        "treated": ("treated", treated, None),
        "corrected": (f"corrected-{choices.champion}", untreated, steering),
        "both": (f"treated-corrected-{choices.champion}", treated, steering),
    }
    made = {
        row: generate_row(clinic, folder, family, sampling, "evaluation", few, by)
        for row, (folder, family, by) in rows.items()
    }
    alone = min(("treated", "corrected"), key=lambda row: made[row].flawed.mean())
    note = f"over {alone} alone; " + ", ".join(
        f"{row} {each.flawed.mean():.3f}" for row, each in made.items()
    )
    return paired_ratio("treated_plus_ttc", made["both"].flawed, made[alone].flawed, note)


def time_figures(clinic: ClinicModels, config: CorrectionConfig) -> list[Figure]:
    """Time of a correction on top of sampling, and of finding the regions against a trained detector."""
    family, sampling = load_family(clinic.flux, device=device()), SAMPLING["flux"]
    told, seeds = [prompt.text for prompt in prompts_of_row("evaluation", 16)], list(range(16))
    pairs = 3 if quick() else 9
    found = timing_ratio(
        "ttc_overhead",
        lambda: generate(family, told, seeds, sampling, steppers=make_correctors(config, seeds)),
        lambda: generate(family, told, seeds, sampling),
        pairs=pairs,
    )
    low, high = found.interval or (1.0, 1.0)
    figures = [
        figure("ttc_overhead", float(found.value) - 1, (low - 1, high - 1), "share", found.n, "goal ≤ 0.05")
    ]
    recorder = Recorder(config.dynamics)
    images = as_tensor(generate(family, told, seeds, sampling, steppers=lambda rows: recorder)).to(device())

    doctor = load_detector(clinic.first_doctor, device())

    @torch.no_grad()
    def detect() -> Tensor:
        return doctor.confidence(images)

    figures += detection_time_figures(family, told, seeds, doctor, pairs)
    ways: dict[str, Callable[[], object]] = {"dynamics": recorder.dynamics, "detector": detect}
    for name, way in ways.items():
        spent = [1000 * seconds(way) / len(seeds) for _ in range(pairs + 1)][1:]
        note = f"per image, in batches of {len(seeds)}; paper 90 for dynamics and 790 for a detector, at 256²"
        figures.append(mean(f"time_{name}", spent, "ms", note))
    return figures


class Replaying(Recorder):
    """A recorder that keeps the steps, so that making their frames can be timed too."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__(config)
        self.kept: list[tuple[Step, Tensor]] = []

    def __call__(self, family: GeneratorFamily, latents: Tensor, *others: Any) -> Step:
        """The step, kept where it lies in the window."""
        before = len(self.steps)
        result = super().__call__(family, latents, *others)
        if len(self.steps) > before:
            self.kept.append((result, others[1].alpha[others[2]]))
        return result

    def again(self, family: GeneratorFamily) -> list[Dynamics]:
        """Frames, decoded where the form asks for it, and their dynamics."""
        self._frames = [frames_of(family, *step, self._config) for step in self.kept]
        return self.dynamics()


def detection_time_figures(
    family: GeneratorFamily, told: list[str], seeds: list[int], doctor: Any, pairs: int
) -> list[Figure]:
    """Time to find the regions by score dynamics over a trained detector's, on the same images, in turns."""
    figures = []
    for name, config in (("latent", DynamicsConfig()), ("pixel", DynamicsConfig(space="pixel"))):
        recorder = Replaying(config)
        drawn = generate(family, told, seeds, SAMPLING["flux"], steppers=lambda rows, by=recorder: by)
        images = as_tensor(drawn).to(device())

        @torch.no_grad()
        def detect(images: Tensor = images) -> Tensor:
            return doctor.confidence(images)

        note = f"{name} frames, over the first detector's; {len(seeds)} images at once; paper 0.09 s / 0.79 s"
        figures.append(
            timing_ratio(
                f"time_dynamics_{name}_over_detector",
                lambda by=recorder: by.again(family),
                detect,
                pairs=pairs,
                note=note,
            )
        )
    return figures


def ddpm_figures(clinic: ClinicModels) -> list[Figure]:
    """The same detection on a DDPM in pixels, where one is trained."""
    folder = trained_ddpm()
    if folder is None:
        note = "its training takes an hour or two: FULL=1, or a GPU; then it is kept and used always"
        return [figure("accuracy_dynamics_ddpm", "not measured", note=note)]
    found = detection(clinic, "ddpm", folder)[0] + detector_figures(clinic, "ddpm", folder)
    made = generate_with_dynamics(clinic, "ddpm", folder, "evaluation", SIZES.accuracy)
    found[0] = replace(found[0], note=f"{found[0].note}; it learned {DDPM.description}")
    return [*found, *fam_figures("ddpm", made, DDPM.categories)]


def draw_abnormal() -> None:
    """The share of abnormal positions over the window, one line per generator, as an SVG next to its
    tables."""
    lines = []
    for name, sampling in SAMPLING.items():
        if (table := RESULTS / f"trainingfree-abnormal-{name}.csv").is_file():
            shares = np.loadtxt(table, delimiter=",", skiprows=1, usecols=1, ndmin=1)
            way = (np.arange(len(shares)) + 0.5) / len(shares)
            lines.append(Line(f"{name}, {sampling.steps} steps", way.tolist(), shares.tolist()))
    drawn_as = draw_line_chart(lines, "way through the window (noise 0.8 to 0.2)", "share of abnormal places")
    (RESULTS / "trainingfree-abnormal.svg").write_text(drawn_as)


def main() -> None:
    clinic = open_clinic_models()
    flux, form = detection(clinic, "flux", clinic.flux)
    steer, long = partial(correction_steering, clinic), full() or quick()
    recorded = (RECORDED, f"{RECORDED}, as the last long run chose")
    champion, how = choose_correction(clinic, steer) if long else recorded
    choices = Choices(form, champion)
    ttc, by_champion = choices.rows()["ttc"], ["sargd", "ttc_champion_once", "ttc_champion"]
    others = [row for row in choices.rows() if row not in by_champion]

    def moments(name: str, row: str) -> list[Figure]:
        return moment_figures(
            clinic, uncorrected(clinic), name, choices.folder(row), choices.rows()[row], steer
        )

    probed = {row: choices.rows()[row] for row in (["ttc", "ttc_champion"] if long else ["ttc"])}
    # What needs no trained detector comes first.
    parts: dict[str, Callable[[], list[Figure]]] = {
        "detection-flux": lambda: flux,
        "times": lambda: time_figures(clinic, ttc),
        "correction": lambda: correction_figures(clinic, choices, how, others),
        "moments-dynamics": lambda: moments("ttc", "ttc"),
        "detection-sd": lambda: detection(clinic, "sd", clinic.stable_diffusion)[0],
        "clean": lambda: [on_clean(clinic, ttc)],
        "detectors-flux": lambda: detector_figures(clinic, "flux", clinic.flux),
        "detectors-sd": lambda: detector_figures(clinic, "sd", clinic.stable_diffusion),
        "correction-champion": lambda: correction_figures(clinic, choices, how, by_champion),
        "moments-champion": lambda: moments("champion", "ttc_champion_once"),
        "shown": lambda: shown_figures(clinic, choices),
    }
    parts |= {
        "settings": lambda: setting_figures(clinic, uncorrected(clinic), choices.folder("ttc"), ttc, steer),
        "bayesdiff": lambda: bayes_figures(clinic, "flux", clinic.flux),
        "bayesdiff-correction": lambda: bayes_correction_figures(clinic),
        "contrast": lambda: low_contrast_figures(clinic, "flux", clinic.flux),
        "discs": lambda: [*disc_figures(clinic), *persistence_figures(clinic)],
        "steps-flux": lambda: step_figures(clinic, "flux", clinic.flux, FORMS["released"]),
        "steps-sd": lambda: step_figures(clinic, "sd", clinic.stable_diffusion, FORMS["released"]),
        "probe": lambda: probe_figures(clinic, probed, steer, first=AT_CORRECTION),
    }
    if long:
        parts |= {
            "detection-ddpm": lambda: ddpm_figures(clinic),
            "flaw-activation": lambda: fam_figures("flux", uncorrected(clinic)),
            "self-refining": lambda: self_refining(clinic),
            "self-refining-inpainting": lambda: inpainting_figures(clinic),
            "self-refining-reader": lambda: pretrained_figures(clinic, uncorrected(clinic)),
            "bayesdiff-sd": lambda: bayes_figures(clinic, "sd", clinic.stable_diffusion),
            "contrast-sd": lambda: low_contrast_figures(clinic, "sd", clinic.stable_diffusion),
            "self-refining-sensitivity": lambda: sensitivity_of_training(clinic),
            "self-refining-seeds": lambda: gain_over_seeds(clinic),
            "self-refining-fid": lambda: fid_figures(clinic),
            "correction-fid": lambda: correction_fid_figures(clinic, choices),
        }
    write_in_parts("trainingfree", parts, list(SEED.values()), KEEPER.key)
    draw_abnormal()


if __name__ == "__main__":
    main()
