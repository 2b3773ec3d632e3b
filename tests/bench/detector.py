"""`make bench-detector`: training of the detector as in the paper's Table 1, on the embedded clinic.

Five detectors, each with one source of data more than the one before; how many labels mining saves; what
dynamic shrink and strong augmentation bring; whether the first detector's maps identify the hard categories.

Resumable: every trained detector is kept under what it was trained on (see `Keeper`) and resumes from its
last checkpoint, on this machine or, with `build/bench/kept/detector`, on another. One seed by default, three
with `FULL=1`, of which the first alone has the control and the rows without an augmentation; `QUICK=1` proves
in under a minute that the command works.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from dataengine.clinic.world import CATEGORIES, HARD
from dataengine.curation.config import HardCategoryConfig, MiningConfig
from dataengine.curation.hard_categories import hard_categories
from dataengine.curation.mining import MiningCandidate, choose_images, thumbnail_features
from dataengine.diagnosis.calibration import calibrate
from dataengine.diagnosis.config import AugmentationConfig, DetectorTrainingConfig
from dataengine.diagnosis.dataset import Sample
from dataengine.diagnosis.detector import NetworkDetector, artifact_maps, load_detector
from dataengine.diagnosis.evaluation import measure_detector
from dataengine.diagnosis.training import RESULT_FILE, train_detector
from dataengine.quality.intervals import ratio_of_means as paired_ratio
from pipelines.detectors.predict import mean_uncertainty
from tests.bench import detector_data as data
from tests.bench.detector_data import KEEPER, Pool, memory
from tests.bench.harness import Figure, figure, full, leave, mean, quick, share, write

ROWS = ("previous", "real", "hard", "small pseudo", "large pseudo")
CONTROL = "control"
"""The teacher trained on for as long again, without pseudo-labels: what time alone brings."""
OFF = ("shrink", "strong")
"""Kinds of augmentation that the last row is also trained without."""
AUGMENTED = AugmentationConfig(shrink=0.5, strong=0.5)
"""What all rows but those without one of them are trained with."""
SURVEYS = 5


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data and the trainings."""

    previous: int = 1200
    real: int = 900
    pool: int = 3000
    """Images of hard categories that labels are chosen from."""
    labels: int = 1200
    small: int = 800
    large: int = 6000
    benchmark: int = 400
    steps: int = 2000
    random: int = 600
    """Randomly chosen labels that mining is compared with."""
    mined: tuple[int, ...] = (75, 150, 300, 600)
    efficiency_steps: int = 350
    survey: int = 40


SMALL = Sizes(40, 30, 60, 30, 20, 40, 24, 3, 20, (10, 20), 3, 2)


@dataclass(frozen=True)
class Training:
    """One detector to train: the settings, the examples by name, and the training that it continues."""

    config: DetectorTrainingConfig
    examples: tuple[str, ...]
    teacher: str | None = None


