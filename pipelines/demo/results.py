"""Results of a finished round: figures compared with their goals, and galleries of images.

Input: a round whose stages are recorded; a judge (`Judge`). Output: plain data for `report.json`, and
galleries. Cost: one pass of two detectors over the benchmark, one of the judge over the judged pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dataengine.clinic.config import JUDGE_THRESHOLD
from dataengine.diagnosis.image_metrics import ImageMetrics, image_metrics
from dataengine.masks import dequantise, unpack_label_map
from dataengine.quality.intervals import Interval, ratio_of_means
from dataengine.records import Image, Label, SnapshotItem
from dataengine.records.images import SURVEY
from pipelines.demo.figures import Figure, sight_figures
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.training_data import read_categories, read_training_data
from pipelines.detectors.training_set import labelled_items, real_items
from pipelines.generators.comparison import Pair
from pipelines.reports.contact_sheet import Gallery, Tile
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_pixels, read_stacked
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.services.rounds import describe_stages
from pipelines.stages.judge import pairs_of

Judge = Callable[[np.ndarray], np.ndarray]
"""uint8 NHWC images to confidence float32 NHW in [0, 1]; only measures, and takes no part in a round."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The judged pairs and the judge's predictions on them: confidences float32 NHW in [0, 1]."""

    pairs: list[Pair]
    before: np.ndarray
    after: np.ndarray


def judge_pairs(context: Context, round_id: str, judge: Judge) -> Evidence | None:
    """The judge's predictions on every pair; None if no generator was treated."""
    if results_of(context, round_id)["treat"]["treated"] is None:
        return None
    pairs = pairs_of(context, round_id)
    before = read_stacked(context.workspace, [pair.before for pair in pairs])
    after = read_stacked(context.workspace, [pair.after for pair in pairs])
    return Evidence(pairs=pairs, before=judge(before), after=judge(after))


def figures(
    context: Context, round_id: str, evidence: Evidence | None, hard: Sequence[str], first: str
) -> list[Figure]:
    """The figures of the round. `hard`: the truly hard categories; `first`: the detector before the round."""
    results = results_of(context, round_id)
    figures = [
        *detector_figures(context, round_id, first, results["promote"]["champion"]),
        *sight_figures(results["evaluate"], results["promote"]["promoted"]),
        _claim(
            "hard_categories_exact",
            "exactly the hard categories found",
            set(results["write_prompts"]["hard"]) == set(hard),
            ", ".join(results["write_prompts"]["hard"]) or "none",
        ),
    ]
    return figures if evidence is None else figures + treatment_figures(results["judge"], evidence)


def detector_figures(context: Context, round_id: str, first: str, last: str) -> list[Figure]:
    """Benchmark errors of the detectors before and after the round (DiffDoctor, Table 1)."""
    weights = recipe_of(context, round_id).publish
    data = read_training_data(context.workspace, weights.labels, round_id, ("benchmark",))
    sets = {
        "hard": labelled_items(context.workspace.blobs, data, "benchmark", weights),
        "clean": real_items(data, "benchmark", weights),
    }
    rows = {
        (detector_id, name): image_rows(context, detector_id, items)
        for detector_id in dict.fromkeys((first, last))
        for name, items in sets.items()
    }
    comparisons = (
        ("mse_ratio", "detector error (MSE) on the hard benchmark", "hard", "mse", 0.5),
        ("kl1m_ratio", "false alarms, KL(1−P‖1−Q), on the hard benchmark", "hard", "kl1m", 0.5),
        ("mse_clean_ratio", "detector error (MSE) on artifact-free images", "clean", "mse", 0.2),
    )
    return [
        _ratio(
            id,
            title,
            [getattr(row, metric) for row in rows[first, name]],
            [getattr(row, metric) for row in rows[last, name]],
            [item.image_id for item in sets[name]],
            goal,
        )
        for id, title, name, metric, goal in comparisons
    ]


