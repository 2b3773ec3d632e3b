"""The choices of the form that starts a round, and the resulting recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataengine.errors import InputRefused
from dataengine.records import DetectorVersion

if TYPE_CHECKING:
    from pipelines.config import RoundRecipe
    from storage.catalog import Catalog


CORRECTIONS: dict[str, dict[str, Any]] = {
    "ttc": {},
    "ttc-champion": {"regions": "detector"},
    "ttc-champion-repeated": {"regions": "detector", "repeated": True},
    "replacement": {"method": "replacement"},
    "clipping": {"method": "clipping"},
    "sargd": {"method": "sargd", "regions": "detector"},
    "everywhere": {"regions": "everywhere"},
}
"""Corrections during sampling by name, and the settings of each."""
GUIDANCES: dict[str, dict[str, Any]] = {
    "clean": {},
    "clean-regions": {"region": {}},
    "reward": {"kind": "reward"},
    "reward-regions": {"kind": "reward", "region": {}},
}
"""Training-free guidance likewise."""
DYNAMICS, QUESTION = SECOND_DETECTORS = ("dynamics", "question")
"""Second detectors of mining by name: further predictions that a round stores besides the champion's maps."""


def recipe_names() -> list[str]:
    """The named recipes that a round can be run with."""
    from pipelines.recipes import RECIPES

    return list(RECIPES)


@dataclass(frozen=True, kw_only=True)
class RoundOverrides:
    """Changes to a recipe; empty values keep the recipe's."""

    budget: int | None = None
    """Images for annotators."""
    correction: str = ""
    """A name in `CORRECTIONS`."""
    guidance: str = ""
    """A name in `GUIDANCES`."""
    dynamics: bool = False
    """Store score-dynamics maps besides the champion's."""
    question: tuple[str, int] | None = None
    """A VQA model, and the number of one of the paper's questions, whose answers are stored likewise."""
    second_detector: str = ""
    """The second detector of mining, compared with the champion: an id, or one of `SECOND_DETECTORS`."""


def recipe(
    name: str, seed: int, parts: Sequence[str], overrides: RoundOverrides | None = None
) -> dict[str, Any]:
    """A named recipe's settings with these parts and overrides.

    Raises `NotFound` naming the recipes there are, `InputRefused` for an unknown part or override.
    """
    from pydantic import ValidationError

    from pipelines.config import RoundRecipe
    from pipelines.recipes import named

    overrides = overrides or RoundOverrides()
    settings = named(name, seed).model_dump(mode="json") | {"parts": list(parts)}
    if overrides.budget is not None:
        settings["mine"]["budget"] = overrides.budget
    for field, chosen, known in (
        ("correction", overrides.correction, CORRECTIONS),
        ("guidance", overrides.guidance, GUIDANCES),
    ):
        if chosen and chosen not in known:
            raise InputRefused(f"{field} is {chosen!r}: choose {', '.join(known)}, or leave it empty")
        if chosen:
            settings["generate"][field] = known[chosen]
    if overrides.dynamics or overrides.second_detector == DYNAMICS:
        settings["diagnose"]["dynamics"] = settings["diagnose"]["dynamics"] or {}
    if overrides.question is not None:
        settings["diagnose"]["question"] = {"model": overrides.question[0], "number": overrides.question[1]}
    try:
        found = RoundRecipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputRefused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return _with_second_detector(found, overrides.second_detector).model_dump(mode="json")


def _with_second_detector(recipe: "RoundRecipe", chosen: str) -> "RoundRecipe":
    """The recipe with a second detector in mining, weighted like uncertainty by default."""
    if not chosen:
        return recipe
    from pipelines.detectors import score_dynamics, yes_no_question

    if chosen == DYNAMICS and recipe.diagnose.dynamics is not None:
        chosen = score_dynamics.dynamics_id(recipe.diagnose.dynamics)
    if chosen == QUESTION:
        if recipe.diagnose.question is None:
            raise InputRefused("the second detector is a VQA model, and none is selected; select one")
        chosen = yes_no_question.question_id(recipe.diagnose.question)
    mine = recipe.mine.model_copy(
        update={"second_detector": chosen, "disagreement": recipe.mine.disagreement or 1.0}
    )
    return recipe.model_copy(update={"mine": mine})


def second_detectors(catalog: "Catalog") -> list[DetectorVersion]:
    """Detectors that can be the second one in mining, the newest first, besides `SECOND_DETECTORS`."""
    from pipelines.detectors import score_dynamics, yes_no_question

    champion = catalog.detectors.champion()
    offered = reversed(catalog.detectors.offered())
    found = [one for one in offered if champion is None or one.id != champion.id]
    return [
        one
        for one in found
        if not score_dynamics.is_score_dynamics(one) and not yes_no_question.is_question(one)
    ]


def yes_no_questions() -> list[tuple[int, str]]:
    """The paper's questions to a VQA model, by number."""
    from dataengine.curation.questions import QUESTIONS

    return [(one.number, one.text) for one in QUESTIONS]
