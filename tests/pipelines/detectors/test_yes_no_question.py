"""A yes/no question as a detector of whole images: verdicts kept, mined by, and no map wanted of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app
from dataengine.curation.config import QuestionConfig
from dataengine.curation.vqa import QuestionCategorizer
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.records import DetectorVersion, Image
from dataengine.records.images import SURVEY
from pipelines.detectors import yes_no_question
from pipelines.detectors.evaluation import measure_on_sets
from pipelines.detectors.predict import predict
from pipelines.runtime import context as runtime_context
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.runtime.round_data import images_of, recipe_of
from pipelines.selections.mine import measure_disagreement
from pipelines.services import preflight
from pipelines.services.detectors import promote_detector
from tests.fakes import with_methods
from tests.pipelines.conftest import fresh_context, run_one
from tests.pipelines.jobs.test_rank_questions import Seer
from tests.pipelines.selections import mining_of

ASKED = QuestionConfig(model="https://models.example/v1#seer")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, str, Seer]]:
    """A round whose survey was drawn and diagnosed, with a model that sees red squares asked beside."""
    found, first = fresh_context(tmp_path_factory.mktemp("asked") / "workspace")
    seer = Seer()

    def opened(location: str, config: Any, keep: Any) -> QuestionCategorizer:
        return QuestionCategorizer(seer, config)

    context = Context(found.workspace, with_methods(found.models, open_vqa=opened))
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(first)
        recipe = {**row.recipe, "diagnose": {**row.recipe["diagnose"], "question": ASKED.model_dump()}}
        recipe["mine"] = {**recipe["mine"], "disagreement": 1.0, "rival": yes_no_question.question_id(ASKED)}
        catalog.rounds.add(replace(row, id="asked", recipe=recipe))
        catalog.commit()
    run_one(context, "asked", "generate")
    run_one(context, "asked", "diagnose")
    yield context, "asked", seer


def version_in(context: Context) -> DetectorVersion:
    return yes_no_question.get_or_register_detector(context.workspace, ASKED)


def broken(context: Context, image: Image) -> bool:
    from pipelines.runtime.images import read_pixels

    return Seer().answer(read_pixels(context.workspace, image)) == "yes"


def test_verdicts_are_predictions_without_a_map(asked: tuple[Context, str, Seer]) -> None:
    context, round_id, seer = asked
    version, images = version_in(context), images_of(context, round_id, SURVEY)
    assert version.name == "question 5 to v1#seer" and version.id == yes_no_question.question_id(ASKED)
    times = seer.times
    found = predict(context, version.id, images, 4)
    assert seer.times == times == len(images), "each image was asked about once, by diagnose"
    truth = [float(broken(context, image)) for image in images]
    assert [one.max for one in found] == truth and 0 < sum(truth) < len(truth)
    assert all(one.map_ref is None and one.uncertainty == 0 for one in found)


def test_an_unclear_answer_is_one_half(asked: tuple[Context, str, Seer]) -> None:
    context, round_id, _ = asked

    class Unsure(Seer):
        def answer(self, image: np.ndarray) -> str:
            return "perhaps"

    def opened(location: str, config: Any, keep: Any) -> QuestionCategorizer:
        return QuestionCategorizer(Unsure(), config)

    unsure = Context(context.workspace, with_methods(context.models, open_vqa=opened))
    version = yes_no_question.get_or_register_detector(
        context.workspace, QuestionConfig(model="owner/unsure", number=31)
    )
    (found,) = predict(unsure, version.id, images_of(context, round_id, SURVEY)[:1], 4)
    assert (found.max, found.mean, found.uncertainty) == (0.5, 0.5, 1.0)


def test_it_has_a_say_in_mining(asked: tuple[Context, str, Seer]) -> None:
    context, round_id, _ = asked
    images = images_of(context, round_id, SURVEY)
    champion = predict(context, "first", images, 8)
    said = measure_disagreement(context, images, mining_of(context, round_id))
    wanted = {
        one.image_id: abs(one.max - broken(context, image))
        for one, image in zip(champion, images, strict=True)
    }
    assert said == pytest.approx(wanted)
    assert recipe_of(context, round_id).mine.second_detector == version_in(context).id


def test_nothing_that_needs_maps_or_weights_takes_it(asked: tuple[Context, str, Seer]) -> None:
    context, _, _ = asked
    version = version_in(context)
    folder = context.workspace.checkpoints.fetch(version.checkpoint)
    with pytest.raises(ModelRefused, match="not where"):
        real_models().open_detector(folder)
    with pytest.raises(ModelRefused, match="is a yes/no question"):
        preflight.refuse_other_channels(folder, version.name)
    with context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    assert champion is not None
    with pytest.raises(ConfigRefused, match="cannot be champion"):
        promote_detector(context.workspace, version.id, "eve", "because", champion.id)
    assert measure_on_sets(context, version.id, {"validation": []}, 4) == {}


def test_a_question_that_the_paper_repeats_is_refused() -> None:
    from dataengine.curation.questions import QUESTIONS

    repeated = min(set(range(1, 51)) - {one.number for one in QUESTIONS})
    with pytest.raises(ValueError, match="there is no question"):
        QuestionConfig(model="owner/name", number=repeated)


def test_the_command_keeps_verdicts(
    asked: tuple[Context, str, Seer], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, round_id, _ = asked
    monkeypatch.setattr(runtime_context, "real_models", lambda device: context.models)
    words = ["--workspace", str(Path(context.workspace.path)), "ask", "owner/seer", "--round", round_id]
    assert app.main([*words, "--keep", "16"]) == 0
    told = capsys.readouterr().out
    images = images_of(context, round_id, SURVEY)
    count = sum(broken(context, image) for image in images)
    assert f"(question 16 to seer): {count} of {len(images)} images broken, 0 unclear" in told
    with context.workspace.catalog(read_only=True) as catalog:
        names = [one.name for one in catalog.detectors.list()]
    assert "question 16 to seer" in names
