"""Looks into a model's folder before anything in it is loaded, and when it is registered.

Refused are links that leave the folder, program code, pickles, and settings with which transformers or
diffusers would run code from elsewhere: `auto_map`, `trust_remote_code`, custom pipelines, hub kernels.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dataengine.bounds import read_config
from dataengine.errors import ModelRefused

CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".sh"}
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".msgpack"}
TENSORS_ONLY = {".bin", ".pt", ".pth", ".ckpt"}
"""Of these, torch reads tensors alone where a loader asks it to."""
MOST_FILES = 20_000
"""In a model's folder; the largest published ones have some hundreds."""
REMOTE_CODE = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "custom_generate"})
"""Settings that name program code beside the weights or on the hub."""
SWITCHES = frozenset({"trust_remote_code", "use_kernels", "allow_all_kernels"})
KERNELS = frozenset({"hub_kernels", "kernel_config", "kernel_mapping"})
IMPLEMENTATION = "implementation"
"""Settings that end so choose a kernel; one with an owner ("owner/name") is program code of the hub."""


def check_model_folder(folder: Path, pickled: Iterable[str] = PICKLED) -> None:
    """Raise `ModelRefused`, naming the file, for a folder that holds what is never loaded.

    `pickled` are the suffixes of files that this kind of model is not read from. Links within the folder, and
    those of a snapshot of the hub's cache to its own blobs, are followed.
    """
    suffixes, files = set(pickled), list(files_of(folder))
    refuse_code(files, suffixes)
    for file in files:
        if file.suffix.lower() == ".json":
            check_settings(file)


def files_of(folder: Path) -> Iterator[Path]:
    """Every file of a model's folder. Raises `ModelRefused` for links that leave it, and too many files."""
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent.resolve() / "blobs")
    count = 0
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
                raise ModelRefused(
                    f"{path} is a link out of the model's folder; copy what it leads to into the folder"
                )
        for name in names:
            count += 1
            if count > MOST_FILES:
                raise ModelRefused(
                    f"{folder} holds more than {MOST_FILES:,} files; give the model's own folder"
                )
            yield Path(place, name)


def refuse_code(files: Iterable[Path], pickled: set[str]) -> None:
    """Raise `ModelRefused` for the first file that holds code or has a pickle suffix."""
    for file in sorted(files):
        if file.suffix.lower() in CODE:
            raise ModelRefused(
                f"{file} is program code, which is never loaded; remove it if you trust the other files"
            )
        if file.suffix.lower() in pickled:
            raise ModelRefused(f"{file} may run code when loaded; convert it to .safetensors and remove it")


def check_settings(file: Path) -> None:
    """Raise `ModelRefused` for a JSON file whose settings would run code from elsewhere."""
    try:
        content = read_config(file)
    except (OSError, ValueError):
        return  # whoever needs it refuses it with a better reason
    if (name := next(foreign_code(content), None)) is not None:
        raise ModelRefused(
            f"{file} asks for program code by its setting {name!r}, which is never run; remove the setting "
            "if the model loads without it"
        )


def foreign_code(content: Any) -> Iterator[str]:
    """The names of settings, at any depth, that would run code which is not installed here."""
    pending = [content]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending += [each for each in one if isinstance(each, dict | list)]
        elif isinstance(one, dict):
            yield from (name for name, value in one.items() if value and _runs_code(name, value))
            pending += [each for each in one.values() if isinstance(each, dict | list)]


def _runs_code(name: str, value: Any) -> bool:
    if name in REMOTE_CODE | KERNELS | SWITCHES:
        return True
    values = value.values() if isinstance(value, dict) else (value,)
    return name.endswith(IMPLEMENTATION) and any(isinstance(each, str) and "/" in each for each in values)
