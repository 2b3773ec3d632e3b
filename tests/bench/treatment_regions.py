"""The sections of `bench-treatment` on regions and on guidance without training (Focus-N-Fix).

Regions from the saliency of an image-level score against the detector's; a classifier's label lowered; the
reward at sampling, with and without regions; Safe Latent Diffusion; the choice of β by three thresholds.
Updates and settings are chosen on validation prompts by the teacher, figures are the judge's on others.
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dataengine.clinic.oracles import Teacher, load_teacher
from dataengine.clinic.parts import materialise
from dataengine.clinic.readers import PLAUSIBLE
from dataengine.clinic.scenes import COLOURS
from dataengine.clinic.world import Prompt, prompts
from dataengine.quality.scorers import ClassifierScorer, saliency
from dataengine.treatment.config import RegionConfig, RewardConfig, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.config import GuidanceConfig, SafeConfig
from dataengine.treatment.guided_sampling.guidance import make_guides
from dataengine.treatment.objectives.region import region_mask
from dataengine.treatment.sampling.sampler import as_tensor, generate
from tests.bench.harness import Figure, bootstrap, curve, device, figure, full, quick
from tests.bench.source_hash import state_hash, weights_hash
from tests.bench.treatment_rows import (
    BETA,
    FLAWED,
    KEEPER,
    PLAN,
    SIZES,
    ClinicModels,
    ScoredImages,
    TreatmentRun,
    generate_and_score,
    paired_ratio,
    run_treatment,
    score_images,
    similarity_to_base,
)

UPDATES = 1 if quick() else 60
"""Updates of a row here: by then DRaFT has left the limits that Focus-N-Fix sets to likeness."""
BETAS = (0.02,) if quick() else (0.002, 0.02, 0.05)
"""Swept besides 0, which is DRaFT, and the table's."""
SAFETY_BETA = BETA / 2
"""The paper's 5e-4 against its 1e-3."""
CONCEPT = "red"
"""A colour of the world, the concept that is lowered."""
SHOWN = 0.05
"""Share of an image's pixels with the concept's hue from which the image shows it."""
LOST = 0.02
"""Most attributes that a chosen update may lose, as a share."""
FLAWS_MORE = 0.05
"""How much more of a chosen row's images may be flawed where a concept is lowered."""
SCALES = (2.0,) if quick() else (2.0, 8.0, 32.0)
"""λ of reward guidance that are chosen among; 2 is the paper's."""
SAFE = {
    "Focus-N-Fix's, medium": SafeConfig(concept=CONCEPT, warmup=5),
    "strong": SafeConfig(concept=CONCEPT, scale=2000, threshold=0.025, warmup=4, momentum=0.5, decay=0.7),
    "maximum": SafeConfig(concept=CONCEPT, scale=5000, threshold=1.0, warmup=0, momentum=0.5, decay=0.7),
}
"""Safe Latent Diffusion's presets for 25 steps, half the method's 50, and so half of their warm-ups."""
SAFE_SAMPLING = SamplingConfig(steps=2 if quick() else 25, batch=32, guidance=3.0)
LIKENESS = {"psnr": (20.0, True), "ssim": (0.75, True), "feature_distance": (0.2, False)}
"""Focus-N-Fix's thresholds for β (True: above); the distance in the reader's features stands in for LPIPS."""


@dataclass(frozen=True)
class Made:
    """A row's images of held-out prompts, those of its base, and how it was chosen."""

    before: ScoredImages
    after: ScoredImages
    how: str


def region_sections(
    clinic: ClinicModels, configs: Mapping[str, TreatmentConfig]
) -> dict[str, Callable[[], list[Figure]]]:
    """The sections by name; each trains and generates what is not kept. Those that train most are for
    `FULL=1`."""
    found: dict[str, Callable[[], list[Figure]]] = {
        "regions": lambda: score_only_regions(clinic, configs),
        "guidance": lambda: reward_guidance(clinic),
        "safe-latent": lambda: safe_latent(clinic),
    }
    if full() or quick():
        found["safety"] = lambda: lowered_label(clinic, configs["draft"])
        found["beta-choice"] = lambda: beta_choice(clinic, configs)
    return found


@cache
def teacher() -> Teacher:
    """The clinic's teacher, who stands in for people in choices."""
    return load_teacher(materialise("teacher", KEEPER.folder("clinic/teacher"))).to(device())


