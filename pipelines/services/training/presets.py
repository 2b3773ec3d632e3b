"""Named settings that training and treatment start from: the champion's, recipes, published objectives."""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import CLINIC
from dataengine.treatment import presets as published
from dataengine.treatment.config import PixelConfig, RewardConfig, TreatmentConfig
from pipelines import recipes
from pipelines.config import PromptChoice, TrainingRun, TreatmentRun
from pipelines.services.runs import sentence
from storage.workspace import Workspace

RECIPE, AS_CHAMPION = "recipe ", "as "
"""Before the name of a recipe, and of the champion, among presets."""


def training_presets(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Presets, the likeliest first: the champion's settings, then named recipes.

    Of the recipes the one for photographs comes first, but for a champion of the clinic's drawings.
    """
    with workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    found: dict[str, dict[str, Any]] = {}
    if champion is not None and champion.config:
        with contextlib.suppress(ValidationError):
            # Training goes on from the champion, not once more from the encoder that it began with.
            training = DetectorTrainingConfig.model_validate({**champion.config, "encoder_weights": ""})
            found[f"{AS_CHAMPION}{champion.name}"] = TrainingRun(training=training).model_dump(mode="json")
    drawings = champion is not None and champion.domain == CLINIC
    names = [*recipes.RECIPES, *recipes.TRAININGS] if drawings else [*recipes.TRAININGS, *recipes.RECIPES]
    for name in names:
        found[f"{RECIPE}{name}"] = recipes.training_named(name).model_dump(mode="json")
    return found


TREATMENTS: dict[str, Callable[[], TreatmentConfig]] = {
    "DiffDoctor": published.diffdoctor,
    "DiffDoctor, only the maximum pixel": lambda: published.diffdoctor(PixelConfig(pixels="maximum")),
    "DiffDoctor, pixels above 0.1": lambda: published.diffdoctor(PixelConfig(pixels="above")),
    "DiffDoctor without regularisation": lambda: published.diffdoctor(offline=False),
    "DRaFT with the detector as its reward": published.draft_on_detector,
    "Focus-N-Fix with the detector as its reward": published.focus_n_fix_on_detector,
    "DiffusionNFT with the detector as its reward": published.diffusion_nft_on_detector,
    "DiffusionNFT with a weight per latent cell": published.diffusion_nft_cells,
    "Direct-Align with the detector as its reward": published.direct_align_on_detector,
    "Localized preference": published.localized_preference,
}
"""Published objectives on the detector's maps, or on pairs, by display name."""

REWARDED: dict[str, Callable[..., TreatmentConfig]] = {
    "DRaFT": published.draft,
    "AlignProp": published.align_prop,
    "ReFL": published.refl,
    "Direct-Align": published.direct_align,
    "Focus-N-Fix": published.focus_n_fix,
    "Focus-N-Fix, safety": published.focus_n_fix_safety,
    "Focus-N-Fix, misalignment": published.focus_n_fix_misalignment,
    "DiffusionNFT": published.diffusion_nft,
    "Sequential tuning, first run": lambda *rewards: _sequential(rewards)[0],
    "Sequential tuning, second run": lambda *rewards: _sequential(rewards)[1],
}
"""Published objectives that raise rewards, their arguments, by display name. The second run of sequential
tuning treats the generator that the first one made."""

ORDINALS = ("first", "second")

USUAL_REWARDS = {
    "Focus-N-Fix, safety": RewardConfig(kind="classifier", location="scorer", label="label"),
    "Focus-N-Fix, misalignment": RewardConfig(kind="clip", location="scorer"),
}
"""The kind of reward that a form offers, where it is another than PickScore."""


def _sequential(rewards: Sequence[RewardConfig]) -> tuple[TreatmentConfig, TreatmentConfig]:
    return published.sequential(published.draft(*rewards), published.focus_n_fix(*rewards))


def published_treatment(name: str, rewards: Sequence[str] = ()) -> TreatmentConfig:
    """A published objective by its display name, with rewards as `reward_of` reads them.

    Raises `NotFound` for another name, `ConfigRefused` for a reward that is missing, malformed or unused.
    """
    if name in REWARDED:
        return REWARDED[name](*map(reward_of, rewards))
    if name not in TREATMENTS:
        raise NotFound(f"there is no objective {name!r}; there are {', '.join([*TREATMENTS, *REWARDED])}")
    if rewards:
        raise ConfigRefused(f"{name} raises no reward; leave it out, or choose {', '.join(REWARDED)}")
    return TREATMENTS[name]()


SEQUENTIAL = ("sequential", "sequential-on-detector")
"""Presets of two runs, the second of which treats what the first made; see `presets.sequential`."""


def preset_slug(name: str) -> str:
    """A preset's display name as a word of the command line, such as "focus-n-fix-on-detector"."""
    plain = name.removeprefix(RECIPE).lower().replace("with the detector as its reward", "on detector")
    return re.sub(r"\W+", "-", plain).strip("-")


def preset_plans(preset: str, generator: str, rewards: Sequence[str] = ()) -> list[TreatmentRun]:
    """The treatments of a preset by its slug or display name: one, or the two of `SEQUENTIAL`.

    Raises `NotFound` for another name, `ConfigRefused` for a reward that is missing, malformed or unused.
    """
    if preset in SEQUENTIAL:
        if preset == SEQUENTIAL[0]:
            tunings = [published_treatment(f"Sequential tuning, {which} run", rewards) for which in ORDINALS]
        elif rewards:
            raise ConfigRefused(f"{preset} raises no reward; leave it out, or choose {SEQUENTIAL[0]}")
        else:
            on_detector = published.draft_on_detector(), published.focus_n_fix_on_detector()
            tunings = list(published.sequential(*on_detector))
        return [TreatmentRun(generator=generator, tuning=tuning) for tuning in tunings]
    names = {preset_slug(name): name for name in [*recipes.RECIPES, *TREATMENTS, *REWARDED]}
    name = names.get(preset_slug(preset))
    if name is None:
        raise NotFound(f"there is no preset {preset!r}; there are {', '.join([*names, *SEQUENTIAL])}")
    if name in recipes.RECIPES:
        if rewards:
            raise ConfigRefused(f"the recipe {name} raises no reward; leave it out")
        return [TreatmentRun.model_validate(treatment_presets(generator)[f"{RECIPE}{name}"])]
    return [TreatmentRun(generator=generator, tuning=published_treatment(name, rewards))]


def reward_of(text: str) -> RewardConfig:
    """A reward from "KIND:LOCATION" (clip, pickscore, hpsv2) or "classifier:LOCATION#LABEL"."""
    kind, _, rest = text.partition(":")
    location, _, label = rest.partition("#") if kind == "classifier" else (rest, "", "")
    try:
        return RewardConfig.model_validate({"kind": kind, "location": location, "label": label})
    except ValidationError as error:
        raise ConfigRefused(
            f"reward {text!r}: {sentence(error)}; expected clip:LOCATION, pickscore:LOCATION, "
            "hpsv2:LOCATION or classifier:LOCATION#LABEL"
        ) from None


def treatment_presets(generator: str) -> dict[str, dict[str, Any]]:
    """Presets: named recipes, then published objectives. Those in `REWARDED` are refused until a person names
    the scorer, which is left empty."""
    found: dict[str, dict[str, Any]] = {}
    for name, recipe in recipes.RECIPES.items():
        row = recipe(0)
        choice = PromptChoice(per_category=min(20, row.write_prompts.treat_per_category))
        plan = TreatmentRun(
            generator=generator,
            prompts=choice,
            judge=PromptChoice(per_category=min(10, row.write_prompts.judge_per_category), seed=1),
            writer=row.writer,
            tuning=row.treat.tuning,
            real_limit=row.treat.real_limit,
            attributes=row.judge.attributes,
        )
        found[f"{RECIPE}{name}"] = plan.model_dump(mode="json")
    for name, objective in TREATMENTS.items():
        found[name] = TreatmentRun(generator=generator, tuning=objective()).model_dump(mode="json")
    for name, rewarded in REWARDED.items():
        tuning = rewarded(USUAL_REWARDS.get(name, RewardConfig(kind="pickscore", location="scorer")))
        found[name] = TreatmentRun(generator=generator, tuning=tuning).model_dump(mode="json")
        found[name]["tuning"]["rewards"][0] |= {"location": "", "label": ""}
    return found
