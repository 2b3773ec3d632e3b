"""What the Gradio front end takes: the mask editor, the admin page, a Space's start.

`make bench-gradio` writes `build/bench/gradio.json`. Every `gradio_*.py` beside this file is a part: its
`figures()` measures and returns them. `PART=NAME` measures that one alone. Real Chromium, servers in
processes of their own.
"""

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from tests.bench.harness import Figure, write_in_parts


def parts() -> dict[str, Callable[[], Iterable[Figure]]]:
    """What is measured, by name."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("gradio_*.py"))
    return {name.removeprefix("gradio_"): import_module(f"tests.bench.{name}").figures for name in found}


def main() -> None:
    """Measure and write."""
    chosen = os.environ.get("PART")
    wanted = {name: measure for name, measure in parts().items() if chosen in (None, "", name)}
    if not wanted:
        raise SystemExit(f"there is no part {chosen}; there are {', '.join(parts())}")
    write_in_parts("gradio", wanted, seeds=[0])


if __name__ == "__main__":
    main()