def image_rows(context: Context, detector_id: str, items: Sequence[SnapshotItem]) -> list[ImageMetrics]:
    """A detector's metrics on every image, in order."""
    samples = StoredSamples(context.workspace, items)
    examples = [samples.sample(index) for index in range(len(samples))]
    maps = fresh_maps(context, detector_id, [example.image for example in examples])
    return [
        image_metrics(example.target, confidence) for example, confidence in zip(examples, maps, strict=True)
    ]


def treatment_figures(judgement: dict[str, Any], evidence: Evidence) -> list[Figure]:
    """Effects of the treatment: by the treating detector, by the judge, and on image quality."""
    prompts = [pair.before.prompt for pair in evidence.pairs]
    true_before = evidence.before.max((1, 2)) >= JUDGE_THRESHOLD
    true_after = evidence.after.max((1, 2)) >= JUDGE_THRESHOLD
    true = _ratio(
        "true_freq_ratio", "images with a true artifact, by the judge", true_before, true_after, prompts, 0.85
    )
    by_detector = "mean confidence by the treating detector"
    energy, variety = "detail (Laplacian energy)", "diversity among the seeds of a prompt"
    pairs = len(prompts)
    figures = [
        _within("mean_conf_ratio", by_detector, judgement["mean_confidence"], (0.0, 0.5), "≤ 0.5", pairs),
        replace(true, met=true.met and true.interval is not None and true.interval[1] < 1),
        _within("detail_ratio", energy, judgement["detail"], (0.8, 1.25), "0.8 – 1.25", pairs),
        _within("diversity_ratio", variety, judgement["diversity"], (0.9, 9e9), "≥ 0.9", pairs),
    ]
    if "attributes" in judgement:
        drop = judgement["attributes"]
        figures.append(
            Figure(
                id="attribute_drop",
                title="prompted attributes no longer shown",
                value=drop["drop"],
                interval=(drop["interval"][0], drop["interval"][1]),
                unit="share",
                goal="≤ 0.03",
                met=drop["drop"] <= 0.03,
                n=len(prompts),
                note=f"{drop['before']:.3f} → {drop['after']:.3f}",
            )
        )
    return figures


def galleries(context: Context, round_id: str, evidence: Evidence | None, first: str) -> list[Gallery]:
    """Images of the survey, the labels, and before and after treatment."""
    every = [_survey(context, round_id), _labels(context, round_id, first)]
    if evidence is not None:
        every += _pairs(context, round_id, evidence)
    return [gallery for gallery in every if gallery.rows]


def _survey(context: Context, round_id: str, each: int = 4) -> Gallery:
    """Survey images of every category with the first detector's maps."""
    detector = results_of(context, round_id)["diagnose"]["detector"]
    images = images_of(context, round_id, SURVEY)
    categories = read_categories(context.workspace, round_id, images)
    rows = []
    for category in sorted(set(categories.values())):
        chosen = [image for image in images if categories.get(image.id) == category][:each]
        maps = maps_of(context, detector, chosen)
        rows.append(
            tuple(
                Tile(
                    image=read_pixels(context.workspace, image),
                    confidence=maps.get(image.id),
                    text=f"{category} · {maps[image.id].max():.2f}" if image.id in maps else category,
                )
                for image in chosen
            )
        )
    full = tuple(row for row in rows if len(row) == each)
    return Gallery(
        name="survey",
        title="Generated images, and the artifacts that the first detector finds in them",
        lead="Survey images by category, with the champion's artifact map in red and its maximum below.",
        columns=("",) * each,
        rows=full,
    )


