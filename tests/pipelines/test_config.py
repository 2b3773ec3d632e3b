"""Settings: every field explained, unknown ones refused, nothing heavy loaded."""

import pydantic
import pytest

from pipelines.config import HumanErrorConfig, RoundRecipe


def test_every_setting_of_a_round_is_explained() -> None:
    unexplained = []

    def look(model: type[pydantic.BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            if not field.description:
                unexplained.append(f"{path}.{name}")
            if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
                look(field.annotation, f"{path}.{name}")

    look(RoundRecipe, "recipe")
    look(HumanErrorConfig, "people")
    assert not unexplained


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"generate": {"prompts_per_categry": 3}}, "prompts_per_categry"),
        ({"generate": {"validation": 1.0}}, "validation"),
        ({"mine": {"budget": 0}}, "budget"),
        ({"promote": {"metric": "loss"}}, "metric"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        RoundRecipe.model_validate(settings)
