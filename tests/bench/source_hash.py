"""What a bench ran: the files of the repository that its modules import, and their hash."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

NOT_SOURCE = (".pyc", ".pyi", ".safetensors")
"""Files in a package that are no source; weights count by their own hash."""


def source_hash(modules: Iterable[str], root: Path) -> str:
    """SHA-256 over name and content of every file that these modules run."""
    found = hashlib.sha256()
    for path in source_files(modules, root):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def source_files(modules: Iterable[str], root: Path) -> list[Path]:
    """Files of the repository that modules run, by what they import anywhere, sorted.

    Of `tests` the modules that are imported; of every other package all of it, since its parts are also
    found by name (families, stages, architectures).
    """
    files: set[Path] = set()
    waiting = list(modules)
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        known = name if top == "tests" else top
        if known in seen:
            continue
        seen.add(known)
        found = _files_of_module(known, root) if top == "tests" else _files_of_package(top, root)
        files |= set(found)
        waiting += [
            each for path in found if path.suffix == ".py" for each in _imported_names(path.read_text())
        ]
    return sorted(files)


def _files_of_module(name: str, root: Path) -> list[Path]:
    path = root.joinpath(*name.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]


def _files_of_package(name: str, root: Path) -> list[Path]:
    if (root / f"{name}.py").is_file():
        return [root / f"{name}.py"]
    if not (root / name / "__init__.py").is_file():
        return []
    every = (root / name).rglob("*")
    return [path for path in every if path.is_file() and path.suffix not in NOT_SOURCE]


def _imported_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def weights_hash(path: Path) -> str:
    """SHA-256 over the safetensors files of a folder, or of one file. Raises `FileNotFoundError`."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} holds no safetensors file")
    found = hashlib.sha256()
    for file in files:
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def state_hash(network: "nn.Module") -> str:
    """SHA-256 over a network's weights and buffers, by name."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
