"""Every setting of the forms has a label in plain words, and no label is of a setting that is gone."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from pipelines.config import TrainingRun, TreatmentRun
from pipelines.selections.config import InjectionRun, InstanceRun
from ui.web.setting_labels import LABELS, VALUES, label_of
from ui.web.settings_form import form

FORMS = (TrainingRun, TreatmentRun, InjectionRun, InstanceRun)
WITHOUT_FIELDS = {"ImageQuery"}
"""What a form shows in another way: a selection of images in words."""


def classes(kind: Any, seen: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            if part.__name__ not in seen:
                seen[part.__name__] = part
                for field in part.model_fields.values():
                    classes(field.annotation, seen)
        elif part is not kind:
            classes(part, seen)
    return seen


FOUND: dict[str, type[BaseModel]] = {}
for each in FORMS:
    classes(each, FOUND)


def test_every_field_of_every_form_has_a_label() -> None:
    """desks 4.9: the labels were variable names."""
    for name, kind in FOUND.items():
        if name not in WITHOUT_FIELDS:
            assert set(LABELS.get(name, {})) == set(kind.model_fields), name
    assert set(LABELS) <= set(FOUND)


def test_labels_are_sentence_case_and_differ_within_a_class() -> None:
    for name, labels in LABELS.items():
        shown = [label_of(name, field)[0] for field in labels]
        assert len(set(shown)) == len(shown), name
        assert all(text[0].isupper() and "_" not in text for text in shown), name
    assert label_of("DetectorTrainingConfig", "warmup") == ("Warm-up", "share of training")
    assert label_of("Unknown", "some_name") == ("some name", "")


def test_texts_are_of_values_that_exist() -> None:
    for path, texts in VALUES.items():
        name, _, field = path.partition(".")
        annotation = FOUND[name].model_fields[field].annotation
        assert get_origin(annotation) is Literal and set(texts) <= set(get_args(annotation)), path


def test_every_number_of_a_training_has_a_range() -> None:
    """desks 4.9: lr = 1000 passed all checks."""

    def numbers(fields: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for one in fields:
            if one["kind"] == "number":
                yield one
            yield from numbers(one.get("fields", []))

    training = next(
        one for one in form(TrainingRun, TrainingRun().model_dump(mode="json")) if one["name"] == "training"
    )
    own = [one for one in training["fields"] if one["kind"] == "number" and one["name"] != "seed"]
    assert own and all("low" in one and "high" in one for one in own), [one["name"] for one in own]
    assert all("low" in one for one in numbers([training]))


def test_a_form_calls_an_empty_field_empty() -> None:
    helps = []

    def gather(fields: list[dict[str, Any]]) -> None:
        for one in fields:
            helps.append(str(one["help"]))
            gather(one.get("fields", []))

    for run in (TrainingRun(), TreatmentRun(generator="g")):
        gather(form(type(run), run.model_dump(mode="json")))
    assert not [one for one in helps if "null" in one]
    assert any("empty for" in one for one in helps), "the control: some say what an empty field means"
