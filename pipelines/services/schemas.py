"""Bodies and fields that several services validate."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dataengine.bounds import MAX_PIXELS
from dataengine.defects import HIGHEST, MAX_DEFECTS, MAX_REASON

LABEL_MAP_CHARACTERS = 7_500_000


# NUL, which databases refuse, is refused here with a clear message.
Short = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=0, le=MAX_PIXELS)]
PackedMapText = Annotated[str, Field(max_length=LABEL_MAP_CHARACTERS)]


class RequestBody(BaseModel):
    """A request body: strict, bounded."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


Name = Annotated[str, Field(min_length=1, max_length=128)]


class RegionBody(RequestBody):
    """What is said of one region: the pixels of class `value` in `box`."""

    value: int = Field(ge=1, le=127)
    box: tuple[Side, Side, Side, Side]
    """Left, top, right, bottom in pixels, right and bottom excluded."""
    reason: Annotated[str, Field(max_length=MAX_REASON, pattern=r"^[^\x00]*$")] = ""
    importance: int | None = Field(default=None, ge=1, le=HIGHEST)
    """1 (hardly matters) to 100 (ruins the image)."""


RegionsBody = Annotated[list[RegionBody], Field(max_length=MAX_DEFECTS)]
