"""Options of an import, and the mapping of a dataset's class names to the workspace's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.errors import InputRefused
from dataengine.records import DEFAULT_CLASSES


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """Where a dataset is and how to read it."""

    path: Path
    images: Path | None = None
    """Folder of the image files, if they are not part of the dataset."""
    author: str = ""
    """Author of labels that name none; empty for `import:FORMAT`."""
    classes: tuple[str, ...] = DEFAULT_CLASSES
    """The workspace's label classes."""
    mapping: Mapping[str, str] = field(default_factory=dict)
    """The dataset's class name → the workspace's."""
    one_class: str = ""
    """The workspace's class for datasets with binary masks; empty for the first class."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field (`image`, `mask`, `prompt`, …) → name of the dataset's column."""
    config: str = ""
    """Configuration of a Hugging Face dataset; empty for its only or default one."""
    coordinates: str = ""
    """How the numbers of boxes are meant, of `dataengine.defects.COORDINATES`; empty where the file says."""
    clean: bool = False
    """Import images without any annotation as free of artifacts."""

    def class_value(self, name: str) -> int:
        """The class value of a dataset's class name. Raises `InputRefused` if it maps to no class."""
        mapped = self.mapping.get(name, name)
        for value, ours in enumerate(self.classes, start=1):
            if ours.casefold() == mapped.casefold().strip():
                return value
        raise InputRefused(
            f"class {name!r} is none of {', '.join(self.classes)}; map it with --class '{name}=…'"
        )

    @property
    def one_class_value(self) -> int:
        """The class value of `one_class`."""
        return self.class_value(self.one_class) if self.one_class else 1