def _labels(context: Context, round_id: str, first: str, most: int = 18) -> Gallery:
    """Labelled images: the first detector's map, the human mask, the retrained detector's map."""
    last = results_of(context, round_id)["promote"]["champion"]
    with context.workspace.catalog(read_only=True) as catalog:
        labels = {label.image_id: label for label in catalog.labels.of_round(round_id)}
        images = catalog.images.get_many(sorted(labels))
    chosen = _alternating(images, labels)[:most]
    pixels = [read_pixels(context.workspace, image) for image in chosen]
    before = maps_of(context, first, chosen)
    after = fresh_maps(context, last, pixels)
    rows = tuple(
        (
            Tile(image=shown, text=image.prompt),
            Tile(image=shown, confidence=before.get(image.id)),
            Tile(image=shown, mask=mask_of(context, labels[image.id]), text=_verdict(labels[image.id])),
            Tile(image=shown, confidence=now, text=f"{now.max():.2f}"),
        )
        for image, shown, now in zip(chosen, pixels, after, strict=True)
    )
    return Gallery(
        name="labels",
        title="Human labels, and the retrained detector's predictions",
        lead="The image, the first detector's map, the human mask in yellow, the retrained detector's map.",
        columns=("image", "first detector", "human label", "retrained"),
        rows=rows,
        repeat=2,
    )


def _pairs(context: Context, round_id: str, evidence: Evidence, most: int = 16) -> list[Gallery]:
    """Pairs before and after treatment with the judge's maps: repaired, still broken, newly broken,
    intact."""
    flawed_before = evidence.before.max((1, 2)) >= JUDGE_THRESHOLD
    flawed_after = evidence.after.max((1, 2)) >= JUDGE_THRESHOLD
    groups = (
        ("mended", "Repaired by the treatment", flawed_before & ~flawed_after),
        ("still", "Still broken after the treatment", flawed_before & flawed_after),
        ("broken", "Broken by the treatment", ~flawed_before & flawed_after),
        ("intact", "Intact before and after", ~flawed_before & ~flawed_after),
    )
    galleries = []
    for name, title, chosen in groups:
        rows = tuple(_pair(context, evidence, int(i)) for i in _spread(np.flatnonzero(chosen), most))
        lead = (
            f"{int(chosen.sum())} of {len(evidence.pairs)} held-out pairs with the same prompt and seed. "
            "The judge's map in red; a red frame marks images in which it finds an artifact."
        )
        galleries.append(
            Gallery(name=name, title=title, lead=lead, columns=("before", "after"), rows=rows, repeat=4)
        )
    return galleries


def _pair(context: Context, evidence: Evidence, index: int) -> tuple[Tile, Tile]:
    pair = evidence.pairs[index]
    before, after = evidence.before[index], evidence.after[index]
    return (
        _judged_tile(context, pair.before, before, pair.before.prompt),
        _judged_tile(context, pair.after, after, f"{before.max():.2f} to {after.max():.2f}"),
    )


def _judged_tile(context: Context, image: Image, confidence: np.ndarray, text: str) -> Tile:
    marked = bool(confidence.max() >= JUDGE_THRESHOLD)
    return Tile(image=read_pixels(context.workspace, image), confidence=confidence, text=text, marked=marked)


def maps_of(context: Context, detector_id: str, images: Sequence[Image]) -> dict[str, np.ndarray]:
    """Stored maps of a detector by image id, float32 HW in [0, 1]."""
    with context.workspace.catalog(read_only=True) as catalog:
        predictions = catalog.predictions.of(detector_id, [image.id for image in images])
    refs = {each.image_id: each.map_ref for each in predictions if each.map_ref is not None}
    return dict(zip(refs, map(dequantise, context.workspace.maps.get_many(list(refs.values()))), strict=True))


