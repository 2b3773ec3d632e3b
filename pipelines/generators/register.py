"""Take in models that were trained elsewhere: generators, and detectors such as the published DiffDoctor.

A detector is a folder, or a bare state dict of a one-channel SegFormer; it is loaded once, which checks it,
and the first one of a workspace becomes champion. A generator is a diffusers pipeline in a folder, or a hub
id, which is fetched now, so that rounds need no network later; its files are checked and not loaded. The same
model is registered once.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from dataengine.errors import InputRefused, ModelRefused
from dataengine.records import GeneratorVersion, digest, now
from dataengine.treatment.config import WeightsConfig
from pipelines.generators.files import PIPELINE, WEIGHTS, share_folder, weights_of
from pipelines.runtime.safetensors_header import tensor_shapes
from storage.workspace import Workspace


def register_generator(
    workspace: Workspace,
    location: str,
    name: str = "",
    licence: str = "",
    weights: WeightsConfig = WeightsConfig(),
    lora: Path | None = None,
) -> GeneratorVersion:
    """The registered generator, with a LoRA such as DreamBooth's where one is given: treatments go on with
    it. Raises `ModelRefused` for what we do not load, or cannot fetch."""
    from dataengine.treatment.families.loading import check_pipeline, download_pipeline

    folder = Path(location).expanduser()
    here = folder.is_dir()
    kind = check_pipeline(folder if here else download_pipeline(location))
    found = str(folder.resolve()) if here else location
    checkpoint = None if lora is None else publish_lora(workspace, lora)
    version = GeneratorVersion(
        id=digest("generator", found, weights.model_dump_json(), *([checkpoint] if checkpoint else [])),
        name=name.strip() or (folder.name if lora is None else f"{folder.name} with {lora.stem}"),
        location=found,
        lora=checkpoint,
        settings={WEIGHTS: weights.model_dump(mode="json"), PIPELINE: kind}
        | (share_folder(workspace, folder) if here else {}),
        licence=licence.strip(),
    )
    with workspace.catalog() as catalog:
        catalog.generators.add(version)
        catalog.commit()
    with workspace.catalog(read_only=True) as catalog:
        return catalog.generators.get(version.id)


def publish_lora(workspace: Workspace, path: Path) -> str:
    """A LoRA in diffusers' format as a checkpoint. Raises `ModelRefused` for any other file."""
    from dataengine.treatment.families.lora import WEIGHTS, weights_file

    if not path.exists():
        raise InputRefused(f"there is nothing at {path}; give a LoRA's folder or its .safetensors file")
    file = weights_file(path)
    if not any("lora" in name for name in tensor_shapes(file)):
        raise ModelRefused(f"{file} holds no LoRA weights; one saved by diffusers or peft is expected")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(file, Path(folder) / WEIGHTS)
        return workspace.checkpoints.publish(Path(folder))


def register_strength(workspace: Workspace, generator_id: str, strength: float) -> GeneratorVersion:
    """The same generator with its LoRA counting `strength`-fold, as a version of its own: both draw the same
    prompts and seeds in a round, so that a study can compare them.

    Raises `NotFound`, and `InputRefused` without a LoRA or for a strength outside [0, 2].
    """
    if not 0 <= strength <= 2:
        raise InputRefused(f"a strength of {strength:g} is refused: give 0 (the base) to 2, 1 is as trained")
    with workspace.catalog() as catalog:
        version = catalog.generators.get(generator_id)
        if version.lora is None:
            raise InputRefused(f"{version.name} carries no LoRA, so it has no strength to change")
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
    """The same generator with its weights stored otherwise, as a version of its own; the generator itself
    where they are stored so. Raises `NotFound`."""
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
