"""Job: treat a generator outside a round, and compare it with its base on held-out prompts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.curation.config import PromptWriterConfig
from dataengine.errors import ConfigRefused
from dataengine.images import encode_png, thumbnail
from dataengine.masks import quantise
from dataengine.records import DetectorVersion, GeneratorVersion, Image, threshold_of
from dataengine.records.images import JUDGE
from dataengine.treatment.config import SamplingConfig
from pipelines.config import GenerateConfig, PromptChoice, TreatmentRun
from pipelines.detectors.predict import predict
from pipelines.generators.comparison import Pair, confidence_figures, quality_figures
from pipelines.generators.draw import generate_batch, make_task, open_generator
from pipelines.generators.files import cached_folder, download_generator, sampling_of
from pipelines.generators.register import register_weights
from pipelines.generators.similarity import open_lpips, pair_similarity, similarity_figures
from pipelines.generators.treatment import SMALLER, TreatmentPlan, run_treatment, tuning_for
from pipelines.jobs.estimate import estimate_run
from pipelines.jobs.likeness import measure_likeness
from pipelines.jobs.previews import SAMPLES, save_samples
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import naming_out_of_memory
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.shards import shard_bounds

FIRST_SEED = 1_000_000
"""First seed of held-out images; fixed, so that runs on the same prompts share the base's images."""
PROMPTS = "prompts.json"
PAIRS = "pairs.json"
"""File of a run: one row per held-out pair, with ids, similarity and confidences."""
LOOKS = "looks.json"
"""File of a run: thumbnails of the guard's images at each of its looks."""
SHOWN = 12
STRIP_IMAGES, STRIP_LOOKS = 6, 48
"""Images of a look that are kept, and looks; with more, every second of the earlier ones is dropped."""
BATCH = 32


def treat_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a treatment run, from its prompts to evaluated pairs."""
    run, plan = args["run"], TreatmentRun.model_validate(args["settings"])
    with context.workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
        detector = catalog.detectors.get(plan.detector) if plan.detector else catalog.detectors.champion()
    if detector is None:
        raise ConfigRefused("there is no champion to treat against; register a detector, or choose one")
    check_memory(context, base, args["settings"])
    if plan.weights is not None:
        base = register_weights(context.workspace, base.id, plan.weights)
    plan = plan.model_copy(update={"tuning": tuning_for(base, plan.tuning)})
    context.may_pause()
    texts = get_or_write_prompts(context, run, plan)
    watcher = TreatmentReporter(context=context, run=run, prompts=guard_prompts(plan, texts["judge"]))
    result = run_treatment(
        context,
        TreatmentPlan(
            run=run,
            base=base,
            detector=detector,
            prompts=texts["treat"],
            guarded=texts["judge"],
            held_out=texts["judge"],
            tuning=plan.tuning,
            sampling=plan.tuning.sampling,
            real_limit=plan.real_limit,
            real_scorer=plan.real_scorer,
            real_least=plan.real_least,
            attributes=plan.attributes,
            scorers=plan.scorers,
            name=plan.name,
        ),
        watch=watcher.report,
        pausing=context.pausing,
    )
    fail_point("treat:carried_out")
    if result["treated"] is not None and "judged" not in result:
        with naming_out_of_memory("judging the treated generator", SMALLER):
            figures, rows = compare_on_held_out(context, plan, base, detector, texts, result)
            if plan.instance:
                figures["likeness"] = measure_likeness(context, plan.instance, rows)
        context.workspace.job_files.put(run, PAIRS, rows)
        result = store_result(context, result, run, figures)
    return {name: result[name] for name in ("treatment", "generator", "detector", "treated", "kept")}


def check_memory(context: Context, base: GeneratorVersion, settings: dict[str, Any]) -> None:
    """Raises `ConfigRefused` if the estimated memory exceeds what is free here. A pipeline from the hub that
    has not been downloaded is not checked."""
    if Path(download_generator(context.workspace, base)).is_dir() or cached_folder(base):
        context.report(0, 1, "estimating memory")
        estimate = estimate_run(context, "treat", settings)
        print(estimate["text"])
        if estimate["verdict"] == "bad":
            raise ConfigRefused(estimate["text"])


def store_result(context: Context, result: Result, run: str, figures: Result) -> Result:
    """Store the treatment's result together with the comparison; returns both."""
    whole = {**result, "run": run, "judged": figures}
    with context.workspace.catalog() as catalog:
        catalog.treatments.finish(result["treatment"], whole, result["treated"])
        catalog.commit()
    return whole


