"""Refine: self-refining training of a generator's whole network on real images, outside a round.

Input: artifact-free real training images of the workspace, and a `RefiningRun`: a registered generator to
continue from, or a new unconditional UNet. Output: a generator version with a standard diffusers pipeline.
Cost: the updates, and during refinement a generated batch every `cycle` updates and the images of a
measurement every `measure_every`. If killed, it resumes exactly from its last checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ConfigRefused, Corrupt, NotFound
from dataengine.records import FILES, GeneratorVersion, Image, digest
from pipelines.config import RefiningRun
from pipelines.generators.draw import open_generator
from pipelines.generators.files import PIPELINE, read_pipeline_class
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import release_memory
from pipelines.runtime.images import read_pixels
from pipelines.runtime.scratch import discard_scratch, scratch_folder

if TYPE_CHECKING:
    from dataengine.quality.distances import FeatureNetwork
    from dataengine.treatment.families.family import GeneratorFamily
    from dataengine.treatment.refining.trainer import Measure


KIND, PICTURES, HELD_OUT = "self-refining", "pictures.json", "held_out.json"
FEWEST_HELD_OUT = 10
"""Fewest held-out images for a distance."""
CHECKED = 2
"""Number of images on which the saved pipeline must match the trained one."""
TOLERANCE = 2
"""Largest difference between them, of 255."""
POINTS = 200


def refine_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a refining run; returns the registered generator with its training history."""
    version = refine_generator(context, args["run"], RefiningRun.model_validate(args["settings"]))
    return {"generator": version.id, "name": version.name, **version.settings["refined"]}


def refine_generator(context: Context, run: str, plan: RefiningRun) -> GeneratorVersion:
    """Train and register a generator; a repeated call returns the same one.

    Raises `ConfigRefused` for too few images and for generators that cannot be trained this way, `Corrupt` if
    the saved pipeline generates other images than the trained one.
    """
    from dataengine.treatment.refining.trainer import refine as train
    from dataengine.treatment.refining.trainer import same_place

    generator_id = digest("generator", KIND, run)
    if known := _registered(context, generator_id):
        return known
    base = None if not plan.generator else _registered(context, plan.generator)
    if plan.generator and base is None:
        raise NotFound(f"there is no generator {plan.generator!r}; `clinic generators` lists them")
    family = _open_base(context, plan, base)
    chosen = _real_images(context, run, plan.limit)
    pixels, prompts = _read_fitted(context, chosen, family), [image.prompt for image in chosen]
    held_out = _held_out(context, run, plan.refining.measured)
    network = _feature_network(context, plan, len(held_out))
    measure = None if network is None else _measure(network, _read_fitted(context, held_out, family))
    with scratch_folder(context.workspace, run) as work:
        outcome = train(
            plan.refining, family, pixels, work, prompts, context.report, context.pausing, measure
        )
        checkpoint = context.workspace.checkpoints.publish(outcome.folder)
        saved = context.workspace.checkpoints.fetch(checkpoint)
        side, expected = family.size[0], _draw_verified(family, prompts)
        del family
        release_memory(context.models.device)
        _verify(context, expected, saved, prompts)
    version = GeneratorVersion(
        id=generator_id,
        name=plan.name or (f"{base.name}, refined" if base else f"unconditional {side}²"),
        location=f"checkpoint {checkpoint}",
        parent=base.id if base else None,
        settings={
            "weights": {"precision": "float32", "bits": None},
            PIPELINE: read_pipeline_class(saved),
            FILES: checkpoint,
            "refined": {
                "run": run,
                "pictures": len(pixels),
                "maps": outcome.maps,
                "curve": _thinned(outcome.losses),
                "held_out": len(held_out),
                "features": network.name if network is not None else "",
                "before": dict(outcome.before),
                "after": dict(outcome.after),
                "stopped": outcome.stopped,
                "variation": outcome.variation,
                "same_place": same_place(outcome.variation, plan.refining.least_variation),
                "config": plan.model_dump(mode="json"),
            },
        },
        licence=base.licence if base else "",
    )
    with context.workspace.catalog() as catalog:
        catalog.generators.add(version)
        catalog.commit()
    discard_scratch(context.workspace, run)
    return version


def _registered(context: Context, generator_id: str) -> GeneratorVersion | None:
    with context.workspace.catalog(read_only=True) as catalog:
        try:
            return catalog.generators.get(generator_id)
        except NotFound:
            return None


def _open_base(context: Context, plan: RefiningRun, base: GeneratorVersion | None) -> "GeneratorFamily":
    if base is not None:
        if base.lora is not None:
            raise ConfigRefused(
                f"{base.name} has a LoRA, which cannot be refined; refine its base, or fuse the LoRA first"
            )
        return open_generator(context, base)
    from dataengine.treatment.families.unconditional import new_unet_family

    return new_unet_family(plan.network, plan.refining.seed).to(context.models.device)


