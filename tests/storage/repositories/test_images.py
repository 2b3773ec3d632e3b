"""Images and what is said of them: nothing twice."""

from dataclasses import replace

import numpy as np
import pytest

from dataengine.errors import NotFound
from dataengine.records import CategoryAnswer, HardCategory, Prediction, Prompt, PseudoLabel
from storage.catalog import Catalog
from tests.storage.builders import image


def test_images_are_stored_once_and_come_back_equal(catalog: Catalog) -> None:
    one = image(
        "a",
        prompt="a “cat” \x1f ☃",
        seed=2**62,
        settings={"steps": 5, "size": [64, 64], "none": None},
        generator_id="g",
        group="g1",
        split="validation",
        round_id="r",
        purpose="survey",
        thumbnail="t",
        created=1.25,
    )
    assert catalog.images.add_many([one, image("b"), one]) == 2
    assert catalog.images.add_many([replace(one, prompt="changed"), image("c")]) == 1
    assert catalog.images.get("a") == one
    assert [found.id for found in catalog.images.get_many(["c", "gone", "a"])] == ["c", "a"]
    with pytest.raises(NotFound, match="'gone'"):
        catalog.images.get("gone")


def test_numpy_scalars_are_stored_as_numbers(catalog: Catalog) -> None:
    catalog.images.add_many(
        [replace(image("a"), height=np.int64(7), seed=np.uint32(3), created=np.float32(0.5))]
    )
    assert catalog.images.get("a").height == 7 and catalog.images.get("a").seed == 3
    catalog.predictions.add_many(
        [
            Prediction(
                image_id="a", detector_id="d", max=np.float32(0.5), mean=np.float64(0.25), uncertainty=0
            )  # type: ignore[arg-type]
        ]
    )
    found = catalog.predictions.get("a", "d")
    assert found is not None and (found.max, found.mean, found.uncertainty) == (0.5, 0.25, 0.0)


def test_find_count_and_ids_agree(catalog: Catalog) -> None:
    catalog.images.add_many(
        [
            image("a", source="real", split="train"),
            image("b", source="real", split="benchmark", prompt="a hand", round_id="r", purpose="survey"),
            image("c", source="generated", generator_id="g", prompt="a face", round_id="r", purpose="hard"),
            image("d", source="generated", generator_id="h", status="refused"),
        ]
    )
    for filters, expected in (
        ({}, "abcd"),
        ({"source": "real"}, "ab"),
        ({"source": ["real", "generated"], "split": "train"}, "acd"),
        ({"has_prompt": True}, "bc"),
        ({"has_prompt": False}, "ad"),
        ({"round_id": "r", "purpose": "hard"}, "c"),
        ({"generator_id": {"g", "h"}, "status": "active"}, "c"),
        ({"sha256": "sha-a"}, "a"),
        ({"category": None}, "abcd"),
        ({"source": []}, ""),
    ):
        assert catalog.images.ids(**filters) == list(expected), filters
        assert [found.id for found in catalog.images.find(**filters)] == list(expected)
        assert catalog.images.count(**filters) == len(expected)
    assert catalog.images.ids(limit=2) == ["a", "b"]
    assert catalog.images.ids(after="b", limit=2) == ["c", "d"]
    with pytest.raises(KeyError):
        catalog.images.find(colour="red")


def test_first_answer_of_a_model_counts(catalog: Catalog) -> None:
    catalog.images.add_many([image("a"), image("b")])
    catalog.predictions.add_many([Prediction(image_id="a", detector_id="d", max=1, mean=0, uncertainty=0)])

    def answer(image_id: str, category: str, model: str = "vqa") -> CategoryAnswer:
        return CategoryAnswer(image_id=image_id, model=model, category=category, confidence=0.5)

    assert catalog.images.set_categories([answer("a", "hand"), answer("b", "face")]) == 2
    assert catalog.images.set_categories([answer("a", "dog"), answer("b", "face")]) == 0
    assert catalog.images.get("a").category == "hand"
    assert catalog.images.set_categories([answer("a", "dog", "better")]) == 1
    assert catalog.images.get("a").category == "dog"
    assert [found.model for found in catalog.images.answers("a")] == ["better", "vqa"]


def test_predictions_one_per_image_and_detector(catalog: Catalog) -> None:
    catalog.images.add_many([image(id) for id in "abc"])

    def prediction(image_id: str, detector_id: str) -> Prediction:
        return Prediction(image_id=image_id, detector_id=detector_id, max=0.5, mean=0.1, uncertainty=0.2)

    first = prediction("b", "d")
    assert catalog.predictions.add_many([first, prediction("a", "d"), prediction("a", "e")]) == 3
    assert catalog.predictions.add_many([replace(first, max=0.9), prediction("c", "e")]) == 1
    assert catalog.predictions.get("b", "d") == first
    assert catalog.predictions.get("c", "d") is None
    assert [found.image_id for found in catalog.predictions.of("d")] == ["a", "b"]
    assert [found.image_id for found in catalog.predictions.of("d", ["b", "c"])] == ["b"]
    assert catalog.predictions.missing("d", ["c", "b", "x"]) == ["c", "x"]
    with pytest.raises(NotFound, match="not in the catalog"):
        catalog.predictions.add_many([prediction("gone", "d")])


def test_lists_longer_than_a_statement_may_hold(catalog: Catalog) -> None:
    ids = [f"{number:06d}" for number in range(2500)]
    assert catalog.images.add_many(image(id) for id in ids) == 2500
    assert len(catalog.images.get_many(ids)) == 2500
    assert catalog.predictions.missing("d", ids) == ids


def test_what_a_round_makes_is_stored_once(catalog: Catalog) -> None:
    catalog.images.add_many([image("a"), image("b")])
    prompts = [
        Prompt(round_id="r", purpose="hard", index=1, text="two"),
        Prompt(round_id="r", purpose="hard", index=0, text="one", category="hand"),
        Prompt(round_id="r", purpose="survey", index=0, text="three"),
    ]
    assert catalog.prompts.add_many(prompts) == 3
    assert catalog.prompts.add_many([replace(prompts[0], text="other")]) == 0
    assert [prompt.text for prompt in catalog.prompts.of_round("r", "hard")] == ["one", "two"]
    assert len(catalog.prompts.of_round("r")) == 3 and catalog.prompts.of_round("x") == []
    verdicts = [
        HardCategory(round_id="r", category="face", images=3, statistic=0.2, limit=0.5, hard=False),
        HardCategory(round_id="r", category="hand", images=9, statistic=0.8, limit=0.5, hard=True),
    ]
    assert catalog.hard.record("r", verdicts) == 2 and catalog.hard.record("r", verdicts) == 0
    assert catalog.hard.of_round("r") == verdicts[::-1]
    pseudo = [PseudoLabel(image_id=id, detector_id="d", round_id="r", map_ref=id, max=0.5) for id in "ba"]
    assert catalog.pseudo_labels.add_many(pseudo) == 2 and catalog.pseudo_labels.add_many(pseudo) == 0
    assert catalog.pseudo_labels.of_round("r") == pseudo[::-1]
