"""The choices of the form that starts a round, and the resulting recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused, InputRefused, NotFound
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

    generators: Sequence[str] = ()
    """Ids or names of the generators to draw with; none for every untreated one that reads prompts."""
    prompts: int | None = None
    """Survey prompts of each category."""
    images: int | None = None
    """Images of each survey prompt, by each generator."""
    hard_prompts: int | None = None
    """Further prompts of each hard category."""
    budget: int | None = None
    """Images for annotators."""
    steps: int | None = None
    """Updates of the candidate's training."""
    updates: int | None = None
    """Updates of the treatment."""
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
    name: str, seed: int, parts: Sequence[str] | None, overrides: RoundOverrides | None = None
) -> dict[str, Any]:
    """A named recipe's settings with these parts, or its own for None, and overrides.

    Raises `NotFound` naming the recipes there are, `InputRefused` for an unknown part or override.
    """
    from pydantic import ValidationError

    from pipelines.config import RoundRecipe
    from pipelines.recipes import named

    overrides = overrides or RoundOverrides()
    settings = named(name, seed).model_dump(mode="json")
    settings["parts"] = settings["parts"] if parts is None else list(parts)
    settings["generate"]["generators"] = list(overrides.generators) or settings["generate"]["generators"]
    for path, value in (
        ("generate.prompts_per_category", overrides.prompts),
        ("generate.seeds_per_prompt", overrides.images),
        ("write_prompts.hard_per_category", overrides.hard_prompts),
        ("mine.budget", overrides.budget),
        ("retrain.steps", overrides.steps),
        ("treat.tuning.updates", overrides.updates),
    ):
        *sections, name = path.split(".")
        if value is not None:
            reduce(getitem, sections, settings)[name] = value
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


def generator_ids(catalog: "Catalog", named: Sequence[str]) -> list[str]:
    """The ids of generators on the lists by id or name. Raises `NotFound` for another, `ConfigRefused` for a
    name that several have."""
    offered = catalog.generators.offered()
    found = []
    for one in named:
        ids = [known.id for known in offered if known.id == one]
        ids = ids or [known.id for known in offered if known.name == one]
        if not ids:
            known = ", ".join(known.name for known in offered) or "none"
            raise NotFound(f"there is no generator {one!r} to draw with; registered: {known}")
        if len(ids) > 1:
            raise ConfigRefused(f"several generators are named {one!r}; give an id: {', '.join(ids)}")
        found += ids
    return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """What a round takes, at most: every category may turn out to be hard."""

    survey: int
    """Images of the survey."""
    hard: int
    """Images of hard categories."""
    labels: int
    """Images for annotators."""
    steps: int
    """Updates of teacher and candidate."""
    updates: int
    """Updates of the treatment."""
    judged: int
    """Images drawn to compare the generator before and after."""

    @property
    def drawn(self) -> int:
        """All images that are drawn."""
        return self.survey + self.hard + self.judged


def round_cost(recipe: "RoundRecipe", generators: int) -> RoundCost:
    """What the recipe takes with so many generators."""
    generate, further = recipe.generate, recipe.write_prompts
    categories = len(generate.categories)
    prompts = categories * generate.prompts_per_category + len(generate.prompts)
    held_out = max(further.judge_per_category, further.judge_easy_per_category) * categories
    parts = recipe.parts
    return RoundCost(
        survey=prompts * generate.seeds_per_prompt * generators,
        hard=categories * further.hard_per_category * further.seeds_per_prompt * generators
        if "hard" in parts
        else 0,
        labels=recipe.mine.budget if "detector" in parts else 0,
        steps=recipe.train_teacher.steps + recipe.retrain.steps if "detector" in parts else 0,
        updates=recipe.treat.tuning.updates if "treatment" in parts else 0,
        judged=2 * held_out * further.judge_seeds if "treatment" in parts else 0,
    )


def expected_seconds(catalog: "Catalog", cost: RoundCost) -> tuple[float, str] | None:
    """Seconds of work by the speed of the newest round that did the same kinds of work here, and that round's
    id; None without one."""
    from storage.queries.rounds import stage_jobs

    for row in reversed(catalog.rounds.list()):
        spent: dict[str, float] = {}
        for job in stage_jobs(catalog, row.id):
            if job.started and job.finished and job.state == "succeeded":
                spent[job.args["stage"]] = spent.get(job.args["stage"], 0.0) + job.finished - job.started
        settings, done = row.recipe, row.results
        training = sum(settings.get(name, {}).get("steps", 0) for name in ("train_teacher", "retrain"))
        work = (
            (("generate", "diagnose"), done.get("generate", {}).get("images", 0), cost.drawn),
            (("train_teacher", "retrain"), training, cost.steps),
            (("treat",), done.get("treat", {}).get("updates") or 0, cost.updates),
        )
        parts = [
            wanted * sum(spent[stage] for stage in stages) / amount
            for stages, amount, wanted in work
            if wanted and amount and spent.keys() >= set(stages)
        ]
        if len(parts) == sum(wanted > 0 for _, _, wanted in work):
            return sum(parts), row.id
    return None


def second_detectors(catalog: "Catalog") -> list[DetectorVersion]:
    """Detectors that can be the second one in mining, the newest first, besides `SECOND_DETECTORS`."""
    from pipelines.detectors import training_free, yes_no_question

    champion = catalog.detectors.champion()
    offered = reversed(catalog.detectors.offered())
    found = [one for one in offered if champion is None or one.id != champion.id]
    return [
        one for one in found if not training_free.regenerates(one) and not yes_no_question.is_question(one)
    ]


def yes_no_questions() -> list[tuple[int, str]]:
    """The paper's questions to a VQA model, by number."""
    from dataengine.curation.questions import QUESTIONS

    return [(one.number, one.text) for one in QUESTIONS]