def get_or_write_prompts(context: Context, run: str, plan: TreatmentRun) -> dict[str, Any]:
    """Prompts to treat on ("treat") and held-out prompts ("judge"), written once per run; the two sets are
    disjoint. "categories" has the category of each held-out prompt that was written for one; runs of older
    versions lack it."""
    files = context.workspace.job_files
    if stored := files.get(run, PROMPTS):
        return dict(stored)
    context.report(0, 1, "writing prompts")
    judged = write_chosen_prompts(context, plan.judge, plan.writer, ())
    treated = write_chosen_prompts(context, plan.prompts, plan.writer, judged)
    texts = {"treat": [text for text in treated if text not in judged], "judge": list(judged)}
    for purpose, prompts in texts.items():
        if not prompts:
            raise ConfigRefused(
                f"all prompts to {purpose} on are also among the other prompts; give different ones"
            )
    categories = {text: category for text, category in judged.items() if category}
    files.put(run, PROMPTS, texts | {"categories": categories})
    return {**texts, "categories": categories}


def write_chosen_prompts(
    context: Context, choice: PromptChoice, writer: str, avoid: Collection[str]
) -> dict[str, str]:
    """The prompts of a choice, alternating between categories, each with the category that it was written
    for, "" if it was given. Raises `ConfigRefused` if it names none."""
    if choice.source == "given":
        return {text.strip(): "" for text in choice.texts if text.strip()}
    names = choice.categories if choice.source == "category" else hard_categories(context)
    if not names:
        raise ConfigRefused(
            "no round has found hard categories yet; name categories, or give prompts"
            if choice.source == "hard"
            else "name at least one category to write prompts for"
        )
    written = [
        context.models.write_prompts(
            name, choice.per_category, choice.seed, avoid, writer, PromptWriterConfig()
        )
        for name in names
    ]
    turns = zip_longest(*written)
    return {text: name for turn in turns for name, text in zip(names, turn, strict=True) if text is not None}


def hard_categories(context: Context) -> list[str]:
    """The hard categories of the newest round that found any."""
    with context.workspace.catalog(read_only=True) as catalog:
        for row in sorted(catalog.rounds.list(), key=lambda row: -row.created):
            if names := [one.category for one in catalog.hard.of_round(row.id) if one.hard]:
                return sorted(names)
    return []


def guard_prompts(plan: TreatmentRun, texts: Sequence[str]) -> list[str]:
    """One prompt for each of the guard's images, in their order (`dataengine.quality.guard.Guard`)."""
    guard = plan.tuning.guard
    return [text for text in list(texts)[: guard.prompts] for _ in range(guard.seeds)]


