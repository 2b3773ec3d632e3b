"""The long sections of `bench-treatment`: over-treating, a second round, another family, β, sequential
tuning, DreamBooth."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dataengine.clinic.oracles import load_teacher
from dataengine.clinic.parts import materialise
from dataengine.clinic.world import Prompt, prompts, stream
from dataengine.diagnosis.dataset import Sample
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.diagnosis.training import RESULT_FILE
from dataengine.quality.distances import feature_similarity
from dataengine.treatment import presets
from dataengine.treatment.config import RegionConfig, TreatmentConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import as_tensor, generate
from dataengine.treatment.tuning.dreambooth import learn_instance
from tests.bench.harness import Figure, curve, device, figure, quick
from tests.bench.source_hash import weights_hash
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
    guard_reading,
    paired_ratio,
    run_treatment,
    similarity_to_base,
    treating_detector,
)

OVER = 2 if quick() else 10
"""How much longer the over-treated runs are."""
PATIENCE = 2
HARM = {"attributes": (-0.05, 1.0), "detail": (0.75, 1.33)}
BETAS = (0.5,) if quick() else (0.002, 0.02, 0.05, 0.2)
MINED = 4 if quick() else 210
NAME = "sks"
"""The rare word that names the instance."""


def more_sections(
    clinic: ClinicModels,
    configs: Mapping[str, TreatmentConfig],
    runs: Mapping[str, TreatmentRun],
    best: TreatmentRun,
    update: int,
) -> dict[str, Callable[[], list[Figure]]]:
    """The long sections by name, the shortest first; each trains and generates what is not kept."""
    config = configs[best.name]
    return {
        "sequential": lambda: [sequential(clinic, configs["focus_n_fix"], runs["draft"])],
        "beta": lambda: [beta_sweep(clinic, configs["focus_n_fix"], runs)],
        "dreambooth": lambda: dreambooth(clinic, config),
        "round-two": lambda: [round_two(clinic, best, update, config)],
        "stable-diffusion": lambda: second_family(clinic, config),
        "guard": lambda: [stops_in_time(clinic, configs)],
    }


def stops_in_time(clinic: ClinicModels, configs: Mapping[str, TreatmentConfig]) -> Figure:
    """Runs many times longer without guard: does its second breach in a row come before any harm?

    A run ends early once both are known.
    """
    told, well = [], True
    for name in ("all", "all_offline"):
        stopped = harmed = None
        breaches = at = 0
        while at < OVER * SIZES.updates and (stopped is None or harmed is None):
            at += SIZES.every
            run = run_treatment(clinic, f"{name}_over", configs[name], updates=at)
            before = generate_and_score(clinic, run.base, None, "validation", PLAN)
            after = generate_and_score(clinic, run.base, run.points[at], "validation", PLAN)
            found = guard_reading(clinic, before, after, "validation")
            breaches = breaches + 1 if found.breaches else 0
            stopped = at if stopped is None and breaches >= PATIENCE else stopped
            outside = any(not low <= found.values[key] <= high for key, (low, high) in HARM.items())
            harmed = at if harmed is None and outside else harmed
        well &= harmed is None or (stopped is not None and stopped <= harmed)
        told.append(f"{name}: stop at {stopped}, harm at {harmed}, looked at until {at}")
    note = f"of {OVER * SIZES.updates} updates at most; {'; '.join(told)}"
    return figure("guard_stops_in_time", well, n=len(told), note=note)


def round_two(clinic: ClinicModels, best: TreatmentRun, update: int, config: TreatmentConfig) -> Figure:
    """From the treated generator: a detector retrained on its remaining flaws, or more updates by the old
    one."""
    start = best.points[update]
    detector = retrained(clinic, best.base, start)
    again = run_treatment(clinic, "round_two", config, best.base, detector=detector, start=start)
    more = run_treatment(clinic, "more_updates", config, best.base, start=start)
    after, other = (
        generate_and_score(clinic, best.base, run.points[run.last], "judged", PLAN) for run in (again, more)
    )
    note = f"round two over {more.last} more updates with the old detector, both from {best.name} {update}"
    return paired_ratio(
        "round_two_over_more_updates", after.judged >= FLAWED, other.judged >= FLAWED, f"{note}; goal < 1"
    )


def retrained(clinic: ClinicModels, base: Path, lora: Path) -> NetworkDetector:
    """The treating detector, trained on with the treated generator's images, which the teacher (who stands
    in for people) has marked."""
    begun = {"base": weights_hash(base), "lora": weights_hash(lora), "mined": MINED}
    work = KEEPER.folder("detector-two", begun)
    first = KEEPER.folder("detector") / "detector"
    if (work / RESULT_FILE).is_file():
        return treating_detector(first, "loop", work)
    teacher = load_teacher(materialise("teacher", KEEPER.folder("clinic/teacher"))).to(device())
    asked = prompts("loop", MINED)
    images = generate(
        load_family(base, lora=lora, device=device()),
        [p.text for p in asked],
        list(range(9000, 9000 + MINED)),
        PLAN.sampling,
    )
    with torch.no_grad():
        marks = (teacher.confidence(as_tensor(images).to(device())) >= FLAWED).float().cpu().numpy()
    mined = [
        Sample(image=image, target=mark, kind="true", category=prompt.category)
        for image, mark, prompt in zip(images, marks, asked, strict=True)
    ]
    return treating_detector(first, "loop", work, mined)


def second_family(clinic: ClinicModels, config: TreatmentConfig) -> list[Figure]:
    """The headline objective on the tiny Stable Diffusion: does it take the shortcut?"""
    steps = 2 if quick() else 20
    plan = config.model_copy(
        update={"sampling": PLAN.sampling.model_copy(update={"steps": steps, "guidance": 3.0})}
    )
    run = run_treatment(clinic, "stable_diffusion", plan, clinic.stable_diffusion)
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", plan) for lora in (None, run.points[run.last])
    )
    note = f"{steps} steps, guidance 3, {run.last} updates"
    return [
        paired_ratio("sd_true_freq_ratio", after.judged >= FLAWED, before.judged >= FLAWED, note),
        paired_ratio("sd_mean_conf_ratio", after.mean, before.mean, f"{note}; paper 0.92, its shortcut"),
    ]


def beta_sweep(clinic: ClinicModels, config: TreatmentConfig, runs: Mapping[str, TreatmentRun]) -> Figure:
    """Gain of plausibility against SSIM to the base; β = 0 is DRaFT."""
    swept = {0.0: runs["draft"], BETA: runs["focus_n_fix"]}
    for beta in BETAS:
        if beta not in swept:
            plan = config.model_copy(update={"region": RegionConfig(beta=beta)})
            swept[beta] = run_treatment(clinic, f"beta_{beta:g}", plan)
    before = generate_and_score(clinic, clinic.flux, None, "validation", PLAN)
    table: dict[str, list[float]] = {"beta": [], "gain": [], "ssim": []}
    for beta, run in sorted(swept.items()):
        after = generate_and_score(clinic, run.base, run.points[run.last], "validation", PLAN)
        table["beta"].append(beta)
        table["gain"].append(float((after.plausible - before.plausible).mean()))
        table["ssim"].append(float(similarity_to_base(clinic, before, after)["ssim"].mean()))
    return figure(
        "beta_sweep",
        "reported",
        n=len(swept),
        note=f"curve in {curve('treatment-beta', table)}, β = 0 is DRaFT",
    )


def sequential(clinic: ClinicModels, config: TreatmentConfig, first: TreatmentRun) -> Figure:
    """M ≡ 1 first, as far as the guard lets it, then a regional run from that LoRA."""
    _, second = presets.sequential(config, config)
    base = generate_and_score(clinic, clinic.flux, None, "validation", PLAN)
    until = last_within(clinic, first, base)
    run = run_treatment(clinic, f"sequential_{until}", second, start=first.points[until])
    table: dict[str, list[object]] = {"run": [], "update": [], "gain": [], "true": [], "ssim": []}
    for name, path in (("first", first), ("second", run)):
        for update, lora in path.points.items():
            after = generate_and_score(clinic, clinic.flux, lora, "validation", PLAN)
            values = (
                name,
                update,
                float((after.plausible - base.plausible).mean()),
                float((after.judged >= FLAWED).mean()),
                float(similarity_to_base(clinic, base, after)["ssim"].mean()),
            )
            for column, value in zip(table.values(), values, strict=True):
                column.append(value)
    note = (
        f"the regional run begins at update {until} of the first; curve in "
        f"{curve('treatment-sequential', table)}"
    )
    return figure("sequential", "reported", n=len(table["run"]), note=note)


def last_within(clinic: ClinicModels, run: TreatmentRun, base: ScoredImages) -> int:
    """The last update of a run before the guard's first breach; its first point where there is none."""
    within = min(run.points)
    for update, lora in run.points.items():
        if guard_reading(
            clinic, base, generate_and_score(clinic, run.base, lora, "validation", PLAN), "validation"
        ).breaches:
            break
        within = update
    return within


