"""Generator versions: register, register again at another LoRA strength, remove, restore."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import GeneratorVersion
from dataengine.treatment.config import UsualSampling, WeightsConfig
from dataengine.treatment.families.rows import row_of
from pipelines.generators import files
from pipelines.services.names import plain_name
from storage.workspace import Workspace


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
    """Register a diffusers pipeline, a folder, a single file or a hub id, with a LoRA where one is given, and
    what it is usually drawn with, where that is not its pipeline's own.
    `configs` is a pipeline folder of a single file's class; `distilled` says whether the generator is
    distilled to few steps, where its files do not or are wrong.

    Raises `ModelRefused` for what cannot be drawn with or fetched, `InputRefused` for a LoRA that is absent.
    """
    from pipelines.generators import register

    return register.register_generator(
        workspace,
        location,
        name,
        licence,
        weights,
        lora,
        actor,
        configs=configs,
        distilled=distilled,
        usual=usual,
    )


def distillation_note(version: GeneratorVersion) -> str:
    """A sentence where weights of its class may be distilled to few steps and no file tells; else ""."""
    kind = version.settings.get(files.PIPELINE, "")
    row = row_of(kind)
    if not row.distilled or row.told or version.settings.get(files.DISTILLED):
        return ""
    return f"some weights of {kind} are distilled: {row.distilled}; if these are, add them with --distilled"


def predict_needs(kind: str, folder: Path) -> list[dict[str, Any]]:
    """What a pipeline class with the settings in `folder` needs on a device, in bytes, at 512² and 1024², in
    bf16 and with a 4-bit denoiser, beside the usual detector; nothing is loaded.

    Raises `ConfigRefused` without a folder, `ModelRefused` for settings that are missing or of another class.
    """
    if not folder.is_dir():
        raise ConfigRefused(f"{folder} is no folder; --config names the one with the settings of a {kind}")
    from dataengine.diagnosis.config import DetectorConfig
    from dataengine.treatment.tuning import needs

    found = needs.predict_needs(kind, folder, DetectorConfig())
    return [{**asdict(need), "text": need.text} for need in found]


def vary_strength(workspace: Workspace, generator_id: str, strength: float) -> GeneratorVersion:
    """Register a generator again with its LoRA at another strength, 0 (base) to 2; 1 is as trained.

    Raises `NotFound`, and `InputRefused` without a LoRA or for a strength outside.
    """
    from pipelines.generators import register

    return register.register_strength(workspace, generator_id, strength)


def reads_prompts(workspace: Workspace, version: GeneratorVersion) -> bool:
    """Whether the generator is conditioned on text, so that rounds use it unasked."""
    return files.reads_prompts(workspace, version)


def drawn_unasked(workspace: Workspace, version: GeneratorVersion) -> bool:
    """Whether a round draws with the generator unless others are chosen."""
    return files.drawn_unasked(workspace, version)


def weights_in_words(version: GeneratorVersion) -> str:
    """How the generator's weights are held in memory, such as "bfloat16" or "4 bits"."""
    return files.weights_of(version).description


def rename_generator(workspace: Workspace, generator_id: str, name: str, actor: str) -> GeneratorVersion:
    """Give a generator another name. Raises `NotFound`, `InputRefused` for what is no name, and `Conflict`
    for one that another generator has."""
    with workspace.catalog() as catalog:
        renamed = catalog.generators.rename(generator_id, plain_name(name), actor)
        catalog.commit()
    return renamed


def remove_generator(
    workspace: Workspace, generator_id: str, actor: str, reason: str = ""
) -> GeneratorVersion:
    """Take a generator off the lists: new rounds and forms no longer offer it. Its images, treatments and
    lineage stay. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        removed = catalog.generators.remove(generator_id, actor, reason.strip())
        catalog.commit()
    return removed


def restore_generator(workspace: Workspace, generator_id: str, actor: str) -> GeneratorVersion:
    """Put a removed generator back on the lists. Raises `NotFound`."""
    with workspace.catalog() as catalog:
        restored = catalog.generators.restore(generator_id, actor)
        catalog.commit()
    return restored
