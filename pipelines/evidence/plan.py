"""What `clinic evidence` is asked for, and its settings where nobody changes them (torch-free)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.api.models import CLINIC_DETECTOR, CLINIC_GENERATORS
from dataengine.curation.config import VqaConfig
from dataengine.errors import ConfigRefused
from dataengine.records import INJECTED
from pipelines import recipes
from pipelines.config import GenerateConfig, TrainingRun
from pipelines.evidence.config import ALL, EvidenceRun
from pipelines.evidence.schema import Labels
from pipelines.selections.config import ImageQuery, InjectionRun, MiningRun
from pipelines.services.training.presets import preset_plans

PHOTO, DEMO, DIFFDOCTOR = "photo", "demo", "diffdoctor"
FIRST, SECOND = "photographs and injected artifacts", "people's labels"
"""Names of the two detectors."""
BUDGET = 200
PROMPTS_PER_CATEGORY = 10


@dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """What a person asks for."""

    generator: str
    """What `find_generator` takes."""
    photos: Path
    """Folder of photographs without artifacts."""
    out: Path
    prompts: str = ""
    """What `find_prompts` takes; "" has the program write them."""
    detector: str = ""
    """What `find_detector` takes, in place of a first one trained on the photographs."""
    labels: Labels | None = None
    """None: people, or simulated annotators for the generators of the embedded clinic."""
    preset: str
    """Of the treatment, as `preset_named` says it."""
    name: str = ""
    """How the evidence calls the generator."""
    licence: str = ""
    settings: EvidenceRun

    @property
    def is_clinic(self) -> bool:
        """Whether the generator is one of the embedded clinic's, whose world the program can draw."""
        return self.generator in CLINIC_GENERATORS

    @property
    def first_detector(self) -> str:
        """The detector that is given; "" where one is trained on the photographs."""
        return self.detector or (CLINIC_DETECTOR if self.is_clinic else "")

    @property
    def labelled_by(self) -> Labels:
        """Who marks. Raises `ConfigRefused` for simulated annotators of other generators."""
        if self.labels == "simulated" and not self.is_clinic:
            raise ConfigRefused(
                "--labels simulated: the simulated annotators know only the embedded clinic's drawings; let "
                "people mark (--labels people), or go without labels (--labels none)"
            )
        return self.labels or ("simulated" if self.is_clinic else "people")

    def recorded(self) -> dict[str, Any]:
        """What the results depend on, as JSON, for the output folder; who marks may change between runs."""
        return {
            "generator": self.generator,
            "photos": str(self.photos.absolute()),
            "prompts": self.prompts,
            "detector": self.detector,
            "preset": self.preset,
            "settings": self.settings.model_dump(mode="json"),
        }


def recipe_named(generator: str, recipe: str = "") -> str:
    """The recipe that is given; else `demo` for the generators of the embedded clinic, `photo` for others."""
    return recipe or (DEMO if generator in CLINIC_GENERATORS else PHOTO)


def preset_named(generator: str, recipe: str = "", preset: str = "") -> str:
    """The preset of the treatment that is given; else the recipe's, or diffdoctor for one of a training."""
    name = recipe_named(generator, recipe)
    return preset or (DIFFDOCTOR if name in recipes.TRAININGS else name)


def default_settings(generator: str, recipe: str = "", preset: str = "", seed: int = 0) -> EvidenceRun:
    """The settings by a recipe of a training or a round, and by a preset of the treatment.

    Raises `NotFound` for unknown names, `ConfigRefused` for a preset of two runs.
    """
    name = recipe_named(generator, recipe)
    training = recipes.training_named(name, seed)
    if name in recipes.TRAININGS:
        draw = GenerateConfig(
            categories=VqaConfig().categories, prompts_per_category=PROMPTS_PER_CATEGORY, seed=seed
        )
        mine = MiningRun()
        mine = mine.model_copy(update={"mine": mine.mine.model_copy(update={"budget": BUDGET, "seed": seed})})
    else:
        row = recipes.named(name, seed)
        draw = row.generate
        mine = MiningRun(mine=row.mine, statistic=row.write_prompts.statistic)
    plans = preset_plans(preset_named(generator, recipe, preset), "")
    if len(plans) > 1:
        raise ConfigRefused(f"--preset {preset} treats twice; name one that treats once, such as diffdoctor")
    treat = plans[0].model_copy(update={"tuning": plans[0].tuning.model_copy(update={"seed": seed})})
    return EvidenceRun(
        draw=draw,
        inject=InjectionRun(images=ImageQuery(source="real"), injection={"seed": seed}),  # type: ignore[arg-type]
        first=_on_photographs(training),
        mine=mine,
        second=_on_labels(training),
        treat=treat,
    )


def _on_photographs(plan: TrainingRun) -> TrainingRun:
    """Half photographs, half photographs with an injected artifact."""
    training = plan.training.model_copy(update={"name": FIRST, "mixture": {"real": 0.5, INJECTED: 0.5}})
    publish = plan.publish.model_copy(update={"injected_limit": ALL})
    return plan.model_copy(update={"start": plan.start or "random", "training": training, "publish": publish})


def _on_labels(plan: TrainingRun) -> TrainingRun:
    """People's labels and photographs, from the first detector, which is the champion by then."""
    training = plan.training.model_copy(update={"name": SECOND})
    return plan.model_copy(update={"start": None, "training": training})
