"""What the wheel holds: every package that exists, no tests, and the data files that the code reads."""

import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_package_and_tests_are_none() -> None:
    found = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    folders = {
        ".".join(module.parent.relative_to(ROOT).parts)
        for top in ("dataengine", "storage", "pipelines", "ui")
        for module in (ROOT / top).rglob("*.py")
    }
    assert set(found) == folders


def test_every_data_file_is_declared() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for package, globs in patterns.items():
        base = ROOT / package.replace(".", "/")
        assert any(path.is_file() for glob in globs for path in base.glob(glob)), (
            f"{package}: {globs} match nothing"
        )


def test_constraints_pin_every_dependency_and_hold_no_address() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert all("==" in line and "://" not in line and "@" not in line for line in lines)
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"][1:]
    names = {w.split(">")[0].split("[")[0].lower().replace("_", "-") for w in wanted}
    assert names <= pinned, f"constraints.txt lacks {sorted(names - pinned)}"
