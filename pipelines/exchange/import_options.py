"""What a person asked an importer for, and how a foreign dataset's words become ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.records import DEFAULT_CLASSES


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """Where a dataset lies and how to read it."""

    path: Path
    images: Path | None = None
    """Folder of the pictures where the dataset holds none or names them elsewhere."""
    author: str = ""
    """Who drew labels that name nobody; empty takes `import:FORMAT`."""
    classes: tuple[str, ...] = DEFAULT_CLASSES
    """The workspace's classes."""
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Their class name → ours."""
    one_class: str = ""
    """Ours, for datasets that know only broken or not; empty takes the first."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Ours (`image`, `mask`, `prompt`, …) → their column's name."""
    clean: bool = False
    """Take pictures without any annotation as free of artifacts."""

    def number(self, name: str) -> int:
        """The class value for their name of it. Raises `InputRefused` if it is none of ours."""
        wanted = self.mapping.get(name, name)
        for value, ours in enumerate(self.classes, start=1):
            if ours.casefold() == wanted.casefold().strip():
                return value
        raise InputRefused(
            f"class {name!r} is none of {', '.join(self.classes)}; say which one with --class '{name}=…'"
        )

    @property
    def only(self) -> int:
        """The class value of `one_class`."""
        return self.number(self.one_class) if self.one_class else 1
