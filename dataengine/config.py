"""The base of every configuration: frozen, strict, and documented field by field."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen settings object.

    The docstring under each field is its description: desks show it as form help and commands as `--help`.
    Unknown keys and wrong types raise `pydantic.ValidationError` naming the field and the bad value.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