def fresh_maps(context: Context, detector_id: str, pixels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps predicted by a detector now, not stored ones, float32 HW in [0, 1]."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    detector = context.models.open_detector(context.workspace.checkpoints.fetch(version.checkpoint))
    return context.models.artifact_maps(detector, pixels, 16)


def mask_of(context: Context, label: Label) -> np.ndarray:
    """The annotator's mask, bool HW."""
    if label.label_map is None:
        return np.zeros((label.height, label.width), bool)
    return unpack_label_map(context.workspace.blobs.get(label.label_map), label.height, label.width) > 0


def _verdict(label: Label) -> str:
    return "clean" if label.clean else "broken"


def _alternating(images: Sequence[Image], labels: dict[str, Label]) -> list[Image]:
    """Broken and clean images alternately."""
    broken = [image for image in images if not labels[image.id].clean]
    clean = [image for image in images if labels[image.id].clean]
    longest = max(len(broken), len(clean))
    return [group[i] for i in range(longest) for group in (broken, clean) if i < len(group)]


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the indices, evenly spread."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)]


def _ratio(
    id: str,
    title: str,
    before: Sequence[float] | np.ndarray,
    after: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    goal: float,
) -> Figure:
    value, interval = ratio_of_means(before, after, groups)
    return Figure(
        id=id,
        title=title,
        value=value,
        interval=interval,
        goal=f"≤ {goal:g}",
        met=value <= goal,
        n=len(before),
        note=f"{np.mean(before):.3g} → {np.mean(after):.3g}",
    )


def _within(id: str, title: str, comparison: dict[str, Any], limits: Interval, goal: str, n: int) -> Figure:
    low, high = comparison["interval"]
    return Figure(
        id=id,
        title=title,
        value=comparison["ratio"],
        interval=(low, high),
        goal=goal,
        met=limits[0] <= comparison["ratio"] <= limits[1],
        n=n,
        note=f"{comparison['before']:.3g} → {comparison['after']:.3g}",
    )


def _claim(id: str, title: str, value: bool, note: str) -> Figure:
    return Figure(id=id, title=title, value=value, goal="yes", met=value, unit="", note=note)


def report_data(
    context: Context,
    round_id: str,
    figures: Sequence[Figure],
    seconds_by_stage: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    """The content of the report, as JSON."""
    results = results_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        row = catalog.rounds.get(round_id)
        verdicts = catalog.hard.of_round(round_id)
    minutes = f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return {
        "title": "One round of the Artifact Clinic",
        "lead": (
            f"Images generated, diagnosed and labelled, a detector retrained and a generator treated in "
            f"{minutes}. Every step ran for real, on small models of a synthetic world with exact ground "
            f"truth."
        ),
        "round": round_id,
        "seconds": seconds,
        "recipe": row.recipe,
        "cards": cards(figures),
        "figures": [asdict(figure) for figure in figures],
        "stages": [
            {
                "stage": stage.name,
                "title": stage.title,
                "seconds": seconds_by_stage.get(stage.name, 0.0),
                "found": stage.found,
            }
            for stage in describe_stages(row)
            if stage.name in results
        ],
        "categories": [asdict(verdict) for verdict in verdicts],
        "categories_lead": (
            "Mean of the images' maximum confidence, by category. The line marks the limit that a category "
            "must exceed to count as hard; it allows for the small number of images."
        ),
        "treatment": treatment_curve(results["treat"]),
        "treatment_lead": (
            "Mean confidence of the frozen detector on the images generated for each update. The dots are "
            "checks by the quality guard on fixed prompts; it uses no detector, and decides which update is "
            "kept."
        ),
        "results": results,
    }


def cards(figures: Sequence[Figure]) -> list[dict[str, str]]:
    """The most important figures, as before and after."""
    titles = {
        "mse_ratio": "detector error, hard benchmark",
        "mse_clean_ratio": "detector error, clean images",
        "mean_conf_ratio": "artifact confidence of new images",
        "true_freq_ratio": "images with a true artifact",
    }
    chosen = [figure for figure in figures if figure.id in titles]
    return [
        {
            "label": titles[figure.id],
            "before": figure.note.split(" → ")[0],
            "after": figure.note.split(" → ")[1],
            "note": f"× {figure.value:.2f}",
        }
        for figure in chosen
    ]


def treatment_curve(treated: dict[str, Any]) -> dict[str, Any]:
    """Confidence by update, and the guard's checks, as the page plots them."""
    looks = [
        {
            "update": look["update"],
            "confidence": look["mean_confidence"],
            "well": not look["breaches"],
            "text": "; ".join(look["breaches"])
            or ", ".join(f"{k} {v:.3g}" for k, v in look["values"].items()),
        }
        for look in treated["looks"]
    ]
    history = [{"update": update, "confidence": confidence} for update, confidence in treated["curve"]]
    return {"history": history, "looks": looks, "kept": treated["kept"]}
