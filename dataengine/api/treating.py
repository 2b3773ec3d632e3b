"""Treatment of a generator: its LoRA is trained until the detector finds less."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine import durable
from dataengine.api.detector import Detector, new_folder
from dataengine.api.generator import Generator
from dataengine.api.inputs import DecodedImages, Images, named_images
from dataengine.api.progress import progress_bar
from dataengine.errors import ConfigRefused
from dataengine.quality.guard import Guard
from dataengine.treatment.config import TreatmentConfig

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 5
"""Every fifth prompt is held out for the guard where none are given."""


@dataclass(frozen=True, kw_only=True)
class Treated:
    """The result of `treat`."""

    generator: Generator
    """The generator, which now draws with the kept LoRA; `generator.untreated()` is without it."""
    lora_folder: Path
    """The kept LoRA in the work folder; `save` copies it."""
    kept_step: int
    """The update whose weights were kept; 0 if none was better than the generator as given."""
    updates: int
    """Updates that were done."""
    stopped_reason: str
    """Why the quality guard ended the run early; "" if it did not."""
    rows: Sequence[dict[str, Any]] = field(repr=False)
    """The measurements of every update, as they are stored."""
    _work: Any = field(default=None, repr=False)
    """Keeps a temporary work folder alive."""

    @property
    def history(self) -> "pd.DataFrame":
        """A table with one row for each update: `update`, `loss` and its terms, `grad_norm`, and where the
        quality guard measured, `mean_confidence`, `max_confidence` and one column `guard_…` for each of its
        values; missing elsewhere."""
        import pandas as pd

        from dataengine.treatment.tuning.progress import guard_figures

        return pd.DataFrame(
            [{k: v for k, v in row.items() if k != "guard"} | guard_figures(row) for row in self.rows]
        )

    def save(self, folder: str | Path) -> Path:
        """Copy the LoRA to a new folder, in diffusers' keys and in ComfyUI's, and return its path.

        `Generator.load(…, lora=folder)` and diffusers' `load_lora_weights(folder)` read it. Raises
        `ConfigRefused` for a folder that holds something, and when no update was better than the generator
        as given.
        """
        if not self.kept_step:
            raise ConfigRefused(
                "no update was better than the generator as given, so there is no LoRA to save; look at "
                "`history`, then train longer or with another learning rate"
            )
        target = new_folder(folder)
        durable.make_folder(target.absolute().parent)
        with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}-") as scratch:
            copied = Path(shutil.copytree(self.lora_folder, Path(scratch) / target.name))
            durable.move(copied, target)
        return target


def treat(
    generator: Generator,
    detector: Detector,
    prompts: Sequence[str],
    *,
    config: TreatmentConfig | None = None,
    guard_prompts: Sequence[str] | None = None,
    clean: Images | None = None,
    captions: Sequence[str] = (),
    work: str | Path | None = None,
    progress: bool = False,
) -> Treated:
    """Treat a generator in place: train its LoRA until the detector finds less (DiffDoctor, Algorithm 1).

    `config` holds all settings; `presets` has the published ones, and the default suits the small shipped
    models. The quality guard draws `guard_prompts`, by default every fifth prompt, which is then not trained
    on; it ends the run before quality suffers and chooses the weights that are kept. `clean` are images
    without artifacts with one caption each, for the offline regularisation; without them and without a
    `config` there is none. `work` keeps checkpoints: the same call resumes there after an interruption.

    Raises `ConfigRefused` for missing prompts or images and settings that do not fit, `NonFinite` before a
    non-finite value reaches the weights, `NothingLearned`, and `OutOfMemory` with settings that need less.
    """
    from dataengine.treatment.tuning.trainer import treat as train

    given = config or (TreatmentConfig() if clean is not None else TreatmentConfig(offline=None))
    trained_on, guarded = _split(prompts, guard_prompts)
    images = None if clean is None else DecodedImages(named_images(clean))
    kept = tempfile.TemporaryDirectory(prefix="clinic-treat-") if work is None else None
    folder = Path(kept.name if kept else str(work))
    with progress_bar(progress) as report:
        result = train(
            given,
            generator.family,
            detector.network,
            trained_on,
            images,
            list(captions),
            Guard(given.guard, guarded),
            folder,
            report,
        )
    return Treated(
        generator=generator,
        lora_folder=result.lora_folder,
        kept_step=result.kept_step,
        updates=result.updates,
        stopped_reason=result.stopped_reason,
        rows=result.history,
        _work=kept,
    )


def _split(prompts: Sequence[str], guarded: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The prompts to train on and those of the guard."""
    if isinstance(prompts, str):
        raise ConfigRefused("prompts must be a list of texts; a single text was given")
    if guarded is not None:
        return list(prompts), list(guarded)
    if len(set(prompts)) < 2:
        raise ConfigRefused(
            f"{len(set(prompts))} prompts are too few to hold one out for the quality guard; give two or "
            "more, or guard_prompts"
        )
    unique = list(dict.fromkeys(prompts))
    held = set(unique[:: min(HELD_OUT, len(unique))])
    return [each for each in prompts if each not in held], [each for each in unique if each in held]
