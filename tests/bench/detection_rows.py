"""Accuracy of score dynamics, of trained detectors and of questions, for `bench-trainingfree`."""

from pathlib import Path

import numpy as np
import torch

from dataengine.diagnosis.detector import load_detector
from dataengine.diagnosis.ranking import area_under_roc, average_precision, levels_of
from dataengine.treatment.sampling.sampler import as_tensor
from tests.bench.guided_sampling import (
    EARLIER,
    FORMS,
    MOMENTS,
    SAMPLING,
    SCORES,
    SIZES,
    UP_TO,
    Generator,
    ImageRow,
    generate_row,
)
from tests.bench.harness import Figure, curve, device, figure, share
from tests.bench.questions import question_figure
from tests.bench.sensitivity import overlap
from tests.bench.treatment_rows import FLAWED, ClinicModels
from tests.bench.treatment_rows import KEEPER as TREATMENT


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
    row: str, known: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], note: str
) -> list[Figure]:
    """Accuracy, precision and recall of `row` on as many flawed as clean images, by a threshold from
    validation; both are (scores, flawed)."""
    level, _ = threshold_of(*known)
    scores, flawed = (values[balanced(test[1])] for values in test)
    if not len(scores):
        drawn_ones = f"{int(test[1].sum())} of {len(test[1])} drawn images are"
        note = f"flawed and clean images are needed; {drawn_ones} flawed"
        return [figure(f"accuracy_{row}", "not measured", note=note)]
    found = scores >= level
    right, hits, marked = int((found == flawed).sum()), int((found & flawed).sum()), int(found.sum())
    figures = [
        share(f"accuracy_{row}", right, len(scores), f"{note}; threshold {level:.4g} from validation"),
        figure(f"precision_{row}", "not measured", note="no image is marked"),
        share(f"recall_{row}", hits, int(flawed.sum()), "of the flawed images"),
    ]
    if marked:
        figures[1] = share(f"precision_{row}", hits, marked, "of the images that are marked; chance 0.5")
    return figures


