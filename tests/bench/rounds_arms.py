"""An arm of `bench-rounds`: the totals divided into rounds of drawing, mining, labelling, training and
treating.

What it makes is kept by `KEEPER`, treatments and images by that of `bench-treatment`.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.oracles import Teacher
from dataengine.clinic.world import Prompt, prompts
from dataengine.curation.config import MiningConfig
from dataengine.curation.mining import MiningCandidate, choose_images, thumbnail_features
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import artifact_maps, load_detector
from dataengine.diagnosis.training import RESULT_FILE, train_detector
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import as_tensor, generate
from pipelines.detectors.predict import mean_uncertainty
from tests.bench import detector
from tests.bench.harness import Keeper, device, quick
from tests.bench.source_hash import weights_hash
from tests.bench.treatment_rows import (
    FLAWED,
    PLAN,
    ClinicModels,
    TreatmentRun,
    generate_and_score,
    plan_with,
    run_treatment,
)
from tests.bench.treatment_sections import last_within

EXPLORE = 0.3
"""Share of the labels drawn at random below the detector's threshold, as in `bench-detector`."""
ORDER = (EXPLORE, 1.0, 0.0)
"""Shares tried in turn until the budget is spent, since both arms must spend it: mining's own, then images
that the detector does not flag, then those that it does."""


@dataclass(frozen=True)
class Totals:
    """What each arm has in all, and the sizes of what both learn from and are measured on besides."""

    drawn: int
    """Unlabelled images that mining chooses from."""
    labels: int
    detector_steps: int
    updates: int
    every: int
    """Updates between two points that the guard chooses from."""
    judged: int
    """Held-out prompts."""
    validation: int
    """Prompts that the guard reads."""
    benchmark: int
    """Images of the untreated generator that detectors are compared on."""


TOTALS = Totals(32, 8, 4, 4, 1, 4, 2, 8) if quick() else Totals(720, 240, 400, 120, 15, 150, 15, 210)

