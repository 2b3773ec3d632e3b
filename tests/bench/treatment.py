"""`make bench-treatment`: does treatment remove artifacts, and what does it cost the images?

Rows are published methods as settings of the one `treat`, on the tiny FLUX; the judge, which nothing was
trained against, counts artifacts. Choices are made on validation prompts, figures on held-out ones. By
default the rows, Focus-N-Fix against DRaFT, regions and guidance; `FULL=1` adds the long sections.
Resumable: runs and images are kept (see `Keeper`). `ONLY=objectives` or `ONLY=memory` makes one section.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from dataengine.treatment import presets
from dataengine.treatment.config import PixelConfig, RegionConfig, TreatmentConfig
from tests.bench.harness import RESULTS, Figure, bootstrap, curve, figure, full, quick, write_in_parts
from tests.bench.treatment_objectives import memory_figures, objective_figures
from tests.bench.treatment_regions import region_sections
from tests.bench.treatment_rows import (
    BETA,
    FLAWED,
    KEEPER,
    OFFLINE,
    PLAN,
    ClinicModels,
    ScoredImages,
    TreatmentRun,
    generate_and_score,
    guard_reading,
    open_clinic_models,
    paired_ratio,
    plan_with,
    row_figures,
    run_treatment,
    similarity_to_base,
)
from tests.bench.treatment_sections import more_sections

SHEET = 12
"""Pairs in a row of the sheet."""


def rows(clinic: ClinicModels) -> dict[str, TreatmentConfig]:
    """The table's rows by name."""
    draft = presets.draft(clinic.plausibility)
    return {
        "all": PLAN,
        "max": plan_with(pixel=PixelConfig(pixels="maximum")),
        "above": plan_with(pixel=PixelConfig(pixels="above")),
        "all_offline": plan_with(offline=OFFLINE),
        "above_offline": plan_with(pixel=PixelConfig(pixels="above"), offline=OFFLINE),
        "draft": plan_with(pixel=draft.pixel, rewards=draft.rewards),
        "focus_n_fix": plan_with(pixel=draft.pixel, rewards=draft.rewards, region=RegionConfig(beta=BETA)),
    }


def headline(clinic: ClinicModels, runs: Sequence[TreatmentRun]) -> tuple[TreatmentRun, int]:
    """Row and update with the lowest mean confidence among those that the guard lets pass, on validation."""
    best: tuple[float, TreatmentRun, int] | None = None
    for run in runs:
        before = generate_and_score(clinic, run.base, None, "validation", PLAN)
        for update, lora in run.points.items():
            after = generate_and_score(clinic, run.base, lora, "validation", PLAN)
            well = not guard_reading(clinic, before, after, "validation").breaches
            if (well or quick()) and (best is None or after.mean.mean() < best[0]):
                best = float(after.mean.mean()), run, update
    return (best[1], best[2]) if best else (runs[0], min(runs[0].points))


def headline_figures(clinic: ClinicModels, runs: Sequence[TreatmentRun]) -> list[Figure]:
    run, update = headline(clinic, runs)
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", PLAN) for lora in (None, run.points[update])
    )
    told = f"{run.name} at update {update}, chosen on validation prompts with the guard inside its limits"
    told += f"; pairs in {pairs_sheet(before, after)}"
    return [
        paired_ratio("mean_conf_ratio", after.mean, before.mean, f"{told}; goal ≤ 0.3"),
        paired_ratio(
            "true_freq_ratio",
            after.judged >= FLAWED,
            before.judged >= FLAWED,
            f"{told}; goal ≤ 0.6, interval below 1",
        ),
    ]


def pairs_sheet(before: ScoredImages, after: ScoredImages) -> str:
    """Held-out images before (upper rows) and after, those first that the judge found worst; its file name.

    A red frame is a flaw by the judge.
    """

    def one(shown: ScoredImages, index: int) -> np.ndarray:
        return framed(shown.images[index], bool(shown.judged[index] >= FLAWED))

    worst = np.argsort(-before.judged, kind="stable")[: 3 * SHEET]
    rows = [
        np.concatenate([one(shown, i) for i in worst[start : start + SHEET]], axis=1)
        for start in range(0, len(worst) - SHEET + 1, SHEET)
        for shown in (before, after)
    ]
    file = RESULTS / "treatment-pairs.png"
    Image.fromarray(np.concatenate(rows or [one(before, 0)])).save(file, optimize=True)
    return file.name


def framed(image: np.ndarray, flawed: bool) -> np.ndarray:
    """An image, uint8 HW3, in a frame that is red where it is flawed."""
    made = np.full((image.shape[0] + 6, image.shape[1] + 6, 3), (235, 235, 235), np.uint8)
    if flawed:
        made[:] = (200, 30, 30)
    made[3:-3, 3:-3] = image
    return made


def curves(clinic: ClinicModels, runs: Sequence[TreatmentRun]) -> Figure:
    """Confidence and likeness over updates, on validation prompts (the paper's Fig. 4)."""
    table: dict[str, list[object]] = {"row": [], "update": [], "mean": [], "max": [], "true": [], "ssim": []}
    for run in runs:
        before = generate_and_score(clinic, run.base, None, "validation", PLAN)
        for update, lora in ({0: None} | run.points).items():
            after = generate_and_score(clinic, run.base, lora, "validation", PLAN)
            values = (
                run.name,
                update,
                float(after.mean.mean()),
                float(after.highest.mean()),
                float((after.judged >= FLAWED).mean()),
                float(similarity_to_base(clinic, before, after)["ssim"].mean()),
            )
            for column, value in zip(table.values(), values, strict=True):
                column.append(value)
    file = curve("treatment-curves", table)
    return figure("all_vs_max", "reported", n=len(table["row"]), note=f"curves over updates in {file}")


