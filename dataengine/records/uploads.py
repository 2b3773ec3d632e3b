"""Records of uploads by a browser."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

UploadPart = Literal["images", "masks", "archive"]
UploadState = Literal["open", "importing", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """One upload; `beat` is the last sign of life of its import, `result` what that gave."""

    id: str
    owner: str
    state: UploadState = "open"
    created: float = field(default_factory=now)
    beat: float = 0.0
    progress: float = 0.0
    message: str = ""
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadedFile:
    """A complete file: its part, its path there with forward slashes, bytes, and hash."""

    part: UploadPart
    name: str
    size: int
    sha256: str
