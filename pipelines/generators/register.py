"""Register generators that were trained elsewhere, and variants of registered ones.

A generator is a diffusers pipeline in a folder, or a hub id, which is downloaded now, so that rounds need no
network later; its commit is recorded, and used from then on. It is opened on shapes alone, with its LoRA, so
that what rounds could not draw with is refused here; a pipeline that opens by its own call is checked with
its weights, where they fit into memory. Registering a model again puts it back on the lists if it was
removed, and else has no effect.
"""

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.records import FILES, GeneratorVersion, digest, now
from dataengine.treatment.config import UsualSampling, WeightsConfig
from pipelines.generators.files import (
    DISTILLED,
    PIPELINE,
    REVISION,
    SAMPLING,
    WEIGHTS,
    share_folder,
    weights_of,
)
from storage.workspace import Workspace

logger = logging.getLogger(__name__)


def register_generator(
    workspace: Workspace,
    location: str,
    name: str = "",
    licence: str = "",
    weights: WeightsConfig = WeightsConfig(),
    lora: Path | None = None,
    actor: str = "import",
    *,
    configs: Path | None = None,
    distilled: bool | None = None,
    usual: UsualSampling = UsualSampling(),
) -> GeneratorVersion:
    """Register a generator, optionally with a LoRA such as DreamBooth's, which treatments continue to train.
    `distilled` says whether it is distilled to few steps; None is what its files say. A single file is
    converted to a pipeline folder, with `configs` (see `families.single_file`), and stored. What `usual`
    leaves out is its pipeline's own.
    Raises `ModelRefused` for what cannot be drawn with and for failed downloads, `InputRefused` for a LoRA
    that does not exist."""
    from dataengine.treatment.families.components import is_distilled, usual_sampling
    from dataengine.treatment.families.inspection import inspect_pipeline
    from dataengine.treatment.families.loading import download_pipeline
    from dataengine.treatment.families.single_file import is_single_file

    if lora is not None and not lora.exists():
        raise InputRefused(f"{lora} does not exist; give a LoRA's folder or its .safetensors file")

    folder, files = Path(location).expanduser(), {}
    is_local = folder.is_dir()
    if is_single_file(folder):
        files = {FILES: publish_single_file(workspace, folder, configs)}
        opened = workspace.checkpoints.fetch(files[FILES])
    else:
        opened = folder if is_local else download_pipeline(location)
    kind = inspect_pipeline(opened, lora)
    check_call(opened, weights)
    stated = usual.model_dump(mode="json", exclude_none=True)
    told = is_distilled(kind, opened)
    few = told if distilled is None else distilled
    sampling = usual_sampling(kind, few).model_dump(mode="json", exclude_none=True) | stated
    resolved = str(folder.resolve()) if is_local or files else location
    if not files:
        files = share_folder(workspace, folder) if is_local else {REVISION: opened.name}
    checkpoint = None if lora is None else publish_lora(workspace, lora)
    plain = folder.stem if folder.is_file() else folder.name
    version = GeneratorVersion(
        id=digest(
            "generator",
            files.get(FILES) if folder.is_file() else resolved,
            weights.model_dump_json(),
            *([checkpoint] if checkpoint else []),
            *(["distilled"] if distilled else ["not distilled"] if told and not few else []),
            *([usual.model_dump_json()] if stated else []),
        ),
        name=name.strip() or (plain if lora is None else f"{plain} with {lora.stem}"),
        location=resolved,
        lora=checkpoint,
        settings={WEIGHTS: weights.model_dump(mode="json"), PIPELINE: kind, SAMPLING: sampling, **files}
        | ({DISTILLED: True} if few else {}),
        licence=licence.strip(),
    )
    with workspace.catalog() as catalog:
        catalog.generators.add(version)
        stored = catalog.generators.restore(version.id, actor)
        catalog.commit()
    return stored