@torch.no_grad()
def flawed_by_teacher(images: np.ndarray) -> np.ndarray:
    """Whether the teacher finds a flaw in each of the images uint8 NHWC, bool (N,)."""
    parts = as_tensor(images).to(device()).split(32)
    return np.concatenate([teacher().confidence(p).flatten(1).amax(1).cpu().numpy() for p in parts]) >= FLAWED


def concept_share(images: np.ndarray) -> np.ndarray:
    """Share of each image's pixels, uint8 NHWC, that have the concept's hue by less than 14° and a saturation
    above 0.5: no network decides it."""
    hue = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLOURS[CONCEPT]))[0]
    pixels = images.astype(np.float64) / 255
    high, low = pixels.max(-1), pixels.min(-1)
    span = np.maximum(high - low, 1e-9)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    from_green = 2 + (blue - red) / span
    found = np.where(high == green, from_green, 4 + (red - green) / span)
    found = np.where(high == red, (green - blue) / span, found)
    apart = np.abs((found / 6 - hue + 0.5) % 1 - 0.5)
    return ((apart < 14 / 360) & ((high - low) > 0.5 * high) & (high > 0.25)).mean((1, 2))


def fewest_flaws(clinic: ClinicModels, run: TreatmentRun) -> tuple[int, str]:
    """The update that the teacher finds fewest flaws at on validation, among those that lose few attributes,
    and how it was chosen."""

    def scored(lora: Path | None) -> ScoredImages:
        return generate_and_score(clinic, run.base, lora, "validation", PLAN)

    base, points = scored(None), {n: scored(lora) for n, lora in run.points.items()}
    kept = [n for n, one in points.items() if (base.right - one.right).mean() <= LOST]
    flawed = {n: float(flawed_by_teacher(points[n].images).mean()) for n in kept or points}
    best = min(flawed, key=lambda n: flawed[n])
    first = flawed_by_teacher(base.images).mean()
    lost = "" if kept else f"; every update loses more than {LOST} of the attributes"
    told = f"update {best} of {run.last}, chosen on validation by the teacher"
    return best, f"{told} (flawed {first:.3f} before, {flawed[best]:.3f} after){lost}"


def treated(clinic: ClinicModels, run: TreatmentRun) -> Made:
    """A run at its chosen update, on the held-out prompts of the table."""
    update, how = fewest_flaws(clinic, run)
    return at_update(clinic, run, update, how)


def at_update(clinic: ClinicModels, run: TreatmentRun, update: int, how: str) -> Made:
    """A run at an update, on the held-out prompts of the table."""
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", PLAN) for lora in (None, run.points[update])
    )
    return Made(before, after, how)


def columns(clinic: ClinicModels, name: str, made: Made) -> list[Figure]:
    """True frequency, gain of plausibility, likeness to the base and attributes lost of one row."""
    before, after, n = made.before, made.after, len(made.after.images)
    gain, lost = after.plausible - before.plausible, before.right - after.right
    found = [
        paired_ratio(
            f"{name}_true_freq_ratio", after.judged >= FLAWED, before.judged >= FLAWED, f"{made.how}"
        ),
        figure(f"{name}_gain", float(gain.mean()), bootstrap(gain), n=n, note="plausibility"),
        figure(f"{name}_attributes_lost", float(lost.mean()), bootstrap(lost), "share", n),
    ]
    for measure, values in similarity_to_base(clinic, before, after).items():
        note = f"in features of {clinic.features.name}" if measure == "feature_distance" else ""
        found.append(figure(f"{name}_{measure}", float(values.mean()), bootstrap(values), n=n, note=note))
    return found


def score_only_regions(clinic: ClinicModels, configs: Mapping[str, TreatmentConfig]) -> list[Figure]:
    """Focus-N-Fix with the saliency of the reader's plausibility, against the detector's and DRaFT."""
    plans = {
        "draft": configs["draft"],
        "focus_n_fix": configs["focus_n_fix"],
        "focus_n_fix_saliency": by_saliency(configs["draft"], BETA),
    }
    runs = {name: run_treatment(clinic, name, plan, updates=UPDATES) for name, plan in plans.items()}
    made = {name: treated(clinic, run) for name, run in runs.items()}
    found = [one for name, row in made.items() for one in columns(clinic, f"regions_{name}", row)]
    first, second = (made[name].after.judged >= FLAWED for name in ("focus_n_fix_saliency", "focus_n_fix"))
    note = "saliency of the score over the detector's regions, each at its chosen update"
    return [*found, paired_ratio("saliency_over_detector_regions", first, second, note), *coverage(clinic)]


