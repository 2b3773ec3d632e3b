"""What `bench-treatment` measures with: a treating detector, treatment runs, and what their images show.

All of it is kept by `KEEPER`, each run under its settings and the weights that it began with.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.config import JUDGE_THRESHOLD
from dataengine.clinic.oracles import Judge, load_judge
from dataengine.clinic.readers import PLAUSIBLE, Reader
from dataengine.clinic.training.data import render, round_trip
from dataengine.clinic.world import Prompt, prompts, stream
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.diagnosis.training import RESULT_FILE, train_detector
from dataengine.quality.config import GuardConfig
from dataengine.quality.distances import ClassifierFeatures, perceptual_distance
from dataengine.quality.guard import Guard, Reading
from dataengine.quality.similarity import psnr, ssim
from dataengine.treatment.config import (
    LoraSettings,
    OfflineConfig,
    RewardConfig,
    SamplingConfig,
    TreatmentConfig,
)
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.objectives.preference import PreferencePairs
from dataengine.treatment.sampling.sampler import as_tensor, generate
from dataengine.treatment.tuning.estimate import preflight
from dataengine.treatment.tuning.trainer import treat
from tests.bench.harness import Figure, Keeper, bootstrap, device, figure, quick
from tests.bench.source_hash import state_hash, weights_hash

FLAWED = JUDGE_THRESHOLD

PLAN = TreatmentConfig(
    batch=2 if quick() else 8,
    grad_steps=1 if quick() else 3,
    learning_rate=5e-4,
    lora=LoraSettings(rank=16, targets="all"),
    sampling=SamplingConfig(steps=2 if quick() else 5, batch=16),
    offline=None,
)
"""What all rows have in common, so that they differ in their objective alone."""
OFFLINE = OfflineConfig(gamma=0.05)
"""The demo's regularisation, chosen on prompts of another stream."""
BETA = 0.008
"""Focus-N-Fix's factor in the table: the paper's 1e-3 at 512², for a norm that grows with the side."""


def plan_with(**changes: object) -> TreatmentConfig:
    """The plan with other settings."""
    return PLAN.model_copy(update=changes)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data and the trainings."""

    judged: int
    """Held-out prompts that rows are compared on."""
    seeds: int
    validation: int
    """Prompts that choices are made on."""
    updates: int
    every: int
    """Updates between two points of a curve."""
    drawings: int
    """Images with exact truth that the treating detector is trained on."""
    detector_steps: int
    clean: int
    """Correct images for the regularisation."""


SIZES = Sizes(2, 2, 2, 1, 1, 12, 2, 4) if quick() else Sizes(100, 4, 20, 120, 20, 3000, 1200, 240)


KEEPER = Keeper(
    "treatment",
    modules=("tests.bench.treatment", "tests.bench.treatment_sections"),
    settings={"sizes": SIZES, "plan": PLAN, "device": device()},
    weights={name: clinic_parts.fingerprint(name) for name in clinic_parts.model_names()},
)


@dataclass(frozen=True)
class ScoredImages:
    """Images uint8 NHWC of some prompts and seeds with their measurements, one value per image."""

    images: np.ndarray
    mean: np.ndarray
    """Mean confidence of the treating detector."""
    highest: np.ndarray
    judged: np.ndarray
    """Highest confidence of the judge."""
    right: np.ndarray
    """Share of the prompted attributes that are shown."""
    plausible: np.ndarray
    categories: np.ndarray


@dataclass
class ClinicModels:
    """The clinic's models, opened once."""

    flux: Path
    stable_diffusion: Path
    readers: Path
    reader: Reader
    judge: Judge
    first_doctor: Path
    features: ClassifierFeatures
    clean: np.ndarray
    captions: list[str]
    treating: list[str]
    asked: dict[str, list[Prompt]] = field(default_factory=dict)

    @cached_property
    def detector(self) -> NetworkDetector:
        """The treating detector, trained when it is first asked for."""
        with torch.enable_grad():  # whoever asks first may do so within no_grad
            return treating_detector(self.first_doctor, "loop", KEEPER.folder("detector"))

    @property
    def plausibility(self) -> RewardConfig:
        """The image-level scorer: how free of artifacts the reader finds an image as a whole."""
        return RewardConfig(location=str(self.readers), label=PLAUSIBLE, activation="sigmoid")


def open_clinic_models() -> ClinicModels:
    """Materialise the clinic, generate the regularisation's images."""
    folders = {
        name: clinic_parts.materialise(name, KEEPER.folder(f"clinic/{name}"))
        for name in ("flux", "stable_diffusion", "readers", "judge", "first_doctor")
    }
    clean = render(stream("photos"), range(SIZES.clean))
    return ClinicModels(
        flux=folders["flux"],
        stable_diffusion=folders["stable_diffusion"],
        readers=folders["readers"],
        reader=Reader.load(folders["readers"]),
        judge=load_judge(folders["judge"]).to(device()),
        first_doctor=folders["first_doctor"],
        features=ClassifierFeatures(folders["readers"], device()),
        clean=clean.images.permute(0, 2, 3, 1).numpy(),
        captions=list(clean.captions),
        treating=[prompt.text for prompt in prompts("treatment", 70)],
        asked={
            "validation": prompts("validation", SIZES.validation),
            "judged": prompts("evaluation", SIZES.judged),
        },
    )