def pixel_ap(map_: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of 8-bit maps over the pixels of the flawed images."""
    inside = truth >= round(255 * FLAWED)
    if not inside.any():
        return 0.0
    return float(average_precision(levels_of(map_[inside] / 255), levels_of(map_[~inside] / 255)))


def generate_with_dynamics(clinic: ClinicModels, name: str, base: Path, use: str, count: int) -> ImageRow:
    """Images of a generator with the score dynamics recorded during sampling."""
    open_one = Generator(base)
    return generate_row(
        clinic, f"{name}-watched", open_one, SAMPLING[name], use, count, recorded=FORMS | UP_TO | EARLIER
    )


def detection(clinic: ClinicModels, name: str, base: Path) -> tuple[list[Figure], str]:
    """Accuracy of score dynamics of one generator; and the rule chosen on validation, by its maps."""
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
        *accuracy(
            f"dynamics_{name}",
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
    figures += [*rule_figures(name, known, test), *moments_of_detection(name, known, test)]
    if not told_nothing(name):
        figures += within(name, test, test.extras[f"{form}|{score}"])
    shares = np.mean(test.extras[f"{form}|abnormal"], axis=0)
    table = {"change": list(range(1, len(shares) + 1)), "share": shares.tolist()}
    note = f"highest of the steps; curve in {curve(f'trainingfree-abnormal-{name}', table)}"
    figures.append(figure(f"abnormal_share_{name}", float(shares.max()), n=len(test.images), note=note))
    return figures, sharpest


def rule_figures(name: str, known: ImageRow, test: ImageRow) -> list[Figure]:
    """Every rule and score by itself, and how the earlier rule's regions overlap with the released one's."""
    rules, truth, figures = [*FORMS, *EARLIER], test.judged[test.flawed], []
    for each, by in ((each, by) for each in rules for by in SCORES):
        told = [(row.extras[f"{each}|{by}"], row.flawed) for row in (known, test)]
        figures += accuracy(f"{name}_{rules.index(each)}_{by}", told[0], told[1], each)
    for each in rules:
        ap = pixel_ap(test.extras[f"{each}|map"][test.flawed], truth)
        regions = float(test.extras[f"{each}|regions"].mean())
        note = f"{each}; regions cover {regions:.3f} of an image"
        figures.append(figure(f"pixel_ap_{name}_{rules.index(each)}", ap, n=len(truth), note=note))
    pairs = {"earlier rule, σ 2": "released", "earlier rule, σ 16": "released, σ 16"}
    for before, after in pairs.items():
        same = overlap(*(test.extras[f"{each}|map"] >= 128 for each in (before, after)))
        id = f"region_overlap_{name}_{rules.index(before)}"
        figures.append(figure(id, same, None, "IoU", len(test.images), f"{before}, and {after}"))
    return figures


def moments_of_detection(name: str, known: ImageRow, test: ImageRow) -> list[Figure]:
    """Accuracy, precision and recall of what is known at T_c, over T_c (ASCED, Fig. 8 and 11): by the score
    that is best on validation at that T_c, and of the regions' pixels."""
    figures, rows = [], []
    for moment, form in zip(MOMENTS, UP_TO, strict=True):
        scores = {by: threshold_of(known.extras[f"{form}|{by}"], known.flawed)[1] for by in SCORES}
        by = max(scores, key=lambda each: scores[each])
        told = [(row.extras[f"{form}|{by}"], row.flawed) for row in (known, test)]
        found = accuracy(f"dynamics_{name}_at_{moment:g}", told[0], told[1], f"{form}, by its {by}")
        figures += found
        pixels = pixel_precision_recall(test.extras[f"{form}|map"], test.judged)
        rows.append((moment, *(each.value for each in found), *pixels))
    names = ("moment", "accuracy", "precision", "recall", "pixel_precision", "pixel_recall")
    if all(len(row) == len(names) for row in rows):
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        kept = curve(f"trainingfree-detection-moments-{name}", columns)
        at = [float(row[1]) for row in rows]
        note = f"T_c / T of the highest accuracy, {max(at):.3f}; precision and recall in {kept}"
        figures.append(figure(f"best_detection_moment_{name}", MOMENTS[int(np.argmax(at))], note=note))
    return figures


def pixel_precision_recall(map_: np.ndarray, judged: np.ndarray) -> tuple[float, float]:
    """Precision and recall of the pixels in regions, against the judge's, over all images; both 8-bit."""
    found, truth = map_ >= 128, judged >= round(255 * FLAWED)
    hits = int((found & truth).sum())
    return hits / max(int(found.sum()), 1), hits / max(int(truth.sum()), 1)


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
def detector_figures(clinic: ClinicModels, name: str, base: Path) -> list[Figure]:
    """The same for trained detectors, the reader's plausibility, which rates whole images, and a question."""
    known = generate_with_dynamics(clinic, name, base, "validation", SIZES.validation)
    test = generate_with_dynamics(clinic, name, base, "evaluation", SIZES.accuracy)
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
        told = (scores[0], known.flawed), (scores[1], test.flawed)
        figures += accuracy(f"{label}_{name}", *told, "trained")
        ap = pixel_ap(np.rint(255 * maps[1][test.flawed]), test.judged[test.flawed])
        figures.append(figure(f"pixel_ap_{label}_{name}", ap, n=int(test.flawed.sum()), note="trained"))
    plain = [1 - clinic.reader.plausibility(each.images) for each in (known, test)]
    note = "the clinic's reader, which stands in for a VLM that is asked yes or no"
    figures += accuracy(f"reader_{name}", (plain[0], known.flawed), (plain[1], test.flawed), note)
    figures.append(question_figure(name, known, test, balanced(test.flawed)))
    return figures
