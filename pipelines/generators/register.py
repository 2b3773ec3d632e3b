"""Register generators that were trained elsewhere, and variants of registered ones.

A generator is a diffusers pipeline in a folder, or a hub id, which is downloaded now, so that rounds need no
network later. It is opened on shapes alone, with its LoRA, so that what rounds could not draw with is refused
here. Registering a model again puts it back on the lists if it was removed, and else has no effect.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.records import GeneratorVersion, digest, now
from dataengine.treatment.config import UsualSampling, WeightsConfig
from pipelines.generators.files import PIPELINE, SAMPLING, WEIGHTS, share_folder, weights_of
from storage.workspace import Workspace


def register_generator(
    workspace: Workspace,
    location: str,
    name: str = "",
    licence: str = "",
    weights: WeightsConfig = WeightsConfig(),
    lora: Path | None = None,
    actor: str = "import",
    usual: UsualSampling = UsualSampling(),
) -> GeneratorVersion:
    """Register a generator, optionally with a LoRA such as DreamBooth's, which treatments continue to train.
    What `usual` leaves out is its pipeline's own. Raises `ModelRefused` for what cannot be drawn with and
    for failed downloads, `InputRefused` for a LoRA that does not exist."""
    from dataengine.treatment.families.components import usual_sampling
    from dataengine.treatment.families.inspection import inspect_pipeline
    from dataengine.treatment.families.loading import download_pipeline

    if lora is not None and not lora.exists():
        raise InputRefused(f"{lora} does not exist; give a LoRA's folder or its .safetensors file")

    folder = Path(location).expanduser()
    is_local = folder.is_dir()
    files = folder if is_local else download_pipeline(location)
    kind = inspect_pipeline(files, lora)
    stated = usual.model_dump(mode="json", exclude_none=True)
    sampling = usual_sampling(kind, files).model_dump(mode="json", exclude_none=True) | stated
    resolved = str(folder.resolve()) if is_local else location
    checkpoint = None if lora is None else publish_lora(workspace, lora)
    version = GeneratorVersion(
        id=digest(
            "generator",
            resolved,
            weights.model_dump_json(),
            *([checkpoint] if checkpoint else []),
            *([usual.model_dump_json()] if stated else []),
        ),
        name=name.strip() or (folder.name if lora is None else f"{folder.name} with {lora.stem}"),
        location=resolved,
        lora=checkpoint,
        settings={WEIGHTS: weights.model_dump(mode="json"), PIPELINE: kind, SAMPLING: sampling}
        | (share_folder(workspace, folder) if is_local else {}),
        licence=licence.strip(),
    )
    with workspace.catalog() as catalog:
        catalog.generators.add(version)
        stored = catalog.generators.restore(version.id, actor)
        catalog.commit()
    return stored


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
