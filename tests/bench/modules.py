"""A bench whose parts are modules: every `NAME_*.py` in this folder with `figures(quick)`."""

import os
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.bench.harness import quick, write_in_parts


def module_of(name: str, part: str) -> ModuleType:
    """The module of a part."""
    return import_module(f"tests.bench.{name}_{part}")


def chosen_parts(name: str) -> list[str]:
    """All parts of the bench, or the one that the environment's `PART` names."""
    parts = sorted(path.stem.removeprefix(f"{name}_") for path in Path(__file__).parent.glob(f"{name}_*.py"))
    chosen = os.environ.get("PART") or None
    wanted = [part for part in parts if chosen in (None, part)]
    if not wanted:
        raise SystemExit(f"there is no part {chosen}; there are {', '.join(parts)}")
    return wanted


def measure_parts(name: str, seeds: Sequence[int] = (0,)) -> None:
    """Measure and write the chosen parts; each is told whether the quick form is wanted."""
    wanted = {part: partial(module_of(name, part).figures, quick()) for part in chosen_parts(name)}
    write_in_parts(name, wanted, seeds=seeds)
