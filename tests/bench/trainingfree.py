"""Detection, correction and guidance without training, on the clinic's generators, by its judge.

    make bench-trainingfree            some two hours on two cores, resumable
    QUICK=1 make bench-trainingfree    proves that the command works
    FULL=1 make bench-trainingfree     a DDPM in pixels, sensitivity, other seeds, and FID on 5,000 images a
                                       row besides: some seven hours on two cores

Settings and thresholds are chosen on validation prompts; figures stand on others. Where a GPU is, the
trainings are longer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.detector import load_detector
from dataengine.diagnosis.ranking import area_under_roc, average_precision, levels_of
from dataengine.quality.distances import compute_features, frechet_distance, precision_recall
from dataengine.treatment.config import CorrectionConfig, GuidanceConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.correction import make_correctors
from dataengine.treatment.guided_sampling.guidance import make_guides
from dataengine.treatment.sampling.sampler import as_tensor, generate
from pipelines.runtime.line_chart import Line, draw_line_chart
from tests.bench.choose_correction import CHOICES, choose_correction
from tests.bench.ddpm import DDPM, trained_ddpm
from tests.bench.guided_sampling import (
    FORMS,
    KEEPER,
    SAMPLING,
    SCORES,
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
    curve,
    device,
    figure,
    full,
    quick,
    share,
    timing_ratio,
    write_in_parts,
)
from tests.bench.questions import question_figure
from tests.bench.self_refining import (
    fam_figures,
    fid_figures,
    gain_over_seeds,
    self_refining,
    sensitivity_of_training,
)
from tests.bench.sensitivity import moment_figures, step_figures
from tests.bench.source_hash import state_hash
from tests.bench.treatment import SHEET, framed
from tests.bench.treatment import rows as treatments
from tests.bench.treatment_rows import FLAWED, ClinicModels, open_clinic_models, paired_ratio, run_treatment
from tests.bench.treatment_rows import KEEPER as TREATMENT

NONE = (SAMPLING["flux"], "evaluation", SIZES.kid)
"""The sampler of the plain row."""
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


def threshold_of(scores: np.ndarray, flawed: np.ndarray) -> tuple[float, float]:
    """(threshold, balanced accuracy) of the best threshold: flawed is what reaches it."""
    best = (float(np.inf), 0.5)
    if flawed.all() or not flawed.any():
        return best
    for level in np.unique(scores):
        accuracy = ((scores[flawed] >= level).mean() + (scores[~flawed] < level).mean()) / 2
        best = max(best, (float(level), float(accuracy)), key=lambda pair: pair[1])
    return best


def balanced(flawed: np.ndarray) -> np.ndarray:
    """Rows of the first flawed and as many clean images."""
    count = min(SIZES.kind, int(flawed.sum()), int((~flawed).sum()))
    return np.concatenate([np.flatnonzero(flawed)[:count], np.flatnonzero(~flawed)[:count]])


def accuracy(
    id: str, known: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], note: str
) -> Figure:
    """Share right of as many flawed as clean images by a threshold from validation; both (scores, flawed)."""
    level, _ = threshold_of(*known)
    scores, flawed = (values[balanced(test[1])] for values in test)
    if not len(scores):
        drawn_ones = f"{int(test[1].sum())} of {len(test[1])} drawn images are"
        return figure(id, "not measured", note=f"flawed and clean images are needed; {drawn_ones} flawed")
    right = int(((scores >= level) == flawed).sum())
    return share(id, right, len(scores), f"{note}; threshold {level:.4g} from validation")


def pixel_ap(map_: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of 8-bit maps over the pixels of the flawed images."""
    inside = truth >= round(255 * FLAWED)
    if not inside.any():
        return 0.0
    return float(average_precision(levels_of(map_[inside] / 255), levels_of(map_[~inside] / 255)))


def generate_with_dynamics(clinic: ClinicModels, name: str, base: Path, use: str, count: int) -> ImageRow:
    """Images of a generator with the score dynamics recorded during sampling."""
    open_one = Generator(base)
    return generate_row(clinic, f"{name}-watched", open_one, SAMPLING[name], use, count, recorded=FORMS)


