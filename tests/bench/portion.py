"""One portion of a bench, by the code of the checkout that is the current folder: `base` runs it for either
commit, as `python -P portion.py NAME OUT`.

A portion is the bench's own quick form, without what is no timing. An older commit's bench starts its server
in its own way; it gets today's, so that both commits are served by the public command line.
"""

import contextlib
import importlib
import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNTIMED = {"annotate": ("tests.bench.annotate_actions", "action_figures")}
"""By bench, the section that counts actions and takes no time."""


def main(name: str, out: str) -> None:
    """Run the bench, its results in the folder `out`."""
    sys.path.insert(0, str(Path.cwd()))
    harness: Any = importlib.import_module("tests.bench.harness")
    harness.RESULTS = Path(out)
    if not (Path.cwd() / "tests" / "bench" / "web_server.py").is_file():
        serve_by_command_line()
    if name in UNTIMED:
        module, section = UNTIMED[name]
        setattr(importlib.import_module(module), section, lambda *given: [])
    with contextlib.suppress(SystemExit):  # what a figure misses says nothing of the comparison
        runpy.run_module(f"tests.bench.{name}", run_name="__main__")


def serve_by_command_line() -> None:
    """Let the benches of a commit before `web_server` start their servers by the command line."""
    spec = importlib.util.spec_from_file_location("web_server", HERE / "web_server.py")
    assert spec and spec.loader
    web_server: Any = importlib.util.module_from_spec(spec)
    sys.modules["web_server"] = web_server
    spec.loader.exec_module(web_server)

    @contextlib.contextmanager
    def annotation_page(workspace: Any) -> Iterator[str]:
        settings = ("desks=false", "login_failures=1000")
        with web_server.server_process(Path.cwd(), workspace.path, *settings) as server:
            yield server.url

    def all_desks(workspace: Any) -> Any:
        return web_server.server_process(Path.cwd(), workspace.path)

    for module, served in (("annotate_server", annotation_page), ("desks_pages", all_desks)):
        old: Any = importlib.import_module(f"tests.bench.{module}")
        old.served = served


if __name__ == "__main__":
    main(*sys.argv[1:])
