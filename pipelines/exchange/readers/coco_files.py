"""Where the parts of a COCO dataset lie: its files of instances, their splits, and the images that they name.

Layouts: one JSON file beside `images/` or `data/` (ours, FiftyOne's, Label Studio's `result.json`);
`annotations/instances_X.json` beside `images/`, `images/X/` or `X/` (cocodataset.org, CVAT, datumaro); and a
folder for each split with a file of its own (Roboflow).

Files name images as they lay on another machine: with backslashes, with folders above, or absolutely. Such a
name is followed from its end, `b/a.png` and then `a.png`, inside the dataset's folders and never out of them.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from dataengine.errors import InputRefused
from dataengine.records import Split
from pipelines.exchange.importer import STRICTNESS
from pipelines.exchange.metadata import displayable_name, same_name, split_named
from pipelines.exchange.safe_files import existing_inside, path_inside

ROBOFLOW = "_annotations.coco.json"
FILES = ("coco.json", "labels.json", "annotations.json", ROBOFLOW, "result.json")
INSTANCES = "instances"
OTHERS = ("captions", "person_keypoints", "keypoints", "panoptic", "image_info", "labels_", "stuff")
"""Beginnings of the names of other tasks' files, which are not read unless they are named."""
ANNOTATIONS = "annotations"
FOLDERS = ("images", "data")
DEEPEST = 16
"""Folders of a name that are followed."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A file of instances, the split that it or its folder is named after, and where its images may lie."""

    path: Path
    name: str
    split: Split | None
    folders: tuple[Path, ...]
    """The likeliest first."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file; `whole` if it has the whole name, not only the end of it or in other letters."""

    path: Path
    whole: bool = True


def find_files(path: Path, images: Path | None) -> tuple[list[AnnotationFile], list[str]]:
    """The files of instances at `path`, those of the strictest split first, and the names passed over.

    `images` is the folder of the images if they lie elsewhere. Raises `InputRefused` if there is no such
    file, or if it is unclear which one is meant.
    """
    if path.is_file():
        return [_described(path, _home(path), images)], []
    if not path.is_dir():
        raise InputRefused(f"there is no folder or file {path}; give the COCO file, or its folder")
    found = _files_in(path, (_known, _instances, _others))
    if not found:
        for folder in sorted(path.iterdir()):
            if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith((".", "__MACOSX")):
                kinds = (_known, _instances, _others) if split_named(folder.name) else (_known, _instances)
                found += _files_in(folder, kinds)
    homes = {file.parent for file in found} or {path, path / ANNOTATIONS}
    beside = {file for home in homes for file in _json_files(home)}
    passed_over = sorted(displayable_name(file.name) for file in beside - set(found))
    if not found:
        raise InputRefused(
            f"{path} contains no COCO file of instances{f', only {some(passed_over)}' * bool(passed_over)}; "
            "give the file itself, or a folder with annotations/instances_*.json or coco.json"
        )
    files = [_described(file, path, images) for file in found]
    return sorted(files, key=lambda file: -STRICTNESS.index(file.split or STRICTNESS[0])), passed_over


def some(names: list[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)


def find_images(file: AnnotationFile, names: Iterable[str]) -> dict[str, FoundImage | str]:
    """The image of each name, or why there is none."""
    listed = cache(_by_folded_name)
    found = {name: _find_image(file.folders, name, listed) for name in dict.fromkeys(names)}
    named = Counter(one.path for one in found.values() if isinstance(one, FoundImage))
    for name, one in found.items():
        if isinstance(one, FoundImage) and not one.whole and named[one.path] > 1:
            found[name] = f"only {one.path.name!r} is there, which another name of the file means as well"
    return found


def _files_in(folder: Path, kinds: tuple[Callable[[list[Path]], list[Path]], ...]) -> list[Path]:
    """The files of the first kind that the folder or its annotations/ has."""
    for kind in kinds:
        for home in (folder, folder / ANNOTATIONS):
            if found := kind(_json_files(home)):
                return found
    return []


def _json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file() and not path.name.startswith("."))


def _known(files: list[Path]) -> list[Path]:
    by_name = {path.name: path for path in files}
    return [by_name[name] for name in FILES if name in by_name][:1]


def _instances(files: list[Path]) -> list[Path]:
    return [path for path in files if path.name.startswith(INSTANCES)]


def _others(files: list[Path]) -> list[Path]:
    found = [path for path in files if not path.name.startswith(OTHERS)]
    if len(found) > 1 and not all(split_named(path.stem) for path in found):
        names = some([displayable_name(path.name) for path in found])
        raise InputRefused(
            f"{found[0].parent} contains {len(found)} JSON files: {names}; name the COCO file itself"
        )
    return found


def _home(path: Path) -> Path:
    """The folder that a file of instances belongs to."""
    return path.parent.parent if path.parent.name == ANNOTATIONS else path.parent


def _described(path: Path, root: Path, images: Path | None) -> AnnotationFile:
    home = _home(path)
    subset = path.stem.removeprefix(INSTANCES).lstrip("_-")
    split = split_named(subset)
    if split is None and (home != root or path.name == ROBOFLOW):
        split = split_named(home.name)
    places = [
        home / FOLDERS[0] / subset,
        home / subset,
        *(home / name for name in FOLDERS),
        home,
        path.parent,
    ]
    if images is not None:
        places = [images / subset, images]
    folders = tuple(place for place in dict.fromkeys(places) if place.is_dir()) or (home,)
    name = displayable_name(path.relative_to(root).as_posix()) if path.is_relative_to(root) else path.name
    return AnnotationFile(path, name, split, folders)


def _find_image(
    folders: tuple[Path, ...], name: str, listed: Callable[[Path], dict[str, list[Path]]]
) -> FoundImage | str:
    try:
        for spelling, whole in _endings(name):
            for folder in folders:
                if path := existing_inside(folder, spelling):
                    return FoundImage(path, whole)
        # Windows does not tell A.JPG from a.jpg.
        for spelling, _ in _endings(name):
            for folder in folders:
                path = path_inside(folder, spelling)
                if len(same := listed(path.parent).get(same_name(path.name).casefold(), [])) == 1:
                    return FoundImage(same[0], whole=False)
        path_inside(folders[0], name)
    except InputRefused as error:
        return str(error)
    return f"there is no image {displayable_name(name)!r} in {folders[0].name}/"


def _by_folded_name(folder: Path) -> dict[str, list[Path]]:
    """The plain files of a folder by their names in small letters."""
    found: dict[str, list[Path]] = {}
    if os.path.isdir(folder):  # noqa: PTH112 (never raises)
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                found.setdefault(same_name(path.name).casefold(), []).append(path)
    return found


def _endings(name: str) -> Iterator[tuple[str, bool]]:
    """The name, whole if it leads nowhere else, and its endings from the longest to its last part."""
    if "\0" in name:
        return
    spellings = dict.fromkeys((name, PureWindowsPath(name).as_posix() if "\\" in name else name))
    spellings |= dict.fromkeys([unquote(spelling) for spelling in spellings if "%" in spelling])
    for spelling in spellings:
        path = PurePosixPath(spelling)
        parts = path.parts[1:] if path.is_absolute() else path.parts
        inside = not path.is_absolute() and ".." not in parts
        while ".." in parts:
            parts = parts[parts.index("..") + 1 :]
        yield from (
            ("/".join(parts[at:]), inside and at == 0)
            for at in range(max(0, len(parts) - DEEPEST), len(parts))
        )