def at_equal_gain(clinic: ClinicModels, draft: TreatmentRun, fix: TreatmentRun) -> list[Figure]:
    """What each pays, in likeness to the base, for the same rise of the same reward, on held-out prompts."""
    before = generate_and_score(clinic, draft.base, None, "judged", PLAN)
    paths = [
        [generate_and_score(clinic, run.base, lora, "judged", PLAN) for lora in run.points.values()]
        for run in (draft, fix)
    ]
    rises = [np.stack([point.plausible - before.plausible for point in path]) for path in paths]
    costs = {
        measure: [
            np.stack([similarity_to_base(clinic, before, point)[measure] for point in path]) for path in paths
        ]
        for measure in ("ssim", "feature_distance")
    }
    images = np.arange(len(before.images))

    def compared(measure: str, combine: Callable[[float, float], float]) -> Callable[[np.ndarray], float]:
        nothing = 1.0 if measure == "ssim" else 0.0

        def statistic(rows: np.ndarray) -> float:
            drawn = rows.astype(int)
            gains = [np.concatenate([[0.0], rise[:, drawn].mean(1)]) for rise in rises]
            paid = [np.concatenate([[nothing], cost[:, drawn].mean(1)]) for cost in costs[measure]]
            common = max(min(np.max(gain) for gain in gains), 0.0)
            return combine(*(interpolated(common, g, p) for g, p in zip(gains, paid, strict=True)))

        return statistic

    kinds: dict[str, tuple[str, Callable[[float, float], float], str]] = {
        "ssim_gain_over_draft": ("ssim", lambda a, b: b - a, "goal ≥ 0.1"),
        "feature_distance_over_draft": ("feature_distance", lambda a, b: b / max(a, 1e-9), "goal ≤ 0.5"),
    }
    note = f"at equal gain of plausibility, interpolated over updates, β = {BETA}; in {clinic.features.name}"
    figures = []
    for id, (measure, combine, goal) in kinds.items():
        statistic = compared(measure, combine)
        spread = bootstrap(images, statistic, draws=400)
        figures.append(figure(id, statistic(images), spread, n=len(images), note=f"{note}; {goal}"))
    return figures


def interpolated(gain: float, gains: np.ndarray, paid: np.ndarray) -> float:
    """What was paid when the gain first reached this height."""
    reached = int(np.argmax(gains >= gain - 1e-12))
    if reached == 0:
        return float(paid[0])
    low, high = gains[reached - 1], gains[reached]
    share = (gain - low) / max(high - low, 1e-12)
    return float(paid[reached - 1] + share * (paid[reached] - paid[reached - 1]))


def forgetting(clinic: ClinicModels, draft: TreatmentRun, fix: TreatmentRun) -> list[Figure]:
    """Attribute accuracy that is lost, by category, with a paired t-test between the two methods."""
    from scipy import stats

    before = generate_and_score(clinic, draft.base, None, "judged", PLAN)
    lost = [
        before.right - generate_and_score(clinic, run.base, run.points[run.last], "judged", PLAN).right
        for run in (draft, fix)
    ]
    figures = []
    for category in np.unique(before.categories):
        rows = before.categories == category
        first, second = (values[rows] for values in lost)
        same = bool(np.allclose(first, second))
        p = 1.0 if same else float(stats.ttest_rel(first, second).pvalue)
        note = f"lost by Focus-N-Fix less that by DRaFT; DRaFT lost {first.mean():.4f}; t-test p = {p:.3f}"
        gap = second - first
        figures.append(
            figure(
                f"forgetting_{category}", float(gap.mean()), bootstrap(gap), "share", int(rows.sum()), note
            )
        )
    gap = lost[1] - lost[0]
    note = (
        "Focus-N-Fix loses no more attributes than DRaFT; the interval of the difference reaches 0 or below"
    )
    return [*figures, figure("forgetting", bool(bootstrap(gap)[0] <= 0), n=len(gap), note=note)]


def table_parts(clinic: ClinicModels) -> dict[str, Callable[[], list[Figure]]]:
    """The sections about the rows of the table, which are treated first."""
    configs = rows(clinic)
    runs = {name: run_treatment(clinic, name, config) for name, config in configs.items()}
    pixel = [runs[name] for name in ("all", "max", "above", "all_offline", "above_offline")]
    parts: dict[str, Callable[[], list[Figure]]] = {
        "headline": lambda: headline_figures(clinic, pixel),
        "equal-gain": lambda: at_equal_gain(clinic, runs["draft"], runs["focus_n_fix"]),
        "curves": lambda: [curves(clinic, list(runs.values()))],
        "forgetting": lambda: forgetting(clinic, runs["draft"], runs["focus_n_fix"]),
        "rows": lambda: [
            one for name, run in runs.items() for one in row_figures(clinic, run, configs[name])
        ],
    }
    parts |= region_sections(clinic, configs)
    if full() or quick():
        parts |= more_sections(clinic, configs, runs, *headline(clinic, pixel))
    return parts


def main() -> None:
    clinic = open_clinic_models()
    parts: dict[str, Callable[[], list[Figure]]] = {
        "memory": memory_figures,
        "objectives": lambda: objective_figures(clinic, PLAN),
    }
    only = os.environ.get("ONLY")
    chosen = {only: parts[only]} if only in parts else table_parts(clinic) | parts
    write_in_parts("treatment", chosen, [PLAN.seed, 5000], KEEPER.key)


if __name__ == "__main__":
    main()