def detection(clinic: ClinicModels, name: str, base: Path) -> tuple[list[Figure], str]:
    """Accuracy of score dynamics of one generator and of detectors; and the form chosen on validation."""
    known = generate_with_dynamics(clinic, name, base, "validation", SIZES.validation)
    test = generate_with_dynamics(clinic, name, base, "evaluation", SIZES.accuracy)
    accuracies = {
        (form, score): threshold_of(known.extras[f"{form}|{score}"], known.flawed)[1]
        for form in FORMS
        for score in SCORES
    }
    form, score = max(accuracies, key=lambda key: accuracies[key])
    aps = {
        each: pixel_ap(known.extras[f"{each}|map"][known.flawed], known.judged[known.flawed])
        for each in FORMS
    }
    sharpest = max(aps, key=lambda each: aps[each])
    truth = test.judged[test.flawed]
    figures = [
        accuracy(
            f"accuracy_dynamics_{name}",
            (known.extras[f"{form}|{score}"], known.flawed),
            (test.extras[f"{form}|{score}"], test.flawed),
            f"{form}, by its {score}, chosen on validation; paper 0.57-0.70, goal ≥ 0.65 for the best family",
        ),
        figure(
            f"pixel_ap_dynamics_{name}",
            pixel_ap(test.extras[f"{sharpest}|map"][test.flawed], truth),
            n=int(test.flawed.sum()),
            note=f"{sharpest}, chosen on validation; chance {(truth >= 128).mean() if truth.size else 0:.3f}",
        ),
    ]
    for each, by in ((each, by) for each in FORMS for by in SCORES):
        figures.append(
            accuracy(
                f"accuracy_{name}_{list(FORMS).index(each)}_{by}",
                (known.extras[f"{each}|{by}"], known.flawed),
                (test.extras[f"{each}|{by}"], test.flawed),
                each,
            )
        )
    if not told_nothing(name):
        figures += within(name, test, test.extras[f"{form}|{score}"])
    figures += trained_detector_figures(clinic, name, known, test)
    figures.append(question_figure(name, known, test, balanced(test.flawed)))
    shares = np.mean(test.extras[f"{form}|abnormal"], axis=0)
    table = {"change": list(range(1, len(shares) + 1)), "share": shares.tolist()}
    note = f"highest of the steps; curve in {curve(f'trainingfree-abnormal-{name}', table)}"
    figures.append(figure(f"abnormal_share_{name}", float(shares.max()), n=len(test.images), note=note))
    return figures, sharpest


def told_nothing(name: str) -> bool:
    """Whether a generator takes no prompts, so that its images have no categories."""
    return name == "ddpm"


def within(name: str, test: ImageRow, scores: np.ndarray) -> list[Figure]:
    """AUROC inside each category: is it the flaw that is seen, or the subject? The judge knows no classes."""
    order = scores.argsort().argsort() / max(len(scores) - 1, 1)
    figures = []
    for category in np.unique(test.categories):
        rows = test.categories == category
        flawed = test.flawed & rows
        if flawed.sum() < 5 or (rows & ~test.flawed).sum() < 5:
            continue
        auroc = float(area_under_roc(levels_of(order[flawed]), levels_of(order[rows & ~test.flawed])))
        note = f"{int(flawed.sum())} flawed; 0.5 is chance"
        figures.append(figure(f"auroc_dynamics_{name}_{category}", auroc, n=int(rows.sum()), note=note))
    return figures


