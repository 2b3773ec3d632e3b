"""Measures of pairs: figures over prompts, tests by category, alignment by questions, distances."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from dataengine.curation.config import VqaConfig
from dataengine.quality.distances import FeatureNetwork
from dataengine.records import Image, Prediction
from dataengine.statistics import paired_t_test
from pipelines.config import MeasuresConfig
from pipelines.generators.comparison import Pair
from pipelines.generators.measures import column_figures, distance_figures, measure_pairs, side_figure
from pipelines.runtime.context import Context
from storage.opening import create_workspace
from tests.fake_workspace import real_picture
from tests.fakes import FakeModels, category_of, with_methods


class Yes:
    """A VQA model that sees the category's word in the question; "unclear" for trees."""

    name = "yes"

    def __init__(self, config: VqaConfig, asked: list[str]) -> None:
        self.config, self.asked = config, asked

    def with_question(self, config: VqaConfig, kept: Any) -> "Yes":
        return Yes(config, self.asked)

    def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
        self.asked.append(self.config.question)
        answer = "other" if "tree" in self.config.question else "yes" if images.mean() > 115 else "no"
        return [(answer, 1.0) for _ in images]


class MeanColour(FeatureNetwork):
    """The mean colour."""

    name = "mean colour"

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, asked: list[str]) -> Context:
    models = with_methods(FakeModels(), open_vqa=lambda location, config, keep: Yes(config, asked))
    return Context(create_workspace(tmp_path / "w"), models)


def pairs_of(context: Context, prompts: Sequence[str]) -> list[Pair]:
    return [
        Pair(
            before=real_picture(context.workspace, prompt, number),
            after=real_picture(context.workspace, prompt, 100 + number),
        )
        for number, prompt in enumerate(prompts)
    ]


def predicted(images: Sequence[Image], values: Sequence[float]) -> list[Prediction]:
    return [
        Prediction(image_id=image.id, detector_id="d", max=value, mean=value / 2, uncertainty=0.0)
        for image, value in zip(images, values, strict=True)
    ]


def measured(context: Context, prompts: Sequence[str], measures: MeasuresConfig) -> dict[str, Any]:
    pairs = pairs_of(context, prompts)
    sides = (
        predicted([pair.before for pair in pairs], [0.8] * len(pairs)),
        predicted([pair.after for pair in pairs], [0.2] * len(pairs)),
    )
    columns = [{"category": category_of(prompt)} for prompt in prompts]
    return measure_pairs(context, pairs, sides, 0.5, measures, columns).figures


def test_alignment_asks_each_prompt_and_leaves_unclear_answers_out(
    context: Context, asked: list[str]
) -> None:
    prompts = ["a hand", "a house", "a tree", "a tree"]
    question = "Is this {prompt}?"
    figures = measured(context, prompts, MeasuresConfig(alignment="m", question=question))
    one = figures["alignment"]
    assert (one["pairs"], one["unknown"]) == (2, 2)
    assert one["before"] in (0, 0.5, 1) and set(asked) == {
        question.replace("{prompt}", text) for text in prompts
    }
    assert "before" not in figures["by_column"]["category"]["tree"]["alignment"]


def test_scorers_and_distances_are_measured_or_said_to_be_missing(context: Context) -> None:
    figures = measured(context, ["a hand", "a face"], MeasuresConfig(scorers=("program:liking",)))
    assert figures["program:liking"]["pairs"] == 2
    assert "setting features" in figures["distances"]["note"]
    images = [pair.before for pair in pairs_of(context, ["a hand", "a face"])]
    few = distance_figures(context, images, images, MeanColour())
    assert few == {
        "note": "FID and KID not measured: got 2 real and 2 generated images; 10 of each are needed"
    }


def test_the_test_pairs_prompts_not_images() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, 12), rng.normal(0.3, 1, 12)
    prompts = [f"p{number // 2}" for number in range(12)]
    found = side_figure((before, after), prompts)
    by_prompt = [values.reshape(6, 2).mean(1) for values in (before, after)]
    assert found["p"] == pytest.approx(ttest_rel(*by_prompt).pvalue)
    assert found["difference"] == pytest.approx((after - before).mean())
    low, high = found["interval"]
    assert low < found["difference"] < high


def test_p_values_by_category_are_corrected_by_holm() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 1, 30)
    after = before + np.repeat([1.0, 0.2, 0.0], 10) + rng.normal(0, 0.5, 30)
    columns = [{"challenge": "abc"[row // 10], "note": str(row)} for row in range(30)]
    prompts = [f"p{row}" for row in range(30)]
    table = column_figures({"score": (before, after)}, prompts, columns)["challenge"]
    raw = sorted(float(ttest_rel(before[k : k + 10], after[k : k + 10]).pvalue) for k in (0, 10, 20))
    holm = np.minimum(1, np.maximum.accumulate(np.array(raw) * (3, 2, 1)))
    assert sorted(one["score"]["p"] for one in table.values()) == pytest.approx(list(holm))
    assert "note" in column_figures({"score": (before, after)}, prompts, columns)
    constant = [{"challenge": "a"}] * 30
    assert column_figures({"score": (before, after)}, prompts, constant) == {}


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [([1.0], [2.0], None), ([1.0, 2.0], [1.0, 2.0], 1.0), ([1.0, 2.0], [2.0, 3.0], 0.0)],
)
def test_the_t_test_of_differences_that_do_not_vary(
    before: list[float], after: list[float], p: float | None
) -> None:
    assert paired_t_test(before, after) == p