def dreambooth(clinic: ClinicModels, config: TreatmentConfig) -> list[Figure]:
    """An instance LoRA of one hand, treated on instance and class prompts; judged on unseen ones."""
    category = "hand"
    instance, caption = one_hand(category)
    learned = instance_lora(clinic, instance, f"{NAME} {caption}", caption)
    seen = [p.text for p in prompts("treatment", 20, [category])]
    own = replace(clinic, treating=[*seen, *(f"{NAME} {text}" for text in seen)])
    run = run_treatment(own, "dreambooth", config, start=learned)
    unseen = [
        Prompt(text=f"{NAME} {p.text}", category=p.category, attributes=p.attributes)
        for p in prompts("evaluation", SIZES.judged // 2 or 1, [category])
    ]
    clinic.asked["instance"] = unseen
    before, after = (
        generate_and_score(clinic, clinic.flux, lora, "instance", PLAN)
        for lora in (learned, run.points[run.last])
    )
    alike = [feature_similarity(x.images, instance, clinic.features) for x in (after, before)]
    identity = paired_ratio(
        "dreambooth_identity", *alike, f"in features of {clinic.features.name}; goal ≥ 0.98"
    )
    note = f"{len(unseen)} unseen instance prompts; goal < 1"
    return [
        identity,
        paired_ratio("dreambooth_true_freq_ratio", after.judged >= FLAWED, before.judged >= FLAWED, note),
    ]


def one_hand(category: str) -> tuple[np.ndarray, str]:
    """Correct images of one caption, uint8 NHWC: the most common one among the first of the world."""
    source = stream("photos", categories=[category])
    drawn = [source[i] for i in range(8 if quick() else 400)]
    captions = [drawing.caption for drawing in drawn]
    caption = max(sorted(set(captions)), key=captions.count)
    return np.stack([d.image for d in drawn if d.caption == caption]), caption


def instance_lora(clinic: ClinicModels, images: np.ndarray, instance_prompt: str, class_prompt: str) -> Path:
    """The instance LoRA, trained once."""
    updates = SIZES.updates * (1 if quick() else 4)
    plan = presets.dreambooth().model_copy(
        update={"updates": updates, "batch": PLAN.batch, "sampling": PLAN.sampling, "lora": PLAN.lora}
    )
    family, prompts_asked = load_family(clinic.flux, device=device()), [instance_prompt, class_prompt]
    work = KEEPER.folder("runs/instance", {"plan": plan, "prompts": prompts_asked})
    count = 4 if quick() else 64
    result = learn_instance(
        plan.model_copy(update={"grad_steps": 1}),
        family,
        list(images),
        instance_prompt,
        class_prompt,
        work,
        count,
    )
    return result.lora_folder