def check_call(folder: Path, weights: WeightsConfig) -> None:
    """Check a pipeline that opens by its own call (`families.selfcheck`), which needs its weights in memory.

    Where they do not fit, twice for what loading takes, it is said that this is left to the first opening.
    Raises `ModelRefused`, naming the check that failed.
    """
    import torch

    from dataengine.treatment.families.components import IMPLEMENTATION
    from dataengine.treatment.families.loading import facts_of, load_family
    from dataengine.treatment.families.selfcheck import has_passed
    from dataengine.treatment.tuning.memory import free_memory

    facts, dtype = facts_of(folder), getattr(torch, weights.precision)
    if facts.implementation != IMPLEMENTATION or has_passed(folder, dtype):
        return
    files = [file for name in facts.networks for file in (folder / name).glob("*.safetensors")]
    size = sum(file.stat().st_size for file in files)
    if weights.bits or 2 * size > free_memory("cpu")[0]:
        logger.warning(
            "%s: its call is checked when it is first opened; its %.1f GB of weights are not loaded here",
            facts.pipelines[0],
            size / 1e9,
        )
        return
    load_family(folder, dtype=dtype)


def publish_single_file(workspace: Workspace, file: Path, configs: Path | None) -> str:
    """Publish the pipeline folder of a single file as a checkpoint; returns its id."""
    from dataengine.treatment.families.guided_diffusion import convert_guided_diffusion, is_guided_diffusion
    from dataengine.treatment.families.single_file import convert_single_file, has_fewer_bits

    guided = is_guided_diffusion(file, configs)
    convert = convert_guided_diffusion if guided else convert_single_file
    with tempfile.TemporaryDirectory(dir=workspace.path) as folder:
        convert(file, configs, Path(folder))
        if not guided and has_fewer_bits(file):
            written = sum(each.stat().st_size for each in Path(folder).rglob("*.safetensors"))
            logger.warning(
                "%s: its weights of fewer than 16 bits are written out as bfloat16, %.1f GB in all",
                file.name,
                written / 1e9,
            )
        return workspace.checkpoints.publish(Path(folder))


def publish_lora(workspace: Workspace, path: Path) -> str:
    """Publish an inspected LoRA as a checkpoint under the name that diffusers looks for."""
    from dataengine.treatment.families.lora import WEIGHTS, weights_file

    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(weights_file(path), Path(folder) / WEIGHTS)
        return workspace.checkpoints.publish(Path(folder))


def register_strength(workspace: Workspace, generator_id: str, strength: float) -> GeneratorVersion:
    """Register the same generator with its LoRA scaled by `strength`, as a separate version. Both generate
    the
    same prompts and seeds in a round, so that a study can compare them.

    Raises `NotFound`, and `InputRefused` without a LoRA or for a strength outside [0, 2].
    """
    if not 0 <= strength <= 2:
        raise InputRefused(
            f"strength must be between 0 (the base) and 2, where 1 is as trained; got {strength:g}"
        )
    with workspace.catalog() as catalog:
        version = catalog.generators.get(generator_id)
        if version.lora is None:
            raise InputRefused(f"{version.name} has no LoRA, so it has no strength to change")
        varied = replace(
            version,
            id=digest("generator", version.id, "strength", f"{strength:g}"),
            name=f"{version.name}, at {strength:g}",
            settings={**version.settings, "strength": float(strength)},
            created=now(),
        )
        catalog.generators.add(varied)
        catalog.commit()
        return catalog.generators.get(varied.id)


def register_weights(workspace: Workspace, generator_id: str, weights: WeightsConfig) -> GeneratorVersion:
    """Register the same generator with another precision, as a separate version; returns the generator itself
    if it already has that precision. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        version = catalog.generators.get(generator_id)
        if weights_of(version) == weights:
            return version
        varied = replace(
            version,
            id=digest("generator", version.id, "weights", weights.model_dump_json()),
            name=f"{version.name}, in {weights.description}",
            settings={**version.settings, WEIGHTS: weights.model_dump(mode="json")},
            created=now(),
        )
        catalog.generators.add(varied)
        catalog.commit()
        return catalog.generators.get(varied.id)
