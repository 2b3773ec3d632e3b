"""A program in a process of its own that cannot import our packages, as other people run what we export."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

OURS = ("dataengine", "storage", "pipelines", "ui", "app", "tests")
BLOCKED = f"""
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OURS!r} and path is None:
            raise ImportError(name + " is ours, and not installed here")

sys.meta_path.insert(0, Blocked())
"""


def run_without_us(program: str, folder: Path) -> Any:
    """The JSON that the program prints last, run in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + textwrap.dedent(program)],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
