"""A bench whose parts are modules: every `NAME_*.py` in this folder with `figures(quick)`."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path

from tests.bench.harness import Figure, quick, write_in_parts


def parts_of(name: str) -> dict[str, Callable[[bool], Iterable[Figure]]]:
    """What the bench measures, by part; each is told whether the quick form is wanted."""
    found = sorted(path.stem for path in Path(__file__).parent.glob(f"{name}_*.py"))
    return {part.removeprefix(f"{name}_"): import_module(f"tests.bench.{part}").figures for part in found}


def measure_parts(name: str) -> None:
    """Measure and write all parts, or the one that the environment's `PART` names."""
    chosen, parts = os.environ.get("PART"), parts_of(name)
    wanted = {part: measure for part, measure in parts.items() if chosen in (None, "", part)}
    if not wanted:
        raise SystemExit(f"there is no part {chosen}; there are {', '.join(parts)}")
    write_in_parts(name, {part: partial(measure, quick()) for part, measure in wanted.items()}, seeds=[0])
