"""Detection, correction and guidance without training, on the clinic's generators, by its judge.

    make bench-trainingfree            about 45 minutes on two cores, resumable
    QUICK=1 make bench-trainingfree    proves that the command works

Settings and thresholds are chosen on validation prompts; figures stand on others. What is drawn is kept in
`build/bench/kept/trainingfree`, in parts, and is not drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.clinic.training.data import render
from dataengine.clinic.world import Prompt, prompts, stream
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.detector import load_detector
from dataengine.diagnosis.dynamics import Dynamics
from dataengine.diagnosis.ranking import area_under_roc, average_precision, levels_of
from dataengine.quality.distances import features, precision_recall
from dataengine.treatment.config import CorrectionConfig, GuidanceConfig, SamplingConfig
from dataengine.treatment.correction import correcting
from dataengine.treatment.families import GeneratorFamily
from dataengine.treatment.guidance import guiding
from dataengine.treatment.loading import load_family
from dataengine.treatment.sampling import Steppers, as_tensor, generate
from dataengine.treatment.trajectory import Recorder, map_of
from tests.bench.harness import (
    RESULTS,
    Figure,
    bootstrap,
    curve,
    figure,
    full,
    quick,
    share,
    timing_ratio,
    write,
)
from tests.bench.treated import FLAWED, Ward, open_ward, ratio, tuned
from tests.bench.treated import WORK as TREATMENT
from tests.bench.treatment import rows as treatments

WORK = RESULTS / "kept" / ("trainingfree-quick" if quick() else "trainingfree")
SEED = {"validation": 20_000, "evaluation": 30_000}
FOLDS = 10
"""Parts whose KIDs are compared pair by pair, each an unbiased estimate of its own."""
SAMPLING = {
    "flux": SamplingConfig(steps=10, batch=32),
    "sd": SamplingConfig(steps=25, batch=32, guidance=3.0),
}
SIGMAS = (2 / 256, 1 / 32, 1 / 16)
"""Smoothing that is chosen among: the released value, half a latent, a latent."""
FORMS = {f"robust, σ {sigma:.3g}": DynamicsConfig(sigma=sigma) for sigma in SIGMAS} | {
    "paper's threshold": DynamicsConfig(form="paper")
}
SCORES: dict[str, Callable[[Dynamics], float]] = {
    "furthest": lambda found: float(found.excess.max()),
    "regions": lambda found: float(found.regions.mean()),
    "strength": lambda found: found.strength,
}
"""What an image is judged by as a whole."""


@dataclass(frozen=True)
class Sizes:
    """How much is drawn."""

    part: int
    validation: int
    accuracy: int
    """Most images drawn to find flawed and clean ones among."""
    kind: int
    """Flawed images, and clean ones, that accuracy stands on."""
    kid: int
    clean: int
    """Images of which the clean ones get a clean region corrected."""


SIZES = Sizes(8, 16, 16, 4, 16, 8) if quick() else Sizes(50, 300, 1000, 100, 5000 if full() else 1000, 300)


@dataclass(frozen=True)
class Drawn:
    """Images with what is seen in them, rows alike."""

    images: np.ndarray
    judged: np.ndarray
    """The judge's confidence, uint8 NHW."""
    categories: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def flawed(self) -> np.ndarray:
        return self.judged.max((1, 2)) >= round(255 * FLAWED)


class Patch:
    """Stands for a detector that suspects a square, wherever nothing is wrong."""

    def confidence(self, images: Tensor) -> Tensor:
        """1 in a square of a quarter of the side, off the middle."""
        found = torch.zeros_like(images[:, 0])
        side = images.shape[-1] // 4
        found[:, side : 2 * side, side : 2 * side] = 1
        return found


def asked(use: str, count: int) -> list[Prompt]:
    """Prompts in an order of all categories, repeated where the world has fewer."""
    known = prompts(use, min(count, 400))
    return [known[i % len(known)] for i in range(count)]


