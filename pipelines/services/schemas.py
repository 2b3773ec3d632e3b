"""Bodies and fields that several services validate."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LABEL_MAP_CHARACTERS = 7_500_000


# NUL, which databases refuse, is refused here with a clear message.
Short = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
PackedMapText = Annotated[str, Field(max_length=LABEL_MAP_CHARACTERS)]


class RequestBody(BaseModel):
    """A request body: strict, bounded."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


Name = Annotated[str, Field(min_length=1, max_length=128)]