def _real_images(context: Context, run: str, limit: int) -> list[Image]:
    """Artifact-free real training images, chosen once per run. Raises `ConfigRefused` if there are none."""
    files = context.workspace.job_files
    with context.workspace.catalog(read_only=True) as catalog:
        if chosen_ids := files.get(run, PICTURES):
            return catalog.images.get_many(chosen_ids)
        images = catalog.images.find(source="real", split="train", status="active", limit=limit)
    if not images:
        raise ConfigRefused(
            "this workspace has no real training images; import some with `clinic import FOLDER --source "
            "real`"
        )
    files.put(run, PICTURES, [image.id for image in images])
    return images


def _held_out(context: Context, run: str, limit: int) -> list[Image]:
    """Real validation images, on which nothing is trained; chosen once per run."""
    files = context.workspace.job_files
    with context.workspace.catalog(read_only=True) as catalog:
        if (chosen_ids := files.get(run, HELD_OUT)) is not None:
            return catalog.images.get_many(chosen_ids)
        images = catalog.images.find(source="real", split="validation", status="active", limit=limit)
    files.put(run, HELD_OUT, [image.id for image in images])
    return images


def _feature_network(context: Context, plan: RefiningRun, held_out: int) -> "FeatureNetwork | None":
    """None if no network is named, or there are too few held-out images. Raises `ModelRefused`."""
    from pipelines.generators.measures import open_features

    return open_features(context, plan.features) if held_out >= FEWEST_HELD_OUT else None


def _measure(network: "FeatureNetwork", held_out: np.ndarray) -> "Measure":
    """KID to the held-out images, uint8 NHWC, and FID where both sides have enough images for it."""
    from dataengine.quality.distances import IMAGES_PER_FEATURE, compute_features, feature_distances

    real = compute_features(held_out, network)

    def measure(images: np.ndarray) -> Mapping[str, float]:
        vectors = compute_features(images, network)
        found = feature_distances(real, vectors, network, forced=True)
        enough = min(len(real), len(vectors)) >= IMAGES_PER_FEATURE * real.shape[1]
        return {"kid": found.kid} | ({"fid": found.fid} if enough else {})

    return measure


def describe_distances(refined: Mapping[str, Any]) -> str:
    """One sentence on the distances of a refining run's result, or on why there are none."""
    if not refined["after"]:
        if refined["held_out"] >= FEWEST_HELD_OUT:
            return "FID and KID not measured: no feature network is set (features)"
        return (
            f"FID and KID not measured: {refined['held_out']} real validation images, {FEWEST_HELD_OUT} are "
            "needed; import some with `clinic import FOLDER --source real --validation 0.15`"
        )
    shown = "; ".join(
        f"{name.upper()} {refined['before'][name]:.5f} after the base phase, {value:.5f} at the end"
        for name, value in refined["after"].items()
    )
    worse = " (worse)" if refined["after"]["kid"] > refined["before"]["kid"] else ""
    return f"{shown}{worse}, to {refined['held_out']} held-out images in features of {refined['features']}"


def _read_fitted(context: Context, chosen: Sequence[Image], family: "GeneratorFamily") -> np.ndarray:
    """The images' pixels, cropped and scaled to the generator's size, uint8 NHWC."""
    from dataengine.treatment.sampling.sampler import as_uint8, crop_and_resize

    pixels = np.empty((len(chosen), *family.size, 3), np.uint8)
    for row, image in enumerate(chosen):
        pixels[row] = as_uint8(crop_and_resize(read_pixels(context.workspace, image), family.size))[0]
        context.report(row + 1, len(chosen), "reading images")
    return pixels


def _draw_verified(family: "GeneratorFamily", prompts: Sequence[str]) -> np.ndarray:
    """Images uint8 NHWC of the first prompts, to compare two pipelines."""
    from dataengine.treatment.config import SamplingConfig
    from dataengine.treatment.sampling.sampler import generate

    texts = list(prompts[:CHECKED])
    return generate(family, texts, list(range(len(texts))), SamplingConfig())


def _verify(context: Context, expected: np.ndarray, folder: Path, prompts: Sequence[str]) -> None:
    """Compare images of the saved pipeline with `expected`, the trained one's. Raises `Corrupt` if they
    differ."""
    from dataengine.treatment.families.loading import load_family

    actual = _draw_verified(load_family(folder, device=context.models.device), prompts)
    if (difference := int(np.abs(expected.astype(int) - actual).max())) > TOLERANCE:
        raise Corrupt(
            f"the saved pipeline generates other images than the trained one (by up to {difference} of 255). "
            "Nothing was registered; run it again"
        )


def _thinned(losses: Sequence[float]) -> list[list[float]]:
    """About `POINTS` pairs of (update, mean loss since the previous pair)."""
    step = max(1, len(losses) // POINTS)
    ends = [*range(step, len(losses), step), len(losses)]
    return [[end, round(float(np.mean(losses[max(0, end - step) : end])), 6)] for end in ends]