def by_saliency(config: TreatmentConfig, beta: float) -> TreatmentConfig:
    """The same with regions from the saliency of its rewards."""
    return config.model_copy(update={"region": RegionConfig(map="saliency", beta=beta)})


def coverage(clinic: ClinicModels) -> list[Figure]:
    """How much of the judge's flawed pixels either kind of region covers on untreated images, and how much of
    the image."""
    images = as_tensor(generate_and_score(clinic, clinic.flux, None, "judged", PLAN).images).to(device())
    reader = ClassifierScorer(clinic.readers, PLAUSIBLE, "sigmoid", device())
    flawed: list[np.ndarray] = []
    regions: dict[str, list[np.ndarray]] = {"detector": [], "saliency": []}
    for part in images.split(32):
        with torch.no_grad():
            flawed.append((clinic.judge.confidence(part) >= FLAWED).cpu().numpy())
            maps = {"detector": clinic.detector.confidence(part)}
        maps["saliency"] = saliency(reader, part, [""] * len(part))
        for kind, heat in maps.items():
            config = RegionConfig.model_validate({"map": kind})
            regions[kind].append(region_mask(heat, config).cpu().numpy() > 0)
    wrong, found = np.concatenate(flawed), list[Figure]()
    rows = np.flatnonzero(wrong.any((1, 2)))
    for kind, masks in regions.items():
        mask = np.concatenate(masks)
        within = (mask & wrong)[rows].sum((1, 2)) / wrong[rows].sum((1, 2)) if len(rows) else np.zeros(1)
        area = mask.mean((1, 2))
        note = f"of the judge's flawed pixels; the regions cover {area.mean():.3f} of the image"
        found.append(
            figure(f"covered_by_{kind}", float(within.mean()), bootstrap(within), "share", len(rows), note)
        )
    return found


def steered(
    clinic: ClinicModels,
    row: str,
    base: Path,
    sampling: SamplingConfig,
    which: str,
    config: GuidanceConfig,
) -> ScoredImages:
    """Images of a set of prompts by the seeds of the unguided ones, guided; kept."""
    asked = [prompt for prompt in clinic.asked[which] for _ in range(SIZES.seeds)]
    texts = [prompt.text for prompt in asked]

    def make() -> dict[str, np.ndarray]:
        given = config.reward
        reward = None
        if given is not None:
            reward = ClassifierScorer(given.location, given.label, given.activation, device())
        guides = make_guides(config, texts, clinic.detector if config.needs_detector else None, reward)
        family = load_family(base, device=device())
        images = generate(family, texts, list(range(5000, 5000 + len(texts))), sampling, steppers=guides)
        return {"images": images} | score_images(clinic, images, asked)

    facts = config.model_dump(mode="json", exclude={"reward": {"location"}})
    settings = {
        "base": weights_hash(base),
        "guidance": facts,
        "reward": config.reward and weights_hash(Path(config.reward.location)),
        "sampling": sampling,
        "prompts": texts,
        "detector": state_hash(clinic.detector),
    }
    return ScoredImages(**KEEPER.arrays(f"images/{base.name}-{row}-{which}", make, settings))


def reward_guidance(clinic: ClinicModels) -> list[Figure]:
    """The reward raised at every step of sampling, without training, in the whole image and in the
    detector's regions of x̂0 (Focus-N-Fix's baseline)."""
    base = generate_and_score(clinic, clinic.flux, None, "judged", PLAN)
    found: list[Figure] = []
    for row, region in {"reward_guidance": None, "reward_guidance_regions": RegionConfig()}.items():
        guide = GuidanceConfig(kind="reward", reward=clinic.plausibility, region=region)
        guides = {scale: guide.model_copy(update={"scale": scale}) for scale in SCALES}
        place = clinic.flux, PLAN.sampling
        tried = {
            scale: steered(clinic, f"{row}-{scale:g}", *place, "validation", each)
            for scale, each in guides.items()
        }
        flawed = {scale: float(flawed_by_teacher(one.images).mean()) for scale, one in tried.items()}
        best = min(flawed, key=lambda scale: flawed[scale])
        told = ", ".join(f"{value:.3f} at {scale:g}" for scale, value in flawed.items())
        after = steered(clinic, f"{row}-{best:g}", *place, "judged", guides[best])
        found += columns(
            clinic, row, Made(base, after, f"λ = {best:g} chosen by the teacher (flawed {told})")
        )
    return found


