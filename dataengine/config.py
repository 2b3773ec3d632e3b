"""The base of every configuration: frozen, strict, and documented field by field."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, kw_only=True)
class Location:
    """Marks a setting that names a file, model or service: `x: Annotated[str, Location(…)]`.

    Commands accept any, since their caller owns the machine. A browser may name only those that an admin
    registered (`pipelines.services.locations`).
    """

    kind: str = ""
    """Kind of registered endpoint that is accepted; "" for none, so that no browser can set it."""
    prefixes: tuple[str, ...] = ("",)
    """Prefix before the location, such as "clip:"."""
    harmless: str = ""
    """Pattern of values that are no location, such as the name of a bundled model."""


class Config(BaseModel):
    """A frozen settings object.

    The docstring under each field is its description: desks show it as form help and commands as `--help`.
    Unknown keys and wrong types raise `pydantic.ValidationError` naming the field and the bad value.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