def treating_detector(start: Path, use: str, work: Path, extra: Sequence[Sample] = ()) -> NetworkDetector:
    """The first detector, trained further on exact masks of images passed through the generator's VAE."""
    if not (work / RESULT_FILE).is_file():
        drawn = render(stream(use), range(SIZES.drawings))
        tripped = round_trip(clinic_parts.autoencoder(), drawn.images).permute(0, 2, 3, 1).numpy()
        masks = drawn.masks.numpy().astype(np.float32)
        samples = [
            Sample(image=image, target=mask, kind="true", category=shown.category)
            for image, mask, shown in zip(tripped, masks, drawn.shown, strict=True)
        ]
        config = DetectorTrainingConfig(
            name="treating detector", steps=SIZES.detector_steps, batch=16, checkpoint_every=50
        )
        train_detector(config, MemorySamples([*samples, *extra]), start, work)
    return load_detector(work / "detector", device())


@dataclass(frozen=True)
class TreatmentRun:
    """A treatment without guard, with the LoRA that it had at every point of its curve."""

    name: str
    base: Path
    points: dict[int, Path]
    history: list[dict[str, Any]]
    seconds: float
    processor: float = 0.0
    """Processor seconds of an update, loading and encoding of each piece of the run included."""

    @property
    def last(self) -> int:
        return max(self.points)


def run_treatment(
    clinic: ClinicModels,
    name: str,
    config: TreatmentConfig,
    base: Path | None = None,
    updates: int | None = None,
    detector: NetworkDetector | None = None,
    start: Path | None = None,
    every: int = SIZES.every,
    pairs: PreferencePairs | None = None,
) -> TreatmentRun:
    """Run `config`, keeping the weights at regular points; from the LoRA `start`, where one is given."""
    base, detector = base or clinic.flux, detector or clinic.detector
    settings = {
        "config": config_facts(config),
        "base": weights_hash(base),
        "start": start and weights_hash(start),
        "detector": state_hash(detector),
        "every": every,
        "prompts": clinic.treating,
    } | ({} if pairs is None else {"pairs": pairs_hash(pairs)})
    folder = KEEPER.folder(f"runs/{name}", settings)
    ends = range(every, (updates or SIZES.updates) + 1, every)
    points, spent, used = {}, [], []
    for end in ends:
        point = folder / f"lora-{end}"
        if not point.is_dir():
            family = load_family(base, lora=start, device=device())
            offline, began = config.offline is not None, process_time()
            result = treat(
                config.model_copy(update={"updates": end, "checkpoint_every": every}),
                family,
                detector,
                clinic.treating,
                clinic.clean if offline else None,
                clinic.captions if offline else [],
                None,
                folder / "work",
                pairs=pairs,
            )
            used.append((process_time() - began) / every)
            spent.append(result.figures.get("update_s", 0.0))
            shutil.copytree(result.lora_folder, folder / ".part", dirs_exist_ok=True)
            (folder / ".part").rename(point)
            (folder / "history.json").write_text(json.dumps(result.history))
            (folder / "seconds.json").write_text(json.dumps(float(np.median(spent))))
            (folder / "processor.json").write_text(json.dumps(float(np.median(used))))
        points[end] = point
    history = json.loads((folder / "history.json").read_text())
    seconds, processor = (
        json.loads((folder / f"{kind}.json").read_text()) for kind in ("seconds", "processor")
    )
    return TreatmentRun(name, base, points, history, seconds, processor)


def pairs_hash(pairs: PreferencePairs) -> str:
    """A digest of the pairs' pixels and prompts."""
    found = hashlib.sha256("\n".join(pairs.prompts).encode())
    for arrays in (pairs.winners, pairs.losers, pairs.masks):
        for each in arrays:
            found.update(each.tobytes())
    return found.hexdigest()[:16]


def config_facts(config: TreatmentConfig) -> dict[str, Any]:
    """The settings, with the weights of scorers in the place of where they lie."""
    facts = config.model_dump(mode="json")
    for reward in facts["rewards"]:
        reward["location"] = weights_hash(Path(reward["location"]))
    return facts