@dataclass(frozen=True)
class Bench:
    """One seed of the whole benchmark."""

    sizes: Sizes
    seed: int

    @property
    def schedule(self) -> DetectorTrainingConfig:
        """The schedule of the demo, with the mixture of a larger set; not tuned here."""
        return DetectorTrainingConfig(
            name="bench",
            steps=self.sizes.steps,
            batch=16,
            lr=1e-3,
            head_factor=2.0,
            ema=0.99,
            warmup=0.05,
            device="cpu",
            workers=1,
            checkpoint_every=150,
            mixture={"true": 0.45, "pseudo": 0.2, "real": 0.15, "previous": 0.2},
            balance=1.0,
            augmentation=AUGMENTED,
            seed=self.seed,
        )

    @cached_property
    def trainings(self) -> dict[str, Training]:
        """All of them by name. Those with pseudo-labels continue from their teacher, as in a round, and so
        does the control, without pseudo-labels."""
        sizes, config = self.sizes, self.schedule
        common = ("previous", "real")
        labelled = (*common, f"mined {sizes.labels}")
        everything = (*labelled, f"pseudo {sizes.large}")
        short = config.model_copy(update={"steps": sizes.efficiency_steps})

        def without(change: str) -> DetectorTrainingConfig:
            augmentation = AUGMENTED.model_copy(update={change: 0.0})
            return config.model_copy(update={"augmentation": augmentation})

        return {
            "real": Training(config, common),
            "hard": Training(config, labelled),
            "small pseudo": Training(config, (*labelled, f"pseudo {sizes.small}"), "hard"),
            "large pseudo": Training(config, everything, "hard"),
            CONTROL: Training(config, labelled, "hard"),
            **{f"without {change}": Training(without(change), everything, "hard") for change in OFF},
            "random": Training(short, (*common, f"random {sizes.random}")),
            **{f"mined {n}": Training(short, (*common, f"mined {n}")) for n in sizes.mined},
        }

    def work(self, name: str) -> Path:
        """The folder of a training, named by everything that it follows from."""
        training = self.trainings[name]
        settings = {
            "config": training.config,
            "examples": training.examples,
            "sizes": self.sizes,
            "teacher": training.teacher and self.work(training.teacher).name,
        }
        return KEEPER.folder(f"seed{self.seed}-{name}", settings)

    def folder(self, name: str) -> Path:
        """The detector of a training; of "previous", the first detector as shipped."""
        return data.first_doctor() if name == ROWS[0] else self.work(name) / "detector"

    def train(self, name: str) -> None:
        """Train and measure what is not there yet."""
        self._train(name)
        self.leave(name)

    def leave(self, name: str) -> None:
        """Measure a trained detector; with `FULL=1` its means are stored in the repository."""
        measured = sets(self.sizes).measured(self.folder(name))
        if not full():
            return
        figures = [
            mean(f"{of}_{value}", values, note=f"{name}, {of} images")
            for of, by_value in measured.items()
            for value, values in by_value.items()
        ]
        leave("detector", f"seed{self.seed}-{name}", figures, [self.seed], KEEPER.key)

    def _train(self, name: str) -> None:
        training, work = self.trainings[name], self.work(name)
        if (work / RESULT_FILE).is_file():
            return
        samples = memory(*(self.examples(part) for part in training.examples))
        print(
            f"seed {self.seed}: {name}, {len(samples)} examples, {training.config.steps} updates", flush=True
        )
        start = self.folder(training.teacher or ROWS[0])
        train_detector(training.config, samples, start, work)

    # ---- examples --------------------------------------------------------------------------------------

    def examples(self, name: str) -> list[Sample]:
        """Training examples by kind and number."""
        kind, _, count = name.partition(" ")
        if kind == "previous":
            return data.previous(self.sizes.previous).samples("previous")
        if kind == "real":
            return data.photos(self.sizes.real, self.seed * 10_000).samples("real")
        return {"mined": self.mined, "random": self.at_random, "pseudo": self.pseudo}[kind](int(count))

    @cached_property
    def pool(self) -> Pool:
        """Unlabelled images of the hard categories."""
        return data.generated("loop", self.sizes.pool, self.seed * 100_000, HARD)

    @cached_property
    def everything(self) -> Pool:
        """Unlabelled images of all categories, for pseudo-labels."""
        return data.generated("loop", self.sizes.large, 50_000 + self.seed * 100_000)

    def drawings(self, names: Iterable[str]) -> Iterator[Callable[[], object]]:
        """What draws the parts of what these trainings learn from."""
        kinds = {example.partition(" ")[0] for name in names for example in self.trainings[name].examples}
        for kind in sorted(kinds & {"previous", "real"}):
            yield partial(self.examples, kind)
        if "mined" in kinds:
            for span in data.spans(self.sizes.pool, self.seed * 100_000):
                yield partial(data.chunk, "loop", *span, HARD)
        if kinds & {"random", "pseudo"}:
            for span in data.spans(self.sizes.large, 50_000 + self.seed * 100_000):
                yield partial(data.chunk, "loop", *span)

    def mined(self, count: int) -> list[Sample]:
        """Human labels of the images that mining selects with the first detector."""
        maps = artifact_maps(load_detector(data.first_doctor()), list(self.pool.images), 64)
        candidates = [
            MiningCandidate(
                image_id=f"{index:06d}",
                category=self.pool.categories[index],
                confidence=float(map_.max()),
                uncertainty=mean_uncertainty(map_),
                features=look,
                thumbnail=look,
            )
            for index, (map_, look) in enumerate(zip(maps, thumbnail_features(self.pool.images), strict=True))
        ]
        choices = choose_images(candidates, MiningConfig(budget=count, explore=0.3, seed=self.seed))
        chosen = [int(choice.image_id) for choice in choices]
        return self.pool.take(chosen).samples("true", [float(maps[i].max()) for i in chosen])

    def at_random(self, count: int) -> list[Sample]:
        """Human labels of randomly chosen images of all categories."""
        drawn = np.random.default_rng(self.seed).permutation(len(self.everything))[:count]
        return self.everything.take(drawn.tolist()).samples("true", [1.0] * len(drawn))

    def pseudo(self, count: int) -> list[Sample]:
        """The teacher's maps of images that nobody answered; hard categories and others alike."""
        unlabelled = self.everything.take(range(count))
        maps = artifact_maps(load_detector(self.folder("hard")), list(unlabelled.images), 64)
        return unlabelled.samples("pseudo", [float(map_.max()) for map_ in maps], maps)