@dataclass(frozen=True, kw_only=True)
class TreatmentReporter:
    """Stores some of the guard's images before and after, with the detector's maps, for display, and
    thumbnails of a few at every look."""

    context: Context
    run: str
    prompts: Sequence[str]
    """One per image."""

    def report(self, done: int, images: np.ndarray, maps: np.ndarray) -> None:
        """Store images uint8 NHWC and maps float32 NHW after `done` updates; 0 means the untreated ones."""
        workspace = self.context.workspace
        rows = list(range(len(images)))[:: max(1, -(-len(images) // SHOWN))]
        blobs = workspace.blobs.put_many([encode_png(images[row]) for row in rows])
        refs = workspace.maps.put_many([quantise(maps[row]) for row in rows])
        moment = "before" if done == 0 else "after"
        before = workspace.job_files.get(self.run, SAMPLES)
        stored = before["samples"] if before else [{} for _ in rows]
        samples = [
            {**old, "prompt": self.prompts[row], moment: blob, f"map_{moment}": ref}
            for old, row, blob, ref in zip(stored, rows, blobs, refs, strict=True)
        ]
        save_samples(workspace, self.run, done, samples)
        self._keep_look(done, images, maps)

    def _keep_look(self, done: int, images: np.ndarray, maps: np.ndarray) -> None:
        workspace = self.context.workspace
        # One image of each prompt first, so that the strip shows different content.
        rows = spread_over_prompts(self.prompts, STRIP_IMAGES)
        look = {
            "update": done,
            "images": workspace.blobs.put_many([thumbnail(images[row]) for row in rows]),
            "mean_confidence": float(maps.mean()),
        }
        before = workspace.job_files.get(self.run, LOOKS) or {"looks": []}
        looks = [*(one for one in before["looks"] if one["update"] < done), look]
        if len(looks) > STRIP_LOOKS:
            looks = [*looks[:-1:2], looks[-1]]
        prompts = [self.prompts[row] for row in rows]
        workspace.job_files.put(self.run, LOOKS, {"prompts": prompts, "looks": looks})


def spread_over_prompts(prompts: Sequence[str], count: int) -> list[int]:
    """At most `count` indices: the first image of every prompt, then the second ones, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for index, prompt in enumerate(prompts):
        seen[prompt] = seen.get(prompt, -1) + 1
        turns.append((seen[prompt], index))
    return sorted(index for _, index in sorted(turns)[:count])


def compare_on_held_out(
    context: Context,
    plan: TreatmentRun,
    base: GeneratorVersion,
    detector: DetectorVersion,
    texts: Mapping[str, Any],
    result: Result,
) -> tuple[Result, list[Result]]:
    """Compare both generators on the held-out prompts of `get_or_write_prompts` with the same seeds: figures
    with intervals over prompts, and a row per pair."""
    judged, categories = texts["judge"], texts.get("categories", {})
    with context.workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(result["treated"])
    before, after = (
        generate_held_out(
            context, version, judged, plan.judge_seeds, plan.tuning.measured, categories=categories
        )
        for version in (base, treated)
    )
    pairs = [Pair(before=before[key], after=after[key]) for key in sorted(before)]
    network = open_lpips(context, plan.lpips)
    rows = pair_similarity(context, pairs, network)
    predicted_before = predict(context, detector.id, [pair.before for pair in pairs], BATCH)
    predicted_after = predict(context, detector.id, [pair.after for pair in pairs], BATCH)
    for row, one, other in zip(rows, predicted_before, predicted_after, strict=True):
        row |= {"mean_before": one.mean, "mean_after": other.mean}
        row |= {"max_before": one.max, "max_after": other.max}
    figures = {
        "pairs": len(pairs),
        "prompts": len(judged),
        **confidence_figures(pairs, predicted_before, predicted_after, threshold_of(detector)),
        **quality_figures(context, pairs, plan.attributes),
        "similarity": similarity_figures(rows, network),
    }
    return figures, rows


def generate_held_out(
    context: Context,
    version: GeneratorVersion,
    texts: Sequence[str],
    seeds: int,
    sampling: SamplingConfig,
    purpose: str = JUDGE,
    categories: Mapping[str, str] | None = None,
) -> dict[tuple[str, int], Image]:
    """The version's held-out images by prompt and seed, `seeds` of each prompt; missing ones are generated
    and stored, with their prompts' categories where they have one.

    Those that were generated for another purpose are used again; for judging they change theirs, because
    studies are drawn from the judged images.
    """
    keys = [
        (text, FIRST_SEED + index * seeds + repeat)
        for index, text in enumerate(texts)
        for repeat in range(seeds)
    ]
    config = GenerateConfig(sampling=sampling)
    settings = sampling_of(version, config).model_dump(exclude={"batch"}, exclude_none=True)
    known = generated_images(context, version.id, purpose, settings)
    missing = [make_task(*key, 0.0, (categories or {}).get(key[0])) for key in keys if key not in known]
    if missing:
        family = open_generator(context, version)
        for start, stop in shard_bounds(len(missing), sampling.batch):
            context.may_pause()
            context.report(start, len(missing), f"{version.name} generates")
            drawn = generate_batch(context, family, version, missing[start:stop], config, purpose)
            # Other settings may give the very same image, which keeps its row.
            with context.workspace.catalog(read_only=True) as catalog:
                stored = [catalog.images.get(each.id) for each in drawn]
            known |= {(each.prompt, each.seed or 0): each for each in stored}
    images = {key: known[key] for key in keys}
    if purpose == JUDGE and (others := [one.id for one in images.values() if one.purpose != JUDGE]):
        with context.workspace.catalog() as catalog:
            catalog.images.set_purpose(others, JUDGE)
            catalog.commit()
    return images


def generated_images(
    context: Context, generator_id: str, purpose: str, settings: dict[str, Any]
) -> dict[tuple[str, int], Image]:
    """The generator's images outside rounds that were drawn with these settings, by prompt and seed; where
    there are several, one of that purpose."""
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(generator_id=generator_id, status="active")
    of_purpose_last = sorted(images, key=lambda image: image.purpose == purpose)
    return {
        (image.prompt, image.seed or 0): image
        for image in of_purpose_last
        if image.round_id is None and image.settings == settings
    }