def generate_and_score(
    clinic: ClinicModels, base: Path, lora: Path | None, which: str, config: TreatmentConfig
) -> ScoredImages:
    """Images of a set of prompts, with the same seeds for all generators; cached."""
    prompts_asked = [prompt for prompt in clinic.asked[which] for _ in range(SIZES.seeds)]
    texts = [prompt.text for prompt in prompts_asked]

    def make() -> dict[str, np.ndarray]:
        family = load_family(base, lora=lora, device=device())
        images = generate(family, texts, list(range(5000, 5000 + len(texts))), config.sampling)
        return {"images": images} | score_images(clinic, images, prompts_asked)

    settings = {
        "base": weights_hash(base),
        "lora": lora and weights_hash(lora),
        "sampling": config.sampling,
        "prompts": texts,
        "detector": state_hash(clinic.detector),
    }
    name = f"{base.name}-{f'{lora.parent.name}-{lora.name}' if lora else 'base'}-{which}"
    return ScoredImages(**KEEPER.arrays(f"images/{name}", make, settings))


@torch.no_grad()
def score_images(clinic: ClinicModels, images: np.ndarray, asked: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Predictions of detector, judge and reader."""
    parts = as_tensor(images).to(device()).split(32)
    maps = torch.cat([clinic.detector.confidence(part) for part in parts])
    judged = torch.cat([clinic.judge.confidence(part).flatten(1).amax(1) for part in parts])
    return {
        "mean": maps.mean((1, 2)).cpu().numpy(),
        "highest": maps.flatten(1).amax(1).cpu().numpy(),
        "judged": judged.cpu().numpy(),
        "right": clinic.reader.match(images, [prompt.text for prompt in asked]),
        "plausible": clinic.reader.plausibility(images),
        "categories": np.asarray([prompt.category for prompt in asked]),
    }


def guard_reading(clinic: ClinicModels, before: ScoredImages, after: ScoredImages, which: str) -> Reading:
    """The quality guard's measurements of these images."""
    texts = [prompt.text for prompt in clinic.asked[which]]
    config = GuardConfig(prompts=len(texts), seeds=SIZES.seeds)
    guard = Guard(config, texts, clinic.reader)
    return guard.check(guard.baseline(before.images), after.images)


def similarity_to_base(
    clinic: ClinicModels, before: ScoredImages, after: ScoredImages
) -> dict[str, np.ndarray]:
    """How like the untreated images the treated ones are, pair by pair."""
    finite = np.minimum(psnr(before.images, after.images), 60.0)
    return {
        "psnr": finite,
        "ssim": ssim(before.images, after.images),
        "feature_distance": perceptual_distance(before.images, after.images, clinic.features),
    }


def paired_ratio(id: str, after: np.ndarray, before: np.ndarray, note: str = "") -> Figure:
    """after / before of the means, bootstrapped over pairs."""
    pairs = np.stack([after, before], axis=1).astype(np.float64)

    def statistic(drawn: np.ndarray) -> float:
        return float(drawn[:, 0].mean() / max(drawn[:, 1].mean(), 1e-9))

    return figure(id, statistic(pairs), bootstrap(pairs, statistic), "ratio", len(pairs), note)


def row_figures(clinic: ClinicModels, run: TreatmentRun, config: TreatmentConfig) -> list[Figure]:
    """All columns of one row, at its last update, on held-out prompts."""
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", config) for lora in (None, run.points[run.last])
    )
    count, name = len(after.images), run.name
    columns = [
        paired_ratio(f"{name}_mean_conf_ratio", after.mean, before.mean),
        paired_ratio(f"{name}_max_conf_ratio", after.highest, before.highest),
        paired_ratio(f"{name}_freq_ratio", after.highest >= FLAWED, before.highest >= FLAWED),
        paired_ratio(f"{name}_true_freq_ratio", after.judged >= FLAWED, before.judged >= FLAWED),
    ]
    for category in np.unique(after.categories):
        chosen = after.categories == category
        columns.append(
            figure(
                f"{name}_true_freq_{category}",
                float((after.judged[chosen] >= FLAWED).mean()),
                unit="share",
                n=int(chosen.sum()),
                note=f"{float((before.judged[chosen] >= FLAWED).mean()):.3f} before",
            )
        )
    for measure, values in similarity_to_base(clinic, before, after).items():
        note = f"in features of {clinic.features.name}" if measure == "feature_distance" else ""
        columns.append(
            figure(f"{name}_{measure}", float(values.mean()), bootstrap(values), n=count, note=note)
        )
    columns += [
        figure(f"{name}_guard_{key}", value, n=count)
        for key, value in guard_reading(clinic, before, after, "judged").values.items()
    ]
    columns += [
        figure(f"{name}_step_s", run.seconds, unit="s", note="median over the run, on the machine as it was"),
        figure(
            f"{name}_peak_mb", peak_bytes(clinic, config) / 1e6, unit="MB", note="estimated, weights included"
        ),
    ]
    return columns


def peak_bytes(clinic: ClinicModels, config: TreatmentConfig) -> int:
    return preflight(config, clinic.flux, deepcopy(clinic.detector).to("cpu")).peak_bytes