def train_all(chosen: Sequence[tuple[Bench, str]], jobs: int) -> None:
    """Train what has these names, `jobs` at a time: teachers first, after what all of them learn from."""
    waiting = [(bench, name) for bench, name in chosen if not (bench.work(name) / RESULT_FILE).is_file()]
    benches = list(dict.fromkeys(bench for bench, _ in waiting))
    data.first_doctor()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        draws = [
            draw for bench in benches for draw in bench.drawings(name for of, name in waiting if of is bench)
        ]
        if waiting:
            draws.append(partial(sets, benches[0].sizes))
        for drawn in [pool.submit(_quietly, draw) for draw in draws]:
            drawn.result()
        for late in (False, True):
            wave = [each for each in waiting if bool(each[0].trainings[each[1]].teacher) == late]
            for trained in [pool.submit(Bench.train, *each) for each in wave]:
                trained.result()


def _quietly(draw: Callable[[], object]) -> None:
    draw()


def label_efficiency(bench: Bench, error: Callable[[Path], float]) -> tuple[float, list[float], float]:
    """(labels at random ÷ mined labels of equal error, errors by mined count, error at random)."""
    wanted = error(bench.folder("random"))
    errors = [error(bench.folder(f"mined {n}")) for n in bench.sizes.mined]
    return bench.sizes.random / needed(bench.sizes.mined, errors, wanted), errors, wanted


def needed(counts: Sequence[int], errors: Sequence[float], wanted: float) -> float:
    """Labels at which the running best of `errors` reaches `wanted`, interpolated over log counts.

    The first count when that is enough; the last one times the ratio of errors when none is.
    """
    best = np.minimum.accumulate(errors)
    if best[0] <= wanted:
        return float(counts[0])
    if best[-1] > wanted:
        return float(counts[-1] * best[-1] / wanted)
    logs = np.interp(-wanted, -best, np.log(counts))
    return float(np.exp(logs))


@dataclass(frozen=True)
class Sets:
    """What detectors are measured on, the same for all seeds."""

    hard: Pool
    clean: Pool
    people: Pool

    def measured(self, folder: Path) -> "Measured":
        """Per set, the figures of each image by name; kept."""
        name = f"measured/{folder.relative_to(KEEPER.place).as_posix().replace('/', '-')}-{len(self.hard)}"
        found = KEEPER.get(name)
        if found is None:
            found = {of: _figures_of(load_detector(folder), pool) for of, pool in vars(self).items()}
            KEEPER.keep(name, found)
        return found


Measured = dict[str, dict[str, list[float]]]
KEPT = ("mse", "kl", "kl1m", "alarm", "hit", "flawed")


