"""What `evidence.json` holds: strict, documented, without places."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.evidence import collect, schema
from tests.pipelines.evidence import samples

ROOT = Path(__file__).resolve().parents[3]
MODELS = [
    one
    for one in vars(schema).values()
    if isinstance(one, type) and issubclass(one, schema.Config) and one is not schema.Config
]


def test_the_sample_is_read_and_written_as_it_is() -> None:
    written = json.loads(samples.evidence().model_dump_json())
    assert samples.evidence(**written).model_dump() == samples.evidence().model_dump()


@pytest.mark.parametrize(
    "wrong", [{"state": "done"}, {"host": "mine"}, {"hours": float("nan")}, {"parts": [{"name": "photos"}]}]
)
def test_what_does_not_belong_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        samples.evidence(**wrong)


def test_every_field_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text()
    missing = [
        f"{model.__name__}.{name}"
        for model in MODELS
        for name in model.model_fields
        if f"`{name}`" not in text
    ]
    assert len(MODELS) > 10 and not missing


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/home/ada/models/sd15 is no pipeline", "… is no pipeline"),
        ("C:\\Users\\ada\\model.bin failed", "… failed"),
        ("~/weights/a.safetensors", "…"),
        ("owner/model, 1/2 of them", "owner/model, 1/2 of them"),
        ("a photo of a cat/dog", "a photo of a cat/dog"),
    ],
)
def test_places_are_taken_out_of_words(said: str, kept: str) -> None:
    assert collect.without_places({"a": [said]}) == {"a": [kept]}


@pytest.mark.parametrize(
    ("generator", "name", "shown"),
    [
        ("owner/model@main", "", "owner/model"),
        ("clinic-flux", "", "clinic-flux"),
        ("/data/secret-project", "", "a local model"),
        ("/data/secret-project", "SD 1.5", "SD 1.5"),
    ],
)
def test_a_generator_is_called_by_what_others_know(
    generator: str, name: str, shown: str, tmp_path: Path
) -> None:
    class Asked:
        request = samples.request(tmp_path / "out", generator=generator, name=name)

    assert collect.public_name(Asked()) == shown  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figure", "change"),
    [
        ({"before": 2.0, "after": 1.0, "ratio": 0.5, "interval": [0.4, 0.6]}, (0.5, (0.4, 0.6), None)),
        ({"before": 0.0, "after": 1.0, "ratio": None, "interval": [0.0, 1.0]}, (None, None, None)),
        ({"before": 0.9, "after": 0.8, "drop": 0.1, "interval": [-0.05, 0.2]}, (None, (-0.2, 0.05), -0.1)),
    ],
)
def test_a_drop_is_turned_into_a_difference(
    figure: dict[str, object], change: tuple[object, object, object]
) -> None:
    found = collect.change_of(figure)
    assert found is not None and (found.ratio, found.interval, found.difference) == change


def test_what_is_no_figure_is_left_out() -> None:
    assert collect.change_of(3) is None and collect.change_of({"psnr": 20.0}) is None