def with_concept(use: str, count: int) -> list[Prompt]:
    """The first prompts of a use whose subject has the concept's colour."""
    return [one for one in prompts(use, 60 * count) if one.attributes.get("colour") == CONCEPT][:count]


def concept_columns(clinic: ClinicModels, name: str, made: Made, asked: Sequence[Prompt]) -> list[Figure]:
    """Images that show the concept, over the base's; all other attributes that are lost; and a row's
    columns."""
    after, before = (concept_share(one.images) >= SHOWN for one in (made.after, made.before))
    note = f"images of which {SHOWN:g} is {CONCEPT} by hue; {before.mean():.3f} before; {made.how}"
    every = [prompt for prompt in asked for _ in range(SIZES.seeds)]
    lost = others_right(clinic, made.before.images, every) - others_right(clinic, made.after.images, every)
    kept = [one for one in columns(clinic, name, made) if not one.id.endswith(("_gain", "_attributes_lost"))]
    return [
        paired_ratio(f"{name}_concept_ratio", after, before, note),
        figure(
            f"{name}_others_lost",
            float(lost.mean()),
            bootstrap(lost),
            "share",
            len(lost),
            "attributes of the prompts but the colour",
        ),
        *kept,
    ]


def others_right(clinic: ClinicModels, images: np.ndarray, asked: Sequence[Prompt]) -> np.ndarray:
    """Share of each prompt's category and attributes but the colour that its image shows, (N,)."""
    wanted = [{"category": one.category, **one.attributes} for one in asked]
    names = sorted({name for one in wanted for name in one if name != "colour"})
    seen = {name: [value for value, _ in clinic.reader.answers(images, name)] for name in names}
    return np.array(
        [
            np.mean([seen[name][i] == value for name, value in one.items() if name != "colour"])
            for i, one in enumerate(wanted)
        ]
    )


def concept_prompts(clinic: ClinicModels) -> None:
    """Prompts with the concept, beside those of all rows."""
    few, many = (2, 2) if quick() else (20, 50)
    clinic.asked |= {
        "concept-validation": with_concept("validation", few),
        "concept-judged": with_concept("evaluation", many),
    }


def lowered_label(clinic: ClinicModels, draft: TreatmentConfig) -> list[Figure]:
    """Focus-N-Fix against a classifier: the reader's label is lowered, in the regions of its own saliency,
    against DRaFT on the same label."""
    concept_prompts(clinic)
    own = replace(clinic, treating=[one.text for one in with_concept("treatment", 70 if not quick() else 2)])
    # Softmax over all labels keeps a gradient where the label's own sigmoid is saturated.
    label = RewardConfig(location=str(clinic.readers), label=f"colour:{CONCEPT}", goal="lower")
    plan = draft.model_copy(update={"rewards": (label,)})
    found: list[Figure] = []
    for row, config in {"safety_draft": plan, "safety_regions": by_saliency(plan, SAFETY_BETA)}.items():
        run = run_treatment(own, row, config, updates=UPDATES)
        places = {str(update): lora for update, lora in run.points.items()}
        before, *after = (
            generate_and_score(own, run.base, lora, "concept-validation", PLAN)
            for lora in (None, *places.values())
        )
        best, how = fewest_shown(before, dict(zip(places, after, strict=True)))
        base, best_one = (
            generate_and_score(own, run.base, lora, "concept-judged", PLAN) for lora in (None, places[best])
        )
        made = Made(base, best_one, f"update {how}")
        found += concept_columns(clinic, row, made, clinic.asked["concept-judged"])
    return found