def _figures_of(detector: NetworkDetector, pool: Pool) -> dict[str, list[float]]:
    rows = measure_detector(detector, memory(pool.samples("true")), batch=64)
    return {name: [float(getattr(row, name)) for row in rows] for name in KEPT}


def sets(sizes: Sizes) -> Sets:
    """The hard benchmark, artifact-free images, and correct hands and faces."""
    return Sets(
        hard=data.generated("benchmark", sizes.benchmark, 0, HARD),
        clean=data.benchmark_clean(sizes.benchmark),
        people=data.benchmark_clean(sizes.benchmark // 2, ("hand", "face")),
    )


def ratio(id: str, first: np.ndarray, last: np.ndarray, note: str) -> Figure:
    """mean(last) / mean(first) over paired images, one row each, with its bootstrap interval."""
    value, interval = paired_ratio(first, last, [str(row) for row in range(len(first))])
    return figure(id, value, interval, "ratio", len(first), note)


def over_seeds(measured: Sequence[Measured], name: str, value: str) -> np.ndarray:
    """A figure of each image, averaged over the seeds."""
    return np.mean([each[name][value] for each in measured], axis=0)


def table_rows(by_row: Mapping[str, list[Measured]], counts: Mapping[str, str]) -> list[Figure]:
    """The five metrics of Table 1 for each row, and the claims about their order."""
    figures = []
    for row, measured in by_row.items():
        key = row.replace(" ", "_")
        for id, name, value in (
            ("mse", "hard", "mse"),
            ("kl", "hard", "kl"),
            ("kl1m", "hard", "kl1m"),
            ("clean_mse", "clean", "mse"),
            ("clean_kl1m", "clean", "kl1m"),
        ):
            figures.append(mean(f"{id}_{key}", over_seeds(measured, name, value), note=counts[row]))
        alarms = [alarm for each in measured for alarm in each["people"]["alarm"]]
        missed = [
            not hit
            for each in measured
            for hit, flawed in zip(each["hard"]["hit"], each["hard"]["flawed"], strict=True)
            if flawed
        ]
        figures.append(
            share(f"false_alarm_{key}", round(sum(alarms)), len(alarms), "correct hands and faces")
        )
        figures.append(share(f"miss_{key}", sum(missed), len(missed), "flawed images without a hit"))
    errors = [float(over_seeds(by_row[row], "hard", "mse").mean()) for row in ROWS]
    falls = all(after < before for before, after in pairwise(errors))
    first, last = by_row[ROWS[0]], by_row[ROWS[-1]]

    def last_over_first(id: str, name: str, value: str, goal: str) -> Figure:
        return ratio(id, over_seeds(first, name, value), over_seeds(last, name, value), goal)

    figures += [
        figure("mse_rows", falls, n=len(errors), note="MSE falls at every row; goal yes"),
        last_over_first("mse_last_over_first", "hard", "mse", "goal ≤ 0.25"),
        last_over_first("kl1m_last_over_first", "hard", "kl1m", "goal ≤ 0.33"),
        last_over_first("clean_mse_last_over_first", "clean", "mse", "goal ≤ 0.02"),
    ]
    for id, measured, goal in (("first", first, "goal 0.3–0.6"), ("last", last, "goal ≤ 0.03")):
        alarms = [alarm for each in measured for alarm in each["people"]["alarm"]]
        figures.append(
            share(f"false_alarm_{id}", round(sum(alarms)), len(alarms), f"correct hands and faces; {goal}")
        )
    return figures


def gain(id: str, on: Sequence[Measured], off: Sequence[Measured]) -> Figure:
    """How much lower the hard benchmark's MSE is with an augmentation than without it, with its interval."""
    difference = over_seeds(off, "hard", "mse") - over_seeds(on, "hard", "mse")
    return mean(id, difference, "mse", "above 0: it helps; on by default only then")


def hard_found(sizes: Sizes) -> Figure:
    """Do the first detector's maps of surveys by the tiny FLUX identify exactly the hard categories?"""
    detector = load_detector(data.first_doctor())
    named = []
    for seed in range(1 if quick() else SURVEYS):
        images, categories = data.survey(sizes.survey, seed)
        highest = [float(map_.max()) for map_ in artifact_maps(detector, list(images), 64)]
        by_category = {
            category: [value for value, of in zip(highest, categories, strict=True) if of == category]
            for category in CATEGORIES
        }
        verdicts = hard_categories(by_category, HardCategoryConfig(minimum=min(20, sizes.survey), seed=seed))
        named.append(sorted(found.category for found in verdicts if found.verdict == "hard"))
    note = f"{sizes.survey} images a category; by seed: " + "; ".join(", ".join(found) for found in named)
    return figure(
        "hard_categories_exact", all(found == sorted(HARD) for found in named), n=len(named), note=note
    )


def calibration_figures(sizes: Sizes, folder: Path) -> list[Figure]:
    """Expected calibration error of the last row on the benchmark, the temperature from validation."""
    detector = load_detector(folder)
    validation = memory(data.generated("validation", sizes.benchmark, 0, HARD).samples("true"))
    held_out = memory(data.generated("benchmark", sizes.benchmark, 0, HARD).samples("true"))
    fitted = calibrate(detector, validation, held_out)
    note = f"temperature {fitted.temperature:.3f}, fitted on validation"
    return [
        figure("ece_before", fitted.before.error, unit="share", n=len(held_out), note="hard benchmark"),
        figure("ece_after", fitted.after.error, unit="share", n=len(held_out), note=note),
    ]


def counts_of(sizes: Sizes) -> dict[str, str]:
    """Images and labels per row, for the table's notes."""
    base = f"{sizes.previous} previous labels"
    real = f"{base}, {sizes.real} real"
    hard = f"{real}, {sizes.labels} labels on mined hard cases"
    return {
        "previous": "the first detector as shipped, trained on previous data",
        "real": real,
        "hard": hard,
        "small pseudo": f"{hard}, {sizes.small} pseudo",
        "large pseudo": f"{hard}, {sizes.large} pseudo",
        CONTROL: f"{hard}, for as long as the rows with pseudo-labels",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2] if full() else [0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--train", nargs="+", metavar="NAME", help="only train these and stop")
    given = parser.parse_args()
    sizes = SMALL if quick() else Sizes()
    benches = [Bench(sizes, seed) for seed in given.seeds]
    aside = {CONTROL, *(f"without {change}" for change in OFF)}
    chosen = [
        (bench, name)
        for bench in benches
        for name in bench.trainings
        if (name in given.train if given.train else bench is benches[0] or name not in aside)
    ]
    train_all(chosen, given.jobs)
    for bench, name in chosen:
        bench.leave(name)
    if given.train:
        return
    measure = sets(sizes)
    by_row = {
        name: [measure.measured(bench.folder(name)) for bench in (benches[:1] if name in aside else benches)]
        for name in (*ROWS, *sorted(aside))
    }
    rows = {name: by_row[name] for name in (*ROWS, CONTROL)}
    figures = table_rows(rows, counts_of(sizes))
    efficiency = [
        label_efficiency(bench, lambda folder: float(np.mean(measure.measured(folder)["hard"]["mse"])))
        for bench in benches
    ]
    curves = "; ".join(
        f"random {wanted:.5f}, mined " + ", ".join(f"{error:.5f}" for error in errors)
        for _, errors, wanted in efficiency
    )
    ratios = [found[0] for found in efficiency]
    figures.append(mean("label_efficiency", ratios, "ratio", f"goal ≥ 3; mined {sizes.mined}: {curves}"))
    for change in OFF:
        figures.append(gain(f"{change}_gain", by_row[ROWS[-1]][:1], by_row[f"without {change}"]))
    figures.append(hard_found(sizes))
    figures += calibration_figures(sizes, benches[-1].folder(ROWS[-1]))
    write("detector", figures, given.seeds)
    leave("detector", "all", figures, given.seeds)


if __name__ == "__main__":
    main()