def drawn(
    ward: Ward,
    row: str,
    family: Callable[[], GeneratorFamily],
    sampling: SamplingConfig,
    use: str,
    count: int,
    steer: Callable[[Sequence[str], Sequence[int]], Steppers] | None = None,
    watched: Mapping[str, DynamicsConfig] | None = None,
) -> Drawn:
    """Images of a row, in parts that are kept; prompts and seeds are the same for all rows."""
    folder, opened = WORK / row / use, None
    all_prompts, parts = asked(use, count), []
    for start in range(0, count, SIZES.part):
        file = folder / f"{start}-{SIZES.part}.npz"
        if not file.is_file():
            opened = opened or family()
            rows = range(start, min(start + SIZES.part, count))
            told, seeds = [all_prompts[i].text for i in rows], [SEED[use] + i for i in rows]
            steppers = None if steer is None else steer(told, seeds)
            recorders: dict[str, list[Recorder]] = {name: [] for name in watched or {}}
            if watched:
                steppers = partial(_watching, watched, recorders)
            images = generate(opened, told, seeds, sampling, steppers=steppers)
            kept = {"images": images, "judged": _judged(ward, images)} | _dynamics(recorders, images)
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, **kept)
            part.replace(file)
        with np.load(file, allow_pickle=False) as stored:
            parts.append({key: stored[key] for key in stored.files})
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Drawn(
        images=joined.pop("images"),
        judged=joined.pop("judged"),
        categories=np.array([prompt.category for prompt in all_prompts]),
        extras=joined,
    )


def _watching(
    watched: Mapping[str, DynamicsConfig], recorders: dict[str, list[Recorder]], rows: slice
) -> Any:
    """Recorders inside each other, so that one drawing serves all settings."""
    stepper = None
    for name, config in watched.items():
        stepper = Recorder(config) if stepper is None else Recorder(config, stepper)
        recorders[name].append(stepper)
    return stepper


def _dynamics(recorders: Mapping[str, list[Recorder]], images: np.ndarray) -> dict[str, np.ndarray]:
    kept = {}
    for name, batches in recorders.items():
        found = [each for recorder in batches for each in recorder.dynamics()]
        maps = np.stack([map_of(each, images.shape[1:3]) for each in found])
        kept[f"{name}|map"] = np.rint(255 * maps).astype(np.uint8)
        kept[f"{name}|abnormal"] = np.stack([each.abnormal.mean((1, 2)) for each in found])
        for score, of in SCORES.items():
            kept[f"{name}|{score}"] = np.array([of(each) for each in found])
    return kept


@torch.no_grad()
def _judged(ward: Ward, images: np.ndarray) -> np.ndarray:
    found = torch.cat([ward.judge.confidence(part) for part in as_tensor(images).split(32)])
    return np.rint(255 * found.numpy()).astype(np.uint8)


# ---- detection ---------------------------------------------------------------------------------------------


def threshold_of(scores: np.ndarray, flawed: np.ndarray) -> tuple[float, float]:
    """(threshold, balanced accuracy) of the best threshold: flawed is what reaches it."""
    best = (float(np.inf), 0.5)
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
        return figure(id, "not measured", note="no flawed image was drawn")
    right = int(((scores >= level) == flawed).sum())
    return share(id, right, len(scores), f"{note}; threshold {level:.4g} from validation")