def fewest_shown(before: ScoredImages, tried: Mapping[str, ScoredImages]) -> tuple[str, str]:
    """Of rows on validation prompts the one whose images show the concept least, among those that the teacher
    finds flawed no more than `FLAWS_MORE` above the base; and how it was chosen."""
    shown = {name: float((concept_share(one.images) >= SHOWN).mean()) for name, one in tried.items()}
    limit = flawed_by_teacher(before.images).mean() + FLAWS_MORE
    flawed = {name: float(flawed_by_teacher(one.images).mean()) for name, one in tried.items()}
    allowed = [name for name in tried if flawed[name] <= limit]
    best = min(allowed or tried, key=lambda name: shown[name])
    told = ", ".join(f"{name}: shown {shown[name]:.2f}, flawed {flawed[name]:.2f}" for name in tried)
    over = "" if allowed else "none within it, "
    return best, f"{best}, chosen on validation with flaws by the teacher up to {limit:.2f} ({over}{told})"


def safe_latent(clinic: ClinicModels) -> list[Figure]:
    """Safe Latent Diffusion away from the concept, on the tiny Stable Diffusion."""
    concept_prompts(clinic)
    base = clinic.stable_diffusion
    plain = PLAN.model_copy(update={"sampling": SAFE_SAMPLING})

    def images(preset: str, which: str) -> ScoredImages:
        guide = GuidanceConfig(kind="safe", safe=SAFE[preset])
        return steered(clinic, f"safe-{list(SAFE).index(preset)}", base, SAFE_SAMPLING, which, guide)

    allowed = generate_and_score(clinic, base, None, "concept-validation", plain)
    best, how = fewest_shown(allowed, {preset: images(preset, "concept-validation") for preset in SAFE})
    before = generate_and_score(clinic, base, None, "concept-judged", plain)
    made = Made(before, images(best, "concept-judged"), f"preset {how}")
    return concept_columns(clinic, "safe_latent", made, clinic.asked["concept-judged"])


def beta_choice(clinic: ClinicModels, configs: Mapping[str, TreatmentConfig]) -> list[Figure]:
    """Focus-N-Fix's choice of β: the sweep on validation prompts, the thresholds of likeness, and of those
    within them the one with the fewest flaws by the teacher."""
    plans = {0.0: ("draft", configs["draft"]), BETA: ("focus_n_fix", configs["focus_n_fix"])}
    for beta in BETAS:
        changed = configs["focus_n_fix"].model_copy(update={"region": RegionConfig(beta=beta)})
        plans[beta] = f"beta_{beta:g}", changed
    before = generate_and_score(clinic, clinic.flux, None, "validation", PLAN)
    runs: dict[float, TreatmentRun] = {}
    table: dict[str, list[float]] = {name: [] for name in ("beta", "gain", "teacher", *LIKENESS)}
    for beta, (name, plan) in sorted(plans.items()):
        runs[beta] = run = run_treatment(clinic, name, plan, updates=UPDATES)
        after = generate_and_score(clinic, run.base, run.points[run.last], "validation", PLAN)
        alike = similarity_to_base(clinic, before, after)
        table["beta"].append(beta)
        table["gain"].append(float((after.plausible - before.plausible).mean()))
        table["teacher"].append(float(flawed_by_teacher(after.images).mean()))
        for measure in LIKENESS:
            table[measure].append(float(alike[measure].mean()))
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    within = {
        n: [row for row in rows if all(holds(row[key], key) for key in list(LIKENESS)[:n])] for n in (2, 3)
    }
    told = "; ".join(
        f"β {row['beta']:g}: gain {row['gain']:.3f}, flawed {row['teacher']:.3f}, PSNR {row['psnr']:.1f}, "
        f"SSIM {row['ssim']:.2f}, distance {row['feature_distance']:.2f}"
        for row in rows
    )
    kept = [", ".join(f"{row['beta']:g}" for row in within[n]) or "none" for n in (2, 3)]
    file = curve("treatment-beta-choice", table)
    note = f"update {UPDATES} on validation, in {file}: {told}; within PSNR and SSIM "
    note += (
        f"{kept[0]}, and within the distance in the reader's features, which stands in for LPIPS, {kept[1]}"
    )
    allowed = within[3] or within[2]
    if not allowed:
        return [figure("beta_chosen", "none", n=len(rows), note=note)]
    best = min(allowed, key=lambda row: (row["teacher"], -row["gain"]))["beta"]
    made = at_update(clinic, runs[best], runs[best].last, f"β = {best:g}")
    return [figure("beta_chosen", best, n=len(rows), note=note), *columns(clinic, "beta_chosen", made)]


def holds(value: float, measure: str) -> bool:
    """Whether a measure of likeness is on the right side of its threshold."""
    limit, above = LIKENESS[measure]
    return value > limit if above else value < limit
