"""Where a foreign dataset lies, how to read it, and which of our classes its class names mean."""

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

    def class_value(self, name: str) -> int:
        """The class value for their name of it. Raises `InputRefused` if it is none of ours."""
        ours = self.mapping.get(name, name).casefold().strip()
        for value, known in enumerate(self.classes, start=1):
            if known.casefold() == ours:
                return value
        raise InputRefused(
            f"class {name!r} is none of {', '.join(self.classes)}; say which one with --class '{name}=…'"
        )

    @property
    def one_class_value(self) -> int:
        """The class value of `one_class`."""
        return self.class_value(self.one_class) if self.one_class else 1