KEEPER = Keeper(
    "rounds",
    modules=("tests.bench.rounds",),
    settings={"totals": TOTALS, "plan": PLAN, "device": device()},
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


@dataclass(frozen=True)
class Labels:
    """Images that mining chose, uint8 NHWC, with the teacher's masks, bool NHW."""

    images: np.ndarray
    masks: np.ndarray
    categories: np.ndarray
    highest: np.ndarray
    """The detector's highest confidence when they were chosen."""
    flagged: np.ndarray
    """How many of the drawn images it flagged; one number."""

    def samples(self) -> list[Sample]:
        """Training examples."""
        return [
            Sample(
                image=image,
                target=mask.astype(np.float32),
                kind="true",
                category=str(category),
                max_confidence=float(highest),
            )
            for image, mask, category, highest in zip(
                self.images, self.masks, self.categories, self.highest, strict=True
            )
        ]

    @cached_property
    def digest(self) -> str:
        """A hash of images and masks."""
        return hashlib.sha256(self.images.tobytes() + self.masks.tobytes()).hexdigest()[:16]

    @property
    def flawed(self) -> int:
        """Images in which the teacher marked something."""
        return int(self.masks.any(axis=(1, 2)).sum())


@dataclass(frozen=True)
class Round:
    """One finished round."""

    start: Path | None
    """The LoRA that it began with."""
    lora: Path
    detector: Path
    labels: Labels
    run: TreatmentRun
    update: int
    """The update that the guard chose."""
    seconds: dict[str, float]
    """Processor seconds by stage; of a resumed stage, those of the last call."""


def play(clinic: ClinicModels, teacher: Teacher, rounds: int, seed: int) -> list[Round]:
    """Both arms: the totals divided into this many rounds."""
    asked = prompts("loop", TOTALS.drawn)
    drawn, labels, steps, updates = (
        total // rounds for total in (TOTALS.drawn, TOTALS.labels, TOTALS.detector_steps, TOTALS.updates)
    )
    untreated = generate_and_score(clinic, clinic.flux, None, "validation", PLAN)
    lora, sight, known, played = None, clinic.first_doctor, list[Labels](), list[Round]()
    for number in range(rounds):
        name = f"rounds-{rounds}-seed{seed}-{number + 1}"
        began = [time.process_time()]
        span = slice(number * drawn, (number + 1) * drawn)
        found = label(clinic, teacher, lora, sight, asked[span], number * drawn, labels, seed)
        known.append(found)
        began.append(time.process_time())
        sight = train(name, sight, known, clinic.clean, steps, seed)
        began.append(time.process_time())
        run = run_treatment(
            clinic,
            name,
            plan_with(seed=100 * seed + number),
            updates=updates,
            detector=load_detector(sight, device()),
            start=lora,
            every=TOTALS.every,
        )
        began.append(time.process_time())
        update = last_within(clinic, run, untreated)
        spent = dict(zip(("labels", "detector", "treatment"), np.diff(began).tolist(), strict=True))
        kept = KEEPER.get(f"seconds/{name}") or KEEPER.keep(f"seconds/{name}", spent)
        played.append(Round(lora, run.points[update], sight, found, run, update, kept))
        lora = run.points[update]
        print(f"{name}: {found.flawed} of {labels} labels flawed, update {update}, {spent}", flush=True)
    return played


def label(
    clinic: ClinicModels,
    teacher: Teacher,
    lora: Path | None,
    sight: Path,
    asked: Sequence[Prompt],
    first: int,
    budget: int,
    seed: int,
) -> Labels:
    """Draw an image of each prompt, choose `budget` of them with the detector `sight`, and mark these.

    `first` numbers the images, so that both arms draw the same noise for the same prompt.
    """
    texts = [prompt.text for prompt in asked]
    noise = [1_000_000 * (seed + 1) + first + index for index in range(len(texts))]

    def make() -> dict[str, np.ndarray]:
        images = generate(load_family(clinic.flux, lora=lora, device=device()), texts, noise, PLAN.sampling)
        categories = [prompt.category for prompt in asked]
        maps = np.stack(artifact_maps(load_detector(sight, device()), list(images), 64))
        chosen = choose(images, maps, categories, budget, seed)
        highest = maps.max(axis=(1, 2))
        return {
            "images": images[chosen],
            "masks": marked(teacher, images[chosen]),
            "categories": np.array(categories)[chosen],
            "highest": highest[chosen],
            "flagged": np.array((highest >= FLAWED).sum()),
        }

    settings = {
        "lora": lora and weights_hash(lora),
        "detector": weights_hash(sight),
        "prompts": texts,
        "noise": noise,
        "budget": budget,
        "seed": seed,
    }
    return Labels(**KEEPER.arrays(f"labels/seed{seed}", make, settings))


def choose(
    images: np.ndarray, maps: np.ndarray, categories: Sequence[str], budget: int, seed: int
) -> list[int]:
    """The indices of exactly `budget` images, as mining ranks them. Raises `ValueError` for too few
    images."""
    looks = thumbnail_features(images)
    candidates = {
        f"{index:06d}": MiningCandidate(
            image_id=f"{index:06d}",
            category=category,
            confidence=float(map_.max()),
            uncertainty=mean_uncertainty(map_),
            features=look,
            thumbnail=look,
        )
        for index, (map_, category, look) in enumerate(zip(maps, categories, looks, strict=True))
    }
    chosen: list[int] = []
    for explore in ORDER:
        if len(chosen) < budget:
            config = MiningConfig(budget=budget - len(chosen), explore=explore, seed=seed)
            for choice in choose_images(list(candidates.values()), config):
                chosen.append(int(choice.image_id))
                del candidates[choice.image_id]
    if len(chosen) < budget:
        raise ValueError(f"only {len(chosen)} of {len(images)} images can be labelled, {budget} are needed")
    return chosen


@torch.no_grad()
def marked(teacher: Teacher, images: np.ndarray) -> np.ndarray:
    """The teacher's masks, bool NHW, of images uint8 NHWC."""
    parts = as_tensor(images).to(device()).split(64)
    return torch.cat([teacher.confidence(part) >= FLAWED for part in parts]).cpu().numpy()


def train(name: str, start: Path, known: Sequence[Labels], clean: np.ndarray, steps: int, seed: int) -> Path:
    """The detector trained on from `start` with all labels so far and artifact-free images, by the schedule
    of `bench-detector`; its folder."""
    schedule = detector.Bench(detector.Sizes(steps=steps), seed).schedule
    config = schedule.model_copy(update={"checkpoint_every": 50})
    settings = {
        "config": config,
        "start": weights_hash(start),
        "labels": [each.digest for each in known],
        "clean": hashlib.sha256(clean.tobytes()).hexdigest()[:16],
    }
    work = KEEPER.folder(f"detectors/{name}", settings)
    if not (work / RESULT_FILE).is_file():
        nothing = np.zeros(clean.shape[1:3], np.float32)
        real = [Sample(image=image, target=nothing, kind="real") for image in clean]
        samples = [*real, *(sample for each in known for sample in each.samples())]
        train_detector(config, MemorySamples(samples), start, work)
    return work / "detector"
