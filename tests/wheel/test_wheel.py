"""The built wheel in an environment of its own, outside the checkout: the demo's smallest round, from there.

The heavy dependencies are those of this environment, by a path file; ours come from the wheel alone.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("dataengine", "storage", "pipelines", "ui", "app.py", "pyproject.toml", "README.md", "LICENSE")
pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("artifact_clinic-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.check_output(asked, text=True).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def run(program: Path, *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CLINIC_"))}
    return subprocess.run([program, *words], cwd=cwd, env=kept, capture_output=True, text=True, timeout=1700)


def test_the_wheel_holds_our_packages_and_their_data_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"app.py", "dataengine", "storage", "pipelines", "ui", info}
    assert not [name for name in names if "test" in Path(name).name and name.endswith(".py")]
    for top in ("dataengine", "storage", "pipelines", "ui"):
        ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / top).rglob("*") if path.is_file()}
        lost = {name for name in ours - set(names) if "__pycache__" not in name}
        assert not lost, f"the wheel lacks {sorted(lost)[:5]}"


def test_what_is_imported_is_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = (
        "import app, dataengine, pipelines, storage, ui; print(*(m.__file__ for m in (app, dataengine, ui)))"
    )
    done = run(environment / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(str(environment.parent) in file for file in done.stdout.split())
    done = run(
        environment / "python", "-c", "from dataengine import Detector; Detector.load('clinic')", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_the_smallest_demo_runs_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "clinic", "demo", "--recipe", "cpu-smoke", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert (tmp_path / result["folder"] / "report.html").is_file() and result["report"]
    done = run(environment / "clinic", "status", "--json", cwd=tmp_path)
    assert [row["state"] for row in json.loads(done.stdout)["rounds"]] == ["done"], done.stdout