@torch.no_grad()
def trained_detector_figures(
    clinic: ClinicModels, name: str, known: ImageRow, test: ImageRow
) -> list[Figure]:
    """The same for trained detectors and the reader's plausibility, which rates whole images."""
    doctor = load_detector(TREATMENT.folder("clinic/first_doctor"), device())
    figures = []
    for label, detector in (("first_doctor", doctor), ("champion", clinic.detector)):
        maps = [
            torch.cat([detector.confidence(part) for part in as_tensor(each.images).to(device()).split(32)])
            .cpu()
            .numpy()
            for each in (known, test)
        ]
        scores = [each.max((1, 2)) for each in maps]
        figures.append(
            accuracy(
                f"accuracy_{label}_{name}", (scores[0], known.flawed), (scores[1], test.flawed), "trained"
            )
        )
        ap = pixel_ap(np.rint(255 * maps[1][test.flawed]), test.judged[test.flawed])
        figures.append(figure(f"pixel_ap_{label}_{name}", ap, n=int(test.flawed.sum()), note="trained"))
    plain = [1 - clinic.reader.plausibility(each.images) for each in (known, test)]
    note = "the clinic's reader, which stands in for a VLM that is asked yes or no"
    figures.append(
        accuracy(f"accuracy_reader_{name}", (plain[0], known.flawed), (plain[1], test.flawed), note)
    )
    return figures


@dataclass(frozen=True)
class Choices:
    """What validation decided."""

    form: str
    """Of score dynamics."""
    champion: str
    """How the champion corrects, by its name among the choices."""

    def rows(self) -> dict[str, CorrectionConfig]:
        """The corrections that are compared."""
        found = FORMS[self.form].model_copy(update={"stop": 0.48})
        again = CHOICES[self.champion].model_copy(update={"regions": "everywhere", "cover": 1.0})
        return {
            "ttc": CorrectionConfig(dynamics=found),
            "replacement": CorrectionConfig(method="replacement", dynamics=found),
            "clipping": CorrectionConfig(method="clipping", dynamics=found),
            "sargd": CorrectionConfig(method="sargd", regions="detector", dynamics=found),
            "ttc_champion_once": CorrectionConfig(regions="detector", dynamics=found),
            "ttc_champion": CHOICES[self.champion],
            "everywhere": CorrectionConfig(regions="everywhere", dynamics=found),
            "everywhere_again": again,
        }

    def folder(self, row: str) -> str:
        """Where a row's images are kept."""
        return f"{row}-{self.champion if row in ('ttc_champion', 'everywhere_again') else self.form}"


def correction_steering(clinic: ClinicModels, config: CorrectionConfig, detector: Any = None) -> Steering:
    """Sampling with a correction; by the champion unless another detector is given."""
    asked = state_hash(clinic.detector) if detector is None else type(detector).__name__
    return Steering(
        config, asked, lambda texts, seeds: make_correctors(config, seeds, detector or clinic.detector)
    )


def guidance_steering(clinic: ClinicModels, config: GuidanceConfig) -> Steering:
    """Sampling guided by the champion."""
    return Steering(
        config, state_hash(clinic.detector), lambda texts, seeds: make_guides(config, texts, clinic.detector)
    )