def pixel_ap(map_: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of 8-bit maps over the pixels of the flawed images."""
    inside = truth >= round(255 * FLAWED)
    if not inside.any():
        return 0.0
    return float(average_precision(levels_of(map_[inside] / 255), levels_of(map_[~inside] / 255)))


def detection(ward: Ward, name: str, base: Path) -> tuple[list[Figure], str]:
    """Accuracy of score dynamics of one generator, detectors beside it; and the form chosen on validation."""
    open_one = partial(load_family, base)
    known, test = (
        drawn(ward, f"{name}-watched", open_one, SAMPLING[name], use, count, watched=FORMS)
        for use, count in (("validation", SIZES.validation), ("evaluation", SIZES.accuracy))
    )
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
    figures += within(name, test, test.extras[f"{form}|{score}"])
    figures += beside(ward, name, known, test)
    shares = np.mean(test.extras[f"{form}|abnormal"], axis=0)
    table = {"change": list(range(1, len(shares) + 1)), "share": shares.tolist()}
    note = f"highest of the steps; curve in {curve(f'trainingfree-abnormal-{name}', table)}"
    figures.append(figure(f"abnormal_share_{name}", float(shares.max()), n=len(test.images), note=note))
    return figures, sharpest


def within(name: str, test: Drawn, scores: np.ndarray) -> list[Figure]:
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
def beside(ward: Ward, name: str, known: Drawn, test: Drawn) -> list[Figure]:
    """The same for trained detectors and the reader's plausibility, which sees whole images."""
    doctor = load_detector(TREATMENT / "clinic" / "first_doctor")
    figures = []
    for label, detector in (("first_doctor", doctor), ("champion", ward.detector)):
        maps = [
            torch.cat([detector.confidence(part) for part in as_tensor(each.images).split(32)]).numpy()
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
    plain = [1 - ward.reader.plausibility(each.images) for each in (known, test)]
    note = "the clinic's reader, which stands in for a VLM that is asked yes or no"
    figures.append(
        accuracy(f"accuracy_reader_{name}", (plain[0], known.flawed), (plain[1], test.flawed), note)
    )
    return figures


# ---- correction and guidance -------------------------------------------------------------------------------


def corrections(form: str) -> dict[str, CorrectionConfig]:
    """The rows, with regions of the form chosen on validation."""
    found = FORMS[form].model_copy(update={"stop": 0.48})
    return {
        "ttc": CorrectionConfig(dynamics=found),
        "replacement": CorrectionConfig(method="replacement", dynamics=found),
        "clipping": CorrectionConfig(method="clipping", dynamics=found),
        "sargd": CorrectionConfig(method="sargd", regions="detector", dynamics=found),
        "ttc_champion": CorrectionConfig(regions="detector", dynamics=found),
        "everywhere": CorrectionConfig(regions="everywhere", dynamics=found),
    }


def correction_steer(
    ward: Ward, config: CorrectionConfig, detector: Any = None
) -> Callable[[Sequence[str], Sequence[int]], Steppers]:
    return lambda told, seeds: correcting(config, seeds, detector or ward.detector)


def guidance_steer(ward: Ward, config: GuidanceConfig) -> Callable[[Sequence[str], Sequence[int]], Steppers]:
    return lambda told, seeds: guiding(config, told, ward.detector)


def kids(real: Tensor, vectors: Tensor) -> np.ndarray:
    """KID of each fold, unbiased (Bińkowski et al. 2018), in the classifier's features."""
    from torchmetrics.image.kid import poly_mmd

    folds = zip(real.chunk(FOLDS), vectors.chunk(FOLDS), strict=True)
    return np.array([float(poly_mmd(*pair)) for pair in folds])


def compared(ward: Ward, real: Tensor, none: Drawn, row: str, other: Drawn) -> list[Figure]:
    """One row against none: KID, recall, and the judge's frequency."""
    before, after = (features(each.images, ward.features) for each in (none, other))
    gap = kids(real, after) - kids(real, before)
    covered = [precision_recall(real, each)[1] for each in (before, after)]
    touched = float((none.images != other.images).any((1, 2, 3)).mean())
    note = f"{touched:.2f} of the images differ from none's"
    return [
        figure(f"kid_{row}_minus_none", float(gap.mean()), bootstrap(gap), "KID", len(none.images), note),
        figure(f"recall_{row}_minus_none", covered[1] - covered[0], None, "share", len(none.images)),
        ratio(f"true_freq_{row}", other.flawed, none.flawed, f"none's is {none.flawed.mean():.3f}"),
    ]


def steering(ward: Ward, form: str) -> list[Figure]:
    """Every row on FLUX, by prompts and seeds that all share."""
    count, sampling, base = SIZES.kid, SAMPLING["flux"], partial(load_family, ward.flux)
    clean = render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy()
    real = features(clean, ward.features)
    none = drawn(ward, "none", base, sampling, "evaluation", count)
    figures = []
    rows = corrections(form)
    for row, config in rows.items():
        steer = correction_steer(ward, config)
        other = drawn(ward, f"{row}-{form}", base, sampling, "evaluation", count, steer)
        figures += compared(ward, real, none, row, other)
    for row, guide in {"guidance": GuidanceConfig(), "reward": GuidanceConfig(kind="reward")}.items():
        few = count // 5 or count
        other = drawn(ward, row, base, sampling, "evaluation", few, guidance_steer(ward, guide))
        part = Drawn(none.images[:few], none.judged[:few], none.categories[:few])
        note = f"by the champion, defaults; none's is {part.flawed.mean():.3f}"
        figures.append(ratio(f"true_freq_{row}", other.flawed, part.flawed, note))
    figures.append(on_clean(ward, none, rows["ttc"]))
    figures += with_treatment(ward, rows["ttc_champion"])
    figures.append(overhead(ward, rows["ttc"]))
    return figures


def on_clean(ward: Ward, none: Drawn, config: CorrectionConfig) -> Figure:
    """New artifacts where a region without fault is corrected (ASCED, Sec. 7.2)."""
    few = SIZES.clean
    wanted = config.model_copy(update={"regions": "detector"})
    steer = correction_steer(ward, wanted, Patch())
    base = partial(load_family, ward.flux)
    other = drawn(ward, "patch", base, SAMPLING["flux"], "evaluation", few, steer)
    clean = ~none.flawed[:few]
    new = int(other.flawed[clean].sum())
    return share(
        "ttc_on_clean", new, int(clean.sum()), "a square of 1/16 of the image corrected; goal ≤ 0.02"
    )


def with_treatment(ward: Ward, config: CorrectionConfig) -> list[Figure]:
    """Treated, corrected, and both."""
    run = tuned(ward, "all", treatments(ward)["all"])
    few, sampling = SIZES.clean, SAMPLING["flux"]
    treated = partial(load_family, run.base, lora=run.points[run.last])
    steer = correction_steer(ward, config)
    made = {
        "treated": drawn(ward, "treated", treated, sampling, "evaluation", few),
        "corrected": drawn(
            ward, "corrected", partial(load_family, run.base), sampling, "evaluation", few, steer
        ),
        "both": drawn(ward, "treated-corrected", treated, sampling, "evaluation", few, steer),
    }
    alone = min(("treated", "corrected"), key=lambda row: made[row].flawed.mean())
    note = f"over {alone} alone; " + ", ".join(
        f"{row} {each.flawed.mean():.3f}" for row, each in made.items()
    )
    return [ratio("treated_plus_ttc", made["both"].flawed, made[alone].flawed, note)]


def overhead(ward: Ward, config: CorrectionConfig) -> Figure:
    """Time on top of sampling, decoding included in both."""
    family, sampling = load_family(ward.flux), SAMPLING["flux"]
    told, seeds = [prompt.text for prompt in asked("evaluation", 16)], list(range(16))
    found = timing_ratio(
        "ttc_overhead",
        lambda: generate(family, told, seeds, sampling, steppers=correcting(config, seeds)),
        lambda: generate(family, told, seeds, sampling),
        pairs=3 if quick() else 9,
    )
    low, high = found.interval or (1.0, 1.0)
    return figure(
        "ttc_overhead", float(found.value) - 1, (low - 1, high - 1), "share", found.n, "goal ≤ 0.05"
    )


def main() -> None:
    ward = open_ward()
    flux, form = detection(ward, "flux", ward.flux)
    sd, _ = detection(ward, "sd", ward.stable_diffusion)
    write("trainingfree", [*flux, *sd, *steering(ward, form)], seeds=list(SEED.values()))


if __name__ == "__main__":
    main()
