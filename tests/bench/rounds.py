"""`make bench-rounds`: do four rounds of the loop remove more artifacts than one big round of the same cost?

A round: the generator as it now is draws images, mining chooses those to label, the teacher (who stands in
for people) marks them, the detector is trained on with all labels so far, and the generator is treated on
with it, from the LoRA so far. Both arms see the same prompts and have the same totals of drawn images, labels
and updates; only the number of rounds that these are divided into differs. The update that a round ends with
is the guard's choice on validation prompts; the judge measures, on held-out prompts, and chooses nothing.

Resumable (see `Keeper`). One seed by default, three with `FULL=1`.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.oracles import Teacher, load_teacher
from dataengine.clinic.world import Prompt, prompts
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector, artifact_maps, load_detector
from dataengine.diagnosis.evaluation import evaluate_detector
from dataengine.diagnosis.metrics import DetectorMetrics
from dataengine.quality.intervals import ratio_of_means
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import generate
from tests.bench.harness import Figure, curve, device, figure, full, leave, quick, share, write
from tests.bench.rounds_arms import KEEPER, TOTALS, Round, marked, play
from tests.bench.treatment_rows import (
    FLAWED,
    PLAN,
    ClinicModels,
    ScoredImages,
    generate_and_score,
    guard_reading,
    open_clinic_models,
    paired_ratio,
)

SEEDS = (0, 1, 2) if full() and not quick() else (0,)
ARMS = {"four": 4, "one": 1}
"""The number of rounds that an arm divides the totals into."""


@dataclass(frozen=True)
class Measured:
    """A round on held-out prompts."""

    round: Round
    after: ScoredImages
    guard: dict[str, float]
    seen: tuple[np.ndarray, np.ndarray]
    """Mean confidence of the round's detector in each image, after and before the round."""
    teacher: float
    """Share of images that the teacher finds flawed."""
    fixed: DetectorMetrics
    """The round's detector on the untreated generator's images."""
    faced: DetectorMetrics
    """The same on the images of the generator that it then treated."""


@dataclass(frozen=True)
class Outcome:
    """One seed of both arms."""

    seed: int
    base: ScoredImages
    arms: dict[str, list[Measured]]
    first: DetectorMetrics
    """The first detector on the untreated generator's images."""


# ---- measurement -----------------------------------------------------------------------------------------


def measure_seed(clinic: ClinicModels, teacher: Teacher, seed: int) -> Outcome:
    """Play both arms with a seed and measure them."""
    base = generate_and_score(clinic, clinic.flux, None, "judged", PLAN)
    benchmark = fixed_benchmark(clinic, teacher)
    arms = {
        arm: [
            measure_round(clinic, teacher, base, one, benchmark)
            for one in play(clinic, teacher, rounds, seed)
        ]
        for arm, rounds in ARMS.items()
    }
    first = evaluate_detector(load_detector(clinic.first_doctor, device()), benchmark)
    return Outcome(seed, base, arms, first)


def fixed_benchmark(clinic: ClinicModels, teacher: Teacher) -> MemorySamples:
    """Images of the untreated generator with the teacher's masks; of prompts that nothing learns from."""
    asked = prompts("benchmark", TOTALS.benchmark)

    def make() -> dict[str, np.ndarray]:
        texts, noise = [prompt.text for prompt in asked], list(range(7000, 7000 + len(asked)))
        return {"images": generate(load_family(clinic.flux, device=device()), texts, noise, PLAN.sampling)}

    images = KEEPER.arrays("benchmark", make)["images"]
    return with_masks(teacher, images, [prompt.category for prompt in asked])


def with_masks(teacher: Teacher, images: np.ndarray, categories: Sequence[str]) -> MemorySamples:
    """Images with the teacher's masks."""
    return MemorySamples(
        [
            Sample(image=image, target=mask.astype(np.float32), kind="true", category=str(category))
            for image, mask, category in zip(images, marked(teacher, images), categories, strict=True)
        ]
    )


def measure_round(
    clinic: ClinicModels, teacher: Teacher, base: ScoredImages, one: Round, benchmark: MemorySamples
) -> Measured:
    """A round on held-out prompts."""
    before, after = (
        generate_and_score(clinic, clinic.flux, lora, "judged", PLAN) for lora in (one.start, one.lora)
    )
    sight = load_detector(one.detector, device())
    return Measured(
        round=one,
        after=after,
        guard=guard_reading(clinic, base, after, "judged").values,
        seen=(mean_confidence(sight, after.images), mean_confidence(sight, before.images)),
        teacher=float(marked(teacher, after.images).any(axis=(1, 2)).mean()),
        fixed=evaluate_detector(sight, benchmark),
        faced=evaluate_detector(sight, with_masks(teacher, before.images, before.categories.tolist())),
    )


def mean_confidence(sight: NetworkDetector, images: np.ndarray) -> np.ndarray:
    """The detector's mean confidence in each image, N."""
    return np.array([map_.mean() for map_ in artifact_maps(sight, list(images), 64)])


# ---- figures ---------------------------------------------------------------------------------------------


