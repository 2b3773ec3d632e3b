"""`make bench-repair`: what a repair of single images does to the clinic's images, by its judge.

Images of the hard prompts and clean images are repaired by the default settings. The detector and the
chooser are trained as in a round: the shipped detector further, on drawings and generated images of their
own. The teacher, who stands in for people, labels those and the images that the operating points are chosen
on. The judge has no say in any of it. `QUICK=1` repairs a few.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.config import JUDGE_THRESHOLD
from dataengine.clinic.oracles import Oracle, load_judge, load_teacher
from dataengine.clinic.training.data import render, round_trip
from dataengine.clinic.world import EASY, HARD, Prompt, prompts, stream
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector, artifact_maps, load_detector
from dataengine.diagnosis.operating_point import operating_point_of
from dataengine.diagnosis.training import RESULT_FILE, train_detector
from dataengine.errors import InputRefused
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.repair.canvas import canvas_of
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.repair.repair import Judge, Repair, repair_image
from dataengine.treatment.sampling.sampler import as_tensor, generate
from tests.bench.harness import Figure, Keeper, bootstrap, device, figure, quick, share, write
from tests.bench.treatment_rows import paired_ratio

SAMPLING = SamplingConfig(steps=10, batch=32)
CONFIG = RepairConfig()


@dataclass(frozen=True)
class Sizes:
    """How much is trained on and measured."""

    drawings: int
    """Drawings with exact truth that each detector is trained on."""
    answers: int
    """Generated images that the teacher labels for each detector."""
    steps: int
    labelled: int
    """Images that the operating points are chosen on."""
    hard: int
    easy: int
    drawn: int
    """Drawings without an artifact among the clean images."""


SIZES = Sizes(12, 4, 2, 28, 6, 2, 2) if quick() else Sizes(2000, 600, 700, 350, 200, 60, 60)
KEEPER = Keeper(
    "repair",
    modules=("tests.bench.repair",),
    settings={"sizes": SIZES, "sampling": SAMPLING, "repair": CONFIG, "device": device()},
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


@dataclass(frozen=True)
class Case:
    """An image with the prompt that a repair redraws it by."""

    image: np.ndarray
    prompt: str
    seed: int


@dataclass(frozen=True)
class Repaired:
    """A case and what became of it; None where the repair was refused."""

    case: Case
    repair: Repair | None
    seconds: float

    @property
    def pixels(self) -> np.ndarray:
        return self.case.image if self.repair is None else self.repair.pixels


def main() -> None:
    """Train the detectors, repair the images, judge them."""
    family = load_family(part("flux"), device=device())
    judges = [judge_of(detector, family) for detector in (trained(0, family), trained(1, family))]
    hard = repaired(generated(family, prompts("evaluation", SIZES.hard, HARD), 40_000), family, judges)
    easy = repaired(generated(family, prompts("evaluation", SIZES.easy, EASY), 50_000), family, judges)
    drawn = repaired(clean_drawings(), family, judges)
    write("repair", figures_of(hard, easy, drawn, seconds_of_drawing(family)))


def part(name: str) -> Path:
    """A part of the clinic, materialised."""
    return clinic_parts.materialise(name, KEEPER.folder(f"clinic/{name}"))


def trained(number: int, family: GeneratorFamily) -> NetworkDetector:
    """The shipped detector trained further, on drawings and generated images that no other number sees."""
    work = KEEPER.folder(f"detector-{number}")
    if not (work / RESULT_FILE).is_file():
        samples = MemorySamples([*drawn_samples(number), *2 * answered_samples(number, family)])
        config = DetectorTrainingConfig(name=f"detector {number}", steps=SIZES.steps, batch=16, seed=number)
        train_detector(config, samples, part("first_doctor"), work)
    return load_detector(work / "detector", device())


def drawn_samples(number: int) -> list[Sample]:
    """Drawings through the generator's VAE, with their exact masks."""
    first = number * SIZES.drawings
    drawn = render(stream("loop"), range(first, first + SIZES.drawings))
    images = round_trip(clinic_parts.autoencoder(), drawn.images).permute(0, 2, 3, 1).numpy()
    return [
        Sample(image=image, target=mask.numpy().astype(np.float32), kind="true", category=shown.category)
        for image, mask, shown in zip(images, drawn.masks, drawn.shown, strict=True)
    ]


def answered_samples(number: int, family: GeneratorFamily) -> list[Sample]:
    """Generated images with the teacher's answers."""
    asked = prompts("treatment", 2 * SIZES.answers)[number * SIZES.answers :][: SIZES.answers]
    return answered(generated(family, asked, 70_000 + number * SIZES.answers))


def answered(cases: Sequence[Case]) -> list[Sample]:
    """Images as the teacher labels them."""
    images = np.stack([case.image for case in cases])
    labels = confidences(load_teacher(part("teacher")), images) >= JUDGE_THRESHOLD
    return [
        Sample(image=image, target=label.astype(np.float32), kind="true")
        for image, label in zip(images, labels, strict=True)
    ]