def compared(
    clinic: ClinicModels, real: Tensor, none: ImageRow, row: str, other: ImageRow, how: str = ""
) -> list[Figure]:
    """One row against none: KID, recall, and the judge's frequency."""
    before, after = (compute_features(each.images, clinic.features) for each in (none, other))
    gap = kid_by_fold(real, after) - kid_by_fold(real, before)
    covered = [precision_recall(real, each)[1] for each in (before, after)]
    touched = float((none.images != other.images).any((1, 2, 3)).mean())
    note = f"{touched:.2f} of the images differ from none's"
    figures = [
        figure(f"kid_{row}_minus_none", float(gap.mean()), bootstrap(gap), "KID", len(none.images), note),
        figure(f"recall_{row}_minus_none", covered[1] - covered[0], None, "share", len(none.images)),
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


def correction_figures(clinic: ClinicModels, choices: Choices, how: str) -> list[Figure]:
    """Every row on FLUX, by prompts and seeds that all share; `how` says why the champion corrects so."""
    count, sampling, base = SIZES.kid, SAMPLING["flux"], Generator(clinic.flux)
    clean = render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy()
    real = compute_features(clean, clinic.features)
    none = generate_row(clinic, "none", base, *NONE)
    figures, shown = [], {"none": none}
    rows = choices.rows()
    for row, config in rows.items():
        steering = correction_steering(clinic, config)
        other = generate_row(clinic, choices.folder(row), base, sampling, "evaluation", count, steering)
        figures += compared(clinic, real, none, row, other, f"; {how}" if row == "ttc_champion" else "")
        shown[row] = other
    for row, guide in {"guidance": GuidanceConfig(), "reward": GuidanceConfig(kind="reward")}.items():
        few = count // 5 or count
        other = generate_row(clinic, row, base, sampling, "evaluation", few, guidance_steering(clinic, guide))
        shown[row] = other
        part = ImageRow(none.images[:few], none.judged[:few], none.categories[:few])
        note = f"by the champion, defaults; none's is {part.flawed.mean():.3f}"
        figures.append(paired_ratio(f"true_freq_{row}", other.flawed, part.flawed, note))
    sheet = f"{', '.join(shown)}, from top to bottom, in {sheet_of(shown, none.flawed[:few])}"
    figures.append(figure("correction_sheet", "reported", n=len(shown), note=sheet))
    figures.append(on_clean(clinic, none, rows["ttc"]))
    figures.append(with_treatment(clinic, choices))
    figures.append(overhead(clinic, rows["ttc"]))
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


def on_clean(clinic: ClinicModels, none: ImageRow, config: CorrectionConfig) -> Figure:
    """New artifacts where a region without fault is corrected (ASCED, Sec. 7.2)."""
    few = SIZES.clean
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


def overhead(clinic: ClinicModels, config: CorrectionConfig) -> Figure:
    """Time on top of sampling, decoding included in both."""
    family, sampling = load_family(clinic.flux, device=device()), SAMPLING["flux"]
    told, seeds = [prompt.text for prompt in prompts_of_row("evaluation", 16)], list(range(16))
    found = timing_ratio(
        "ttc_overhead",
        lambda: generate(family, told, seeds, sampling, steppers=make_correctors(config, seeds)),
        lambda: generate(family, told, seeds, sampling),
        pairs=3 if quick() else 9,
    )
    low, high = found.interval or (1.0, 1.0)
    return figure(
        "ttc_overhead", float(found.value) - 1, (low - 1, high - 1), "share", found.n, "goal ≤ 0.05"
    )


def ddpm_figures(clinic: ClinicModels) -> list[Figure]:
    """The same detection on a DDPM in pixels, where one is trained."""
    folder = trained_ddpm()
    if folder is None:
        note = "its training takes an hour or two: FULL=1, or a GPU; then it is kept and used always"
        return [figure("accuracy_dynamics_ddpm", "not measured", note=note)]
    found = detection(clinic, "ddpm", folder)[0]
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
    none = generate_row(clinic, "none", Generator(clinic.flux), *NONE)
    champion, how = choose_correction(clinic, partial(correction_steering, clinic))
    choices = Choices(form, champion)
    parts: dict[str, Callable[[], list[Figure]]] = {
        "detection-flux": lambda: flux,
        "detection-sd": lambda: detection(clinic, "sd", clinic.stable_diffusion)[0],
        "correction": lambda: correction_figures(clinic, choices, how),
        "flaw-activation": lambda: fam_figures("flux", none),
        "self-refining": lambda: self_refining(clinic),
        "detection-ddpm": lambda: ddpm_figures(clinic),
    }
    if full() or quick():
        ttc = choices.rows()["ttc"]
        parts |= {
            "moments": lambda: moment_figures(clinic, none, ttc, partial(correction_steering, clinic)),
            "steps": lambda: step_figures(clinic, form, FORMS[form]),
            "self-refining-sensitivity": lambda: sensitivity_of_training(clinic),
            "self-refining-seeds": lambda: gain_over_seeds(clinic),
            "self-refining-fid": lambda: fid_figures(clinic),
            "correction-fid": lambda: correction_fid_figures(clinic, choices),
        }
    write_in_parts("trainingfree", parts, list(SEED.values()), KEEPER.key)
    draw_abnormal()


if __name__ == "__main__":
    main()