def headline(outcomes: Sequence[Outcome], asked: Sequence[Prompt]) -> list[Figure]:
    """True frequency after four rounds over after one, and both over before, over all seeds."""

    def flawed(arm: str) -> np.ndarray:
        shown = [each.base if arm == "base" else each.arms[arm][-1].after for each in outcomes]
        return np.concatenate([one.judged >= FLAWED for one in shown])

    four, one, base = flawed("four"), flawed("one"), flawed("base")
    images = len(four) // len(outcomes)
    groups = [prompt.text for prompt in asked for _ in range(images // len(asked))] * len(outcomes)
    low, high = ratio_of_means(one, four, groups)[1]
    note = (
        f"goal < 1, interval below 1; {len(outcomes)} seeds of training, {images} pairs each; interval with "
        f"whole prompts resampled: {low:.3f}–{high:.3f}"
    )
    return [
        paired_ratio("four_rounds_over_one", four, one, note),
        paired_ratio("four_rounds_over_base", four, base),
        paired_ratio("one_round_over_base", one, base),
    ]


def seed_figures(outcome: Outcome) -> list[Figure]:
    """The figures of one seed."""
    seed, count = f"seed{outcome.seed}", len(outcome.base.judged)
    four, one = (outcome.arms[arm][-1].after.judged >= FLAWED for arm in ("four", "one"))
    found = [
        paired_ratio(f"{seed}_four_rounds_over_one", four, one),
        share(f"{seed}_true_freq_base", int((outcome.base.judged >= FLAWED).sum()), count),
        ap_figure(f"{seed}_pixel_ap_first", outcome.first),
    ]
    for arm, rounds in outcome.arms.items():
        for number, each in enumerate(rounds, 1):
            name = f"{seed}_{arm}_{number}"
            told = f"update {each.round.update} of {each.round.run.last}"
            found += [
                share(f"{name}_true_freq", int((each.after.judged >= FLAWED).sum()), count, told),
                paired_ratio(f"{name}_mean_conf_ratio", *each.seen, "by the round's own detector"),
                ap_figure(f"{name}_pixel_ap", each.fixed),
                ap_figure(f"{name}_pixel_ap_faced", each.faced),
                share(
                    f"{name}_labels_flawed",
                    each.round.labels.flawed,
                    len(each.round.labels.images),
                    f"the detector flagged {int(each.round.labels.flagged)} of the images drawn",
                ),
                *(figure(f"{name}_guard_{key}", value, n=count) for key, value in each.guard.items()),
            ]
        spent = {
            stage: sum(each.round.seconds[stage] for each in rounds) for stage in rounds[0].round.seconds
        }
        note = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in spent.items())
        found.append(figure(f"{seed}_{arm}_processor_s", sum(spent.values()), unit="s", note=note))
    return found


def ap_figure(id: str, metrics: DetectorMetrics) -> Figure:
    """Pixel AP against the teacher's masks."""
    if metrics.pixel_ap is None:
        return figure(id, "not measured", n=metrics.images, note="the teacher marked nothing")
    return figure(id, metrics.pixel_ap, metrics.intervals.get("pixel_ap"), n=metrics.images)


def curve_of(outcomes: Sequence[Outcome]) -> Figure:
    """Every round of both arms."""
    columns = ("seed", "arm", "updates", "labels", "true", "teacher", "own_mean", "ap", "ap_faced")
    guarded = ("change", "detail", "diversity", "attributes")
    table: dict[str, list[Any]] = {column: [] for column in (*columns, *guarded)}

    def add(*values: object) -> None:
        for column, value in zip(table.values(), values, strict=True):
            column.append(value)

    for outcome in outcomes:
        unknown = [""] * (len(columns) - 5 + len(guarded))
        add(outcome.seed, "base", 0, 0, true_share(outcome.base), *unknown)
        for arm, rounds in outcome.arms.items():
            for number, each in enumerate(rounds, 1):
                done = number / len(rounds)
                add(
                    outcome.seed,
                    arm,
                    round(done * TOTALS.updates),
                    round(done * TOTALS.labels),
                    true_share(each.after),
                    each.teacher,
                    float(each.seen[0].mean()),
                    each.fixed.pixel_ap,
                    each.faced.pixel_ap,
                    *(each.guard[key] for key in guarded),
                )
    note = f"after every round in {curve('rounds', table)}"
    return figure("true_freq_by_round", "reported", n=len(table["seed"]), note=note)


def true_share(shown: ScoredImages) -> float:
    """The share of flawed images, by the judge."""
    return float((shown.judged >= FLAWED).mean())


def open_models() -> tuple[ClinicModels, Teacher]:
    """The clinic with the prompts of this bench; images are scored by the first detector, whose figure is of
    no use here but keeps one set of images for both arms."""
    clinic = open_clinic_models()
    clinic.detector = load_detector(clinic.first_doctor, device())
    clinic.asked["judged"] = prompts("evaluation", TOTALS.judged)
    clinic.asked["validation"] = prompts("validation", TOTALS.validation)
    teacher = load_teacher(clinic_parts.materialise("teacher", KEEPER.folder("clinic/teacher")))
    return clinic, teacher.to(device())


def main() -> None:
    clinic, teacher = open_models()
    outcomes: list[Outcome] = []
    for seed in SEEDS:
        outcomes.append(measure_seed(clinic, teacher, seed))
        found = seed_figures(outcomes[-1])
        leave("rounds", f"seed{seed}", found, [seed], KEEPER.key)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures = [
            *headline(outcomes, clinic.asked["judged"]),
            curve_of(outcomes),
            figure("peak_gb", peak, unit="GB", note="of the process, both arms, as far as it ran in one go"),
            *(one for each in outcomes for one in seed_figures(each)),
        ]
        write("rounds", figures, [each.seed for each in outcomes])
    leave("rounds", "all", figures, SEEDS)


if __name__ == "__main__":
    main()
