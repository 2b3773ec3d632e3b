"""Recipe `paper` and preset DiffDoctor against each other, and against the paper's and its code's values.

The values are copied by hand: P from the paper's text, C from the authors' configuration and training script.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.treatment import presets
from dataengine.treatment.config import TreatmentConfig
from pipelines import recipes
from pipelines.services.training.presets import published_treatment, treatment_presets

PAGE = (Path(__file__).resolve().parents[2] / "docs/published.md").read_text()
HARD = 3
"""The paper's hard subjects: human activities, animals, words."""

TREATMENT: dict[str, tuple[Any, Any]] = {
    "sampling.steps": (5, 4),
    "grad_steps": (1, None),
    "truncation": ("last", None),
    "lora.rank": (16, 8),
    "lora.alpha": (None, 8),
    "lora.targets": (None, "attention"),
    "learning_rate": (1e-4, 1e-4),
    "decay": (None, "constant"),
    "betas": (None, [0.9, 0.999]),
    "weight_decay": (None, 0.1),
    "clip_norm": (None, 5),
    "batch": (None, 4),
    "accumulation": (None, 1),
    "updates": (3000 // 4, None),
    "checkpointing": (None, True),
    "pixel.pixels": ("all", "above"),
    "pixel.above": (None, 0.1),
    "pixel.weight": (1, 1),
    "offline.gamma": (0.25, 0.25),
    "offline.times": (None, "shifted"),
    "sampling.precision": (None, "bfloat16"),
}
"""P and C of each setting of a treatment; None where it says nothing."""

ROUND: dict[str, tuple[Any, Any]] = {
    "mine.budget": (2000, None),
    "mine.explore": (0, None),
    "mine.uncertainty": (0, None),
    "mine.diversity": (0, None),
    "mine.confidence": (1, None),
    "pseudo_label.limit": (1_000_000, None),
    "write_prompts.treat_per_category": (3000 / HARD, None),
    "write_prompts.treat_easy_per_category": (0, None),
    "write_prompts.judge_per_category": (100 / HARD, None),
    "write_prompts.judge_easy_per_category": (0, None),
    "write_prompts.judge_seeds": (4, None),
    "generate.sampling.steps": (5, 4),
    "retrain.detector.size": (None, 512),
    "retrain.detector.antialias": (None, False),
    "retrain.detector.name": (None, "DiffDoctor mit-b5"),
    "categorize.model": ("Qwen-VL", None),
    "writer": ("Qwen", None),
}


def value_of(settings: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        settings = settings[part]
    return settings


def explained(path: str, code: Any = None) -> bool:
    """Whether a row of the page names the setting, and the code's value."""
    short = path.split(".", 1)[-1]
    named = {f"`{path}`", f"`{short}`", f"`{short.split('.')[0]}`"}
    rows = [row for row in PAGE.splitlines() if row.startswith("|") and any(name in row for name in named)]
    words = {"shifted": "shifted", "above": "above", True: "on"}
    known = isinstance(code, str | bool)
    return any(
        code is None or re.search(rf"\b{words.get(code, code) if known else code}\b", row) for row in rows
    )


def assert_published(settings: dict[str, Any], path: str, paper: Any, code: Any) -> None:
    ours = value_of(settings, path)
    expected = code if paper is None else paper
    if ours != expected:
        assert explained(path, code), f"{path} is {ours}, published is {expected}, and no row says why"
    if code is not None and ours != code:
        assert explained(path, code), f"{path} is {ours} and the code's {code} is not mentioned"


def test_recipe_and_preset_are_one_treatment() -> None:
    for seed in (0, 7):
        tuning = recipes.paper(seed).treat.tuning
        assert tuning == presets.diffdoctor().model_copy(update={"seed": seed})
    offered = treatment_presets("flux")
    assert offered["recipe paper"]["tuning"] == offered["DiffDoctor"]["tuning"]
    assert published_treatment("DiffDoctor") == presets.diffdoctor()


@pytest.mark.parametrize("path", TREATMENT)
def test_a_setting_of_the_treatment_is_the_published_one_or_the_page_says_why(path: str) -> None:
    assert_published(presets.diffdoctor().model_dump(mode="json"), path, *TREATMENT[path])


@pytest.mark.parametrize("path", ROUND)
def test_a_setting_of_the_round_is_the_published_one_or_the_page_says_why(path: str) -> None:
    assert_published(recipes.paper().model_dump(mode="json"), path, *ROUND[path])


def test_what_agrees_with_the_paper_exactly() -> None:
    """The rows above cannot be satisfied by the page alone."""
    settings = presets.diffdoctor().model_dump(mode="json")
    agreeing = [
        path for path, (paper, code) in TREATMENT.items() if value_of(settings, path) in (paper, code)
    ]
    assert set(TREATMENT) - set(agreeing) == {"lora.alpha", "offline.times", "sampling.precision"}
    whole = recipes.paper().model_dump(mode="json")
    differing = {path for path, (paper, code) in ROUND.items() if value_of(whole, path) not in (paper, code)}
    assert differing == {"write_prompts.judge_per_category", "categorize.model", "writer"}


def test_a_round_has_the_papers_numbers_of_prompts() -> None:
    recipe = recipes.paper()
    assert HARD * recipe.write_prompts.treat_per_category == 3000
    assert 100 <= HARD * recipe.write_prompts.judge_per_category < 100 + HARD
    assert recipe.generate.categories == recipe.categorize.vqa.categories, "the VQA model answers with these"


OURS = ("ema", "clip", "flip", "translate", "jitter", "mixture", "balance")


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_is_called_ours(name: str) -> None:
    """In the help of the setting, which forms and `--help` show, and on the page."""
    training = DetectorTrainingConfig.model_fields
    augmentation = training["augmentation"].annotation.model_fields  # type: ignore[union-attr]
    help_text = (training.get(name) or augmentation[name]).description
    assert "(ours" in str(help_text) and f"`{name}`" in PAGE


@pytest.mark.parametrize(
    ("config", "path", "words"),
    [
        (TreatmentConfig, "offline.times", "authors' code"),
        (TreatmentConfig, "pixel.pixels", "then of the images"),
        (TreatmentConfig, "region.sigma", "33 at 512"),
        (TreatmentConfig, "region.beta", "range of another reward"),
        (DetectorTrainingConfig, "clip", "mean over pixels"),
        (DetectorTrainingConfig, "detector.antialias", "treatment always does"),
    ],
)
def test_help_says_what_differs(config: Any, path: str, words: str) -> None:
    *groups, last = path.split(".")
    for group in groups:
        kind = config.model_fields[group].annotation
        config = next(one for one in getattr(kind, "__args__", (kind,)) if hasattr(one, "model_fields"))
    assert words in " ".join(config.model_fields[last].description.split())