def judge_of(detector: NetworkDetector, family: GeneratorFamily) -> Judge:
    """The detector with the operating point that it has on images which the teacher labelled."""
    samples = answered(generated(family, prompts("validation", SIZES.labelled), 10_000))

    def predict(given: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(artifact_maps(detector, list(given), 64))

    maps = predict([sample.image for sample in samples])
    return Judge(predict=predict, point=operating_point_of(zip(samples, maps, strict=True)))


def generated(family: GeneratorFamily, asked: Sequence[Prompt], first_seed: int) -> list[Case]:
    """Images of prompts, one seed each; kept."""
    texts = [prompt.text for prompt in asked]
    seeds = list(range(first_seed, first_seed + len(texts)))
    kept = KEEPER.arrays(
        f"images-{first_seed}", lambda: {"images": generate(family, texts, seeds, SAMPLING)}, {}
    )
    return [Case(*row) for row in zip(kept["images"], texts, seeds, strict=True)]


def clean_drawings() -> list[Case]:
    """Drawings without an artifact, with their captions."""
    drawn = render(stream("photos"), range(SIZES.drawn))
    images = drawn.images.permute(0, 2, 3, 1).numpy()
    return [
        Case(image, caption, 60_000 + number)
        for number, (image, caption) in enumerate(zip(images, drawn.captions, strict=True))
    ]


def repaired(cases: Sequence[Case], family: GeneratorFamily, judges: Sequence[Judge]) -> list[Repaired]:
    """Every case repaired by the default settings."""
    results = []
    for case in cases:
        config = CONFIG.model_copy(update={"seed": 1_000 + case.seed})
        canvas = canvas_of(family, case.prompt, SAMPLING, config)
        started = time.perf_counter()
        try:
            repair = repair_image(case.image, *judges, canvas, config)
        except InputRefused:
            repair = None
        results.append(Repaired(case, repair, time.perf_counter() - started))
    return results


def seconds_of_drawing(family: GeneratorFamily) -> float:
    """Median time of one sampling run of one image."""
    case = generated(family, prompts("evaluation", SIZES.hard, HARD), 40_000)[0]
    times = []
    for _ in range(2 if quick() else 9):
        started = time.perf_counter()
        generate(family, [case.prompt], [case.seed], SAMPLING)
        times.append(time.perf_counter() - started)
    return median(times)


def figures_of(
    hard: Sequence[Repaired], easy: Sequence[Repaired], drawn: Sequence[Repaired], drawing: float
) -> list[Figure]:
    """All figures, by the judge."""
    judge = load_judge(part("judge"))
    flawed = {
        name: [
            confidences(judge, np.stack(images)).max((1, 2)) >= JUDGE_THRESHOLD
            for images in ([one.case.image for one in of], [one.pixels for one in of])
        ]
        for name, of in (("hard", hard), ("easy", easy), ("drawn", drawn))
    }
    before, after = flawed["hard"]
    both = [np.concatenate([flawed[name][when] for name in flawed]) for when in (0, 1)]
    worse = both[1][~both[0]]
    every = [*hard, *easy, *drawn]
    outside = [bytes_outside(one) for one in every]
    worked = [one.seconds / drawing for one in hard if one.repair is not None and one.repair.outcomes]
    changed = sum(one.repair is not None and one.repair.changed for one in hard)
    refused = sum(one.repair is None for one in hard)
    verdicts = [outcome.verdict for one in hard if one.repair for outcome in one.repair.outcomes]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts)))
    note = f"{before.mean():.3f} to {after.mean():.3f}; {changed} images changed, {refused} refused; {counts}"
    return [
        paired_ratio("repair_true_freq", after, before, f"goal ≤ 0.5, interval below 0.7; {note}"),
        share("repair_worse", int(worse.sum()), len(worse), "clean before, flawed after; goal ≤ 0.01"),
        figure("repair_outside", sum(outside), unit="bytes", n=len(outside), note="goal 0"),
        figure(
            "repair_over_drawing",
            float(np.mean(worked)) if worked else 0.0,
            bootstrap(worked) if worked else None,
            unit="ratio",
            n=len(worked),
            note=f"an image with artifacts, {CONFIG.draws} candidates a region of {CONFIG.repeats} "
            f"repeats; one sampling run takes {drawing:.2f} s",
        ),
    ]


def bytes_outside(one: Repaired) -> int:
    """Bytes that differ from the original beyond the regions that were taken."""
    if one.repair is None:
        return 0
    allowed = np.zeros(one.case.image.shape[:2], dtype=bool)
    for outcome in one.repair.outcomes:
        allowed |= outcome.region.mask & (outcome.verdict == "repaired")
    return int((one.repair.pixels != one.case.image)[~allowed].sum())


@torch.no_grad()
def confidences(oracle: Oracle, images: np.ndarray) -> np.ndarray:
    """An oracle's maps of images uint8 NHWC, float32 NHW."""
    return np.concatenate([oracle.confidence(few).numpy() for few in as_tensor(images).split(64)])


if __name__ == "__main__":
    main()
