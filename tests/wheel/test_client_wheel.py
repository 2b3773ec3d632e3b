"""The wheel `clinic-client` where there are httpx and NumPy only, against a live server."""

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.workspace import Workspace
from ui.client import wheel

ROOT = Path(__file__).resolve().parents[2]
FRESH = ROOT / "build" / "client-venv" / "bin" / "python"
pytestmark = [pytest.mark.clientwheel, pytest.mark.timeout(600)]


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CLINIC_"))}
    done = subprocess.run([FRESH, *words], cwd=cwd, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed without any index: what it needs beyond httpx and NumPy would be missing."""
    assert FRESH.exists(), "make test-client-wheel makes the environment"
    folder = tmp_path_factory.mktemp("wheel")
    path = wheel.build(folder)
    run("-m", "pip", "install", "--quiet", "--no-index", "--force-reinstall", "--no-deps", path, cwd=folder)
    run("-m", "pip", "check", cwd=folder)
    return path


@pytest.fixture
def environment(live: tuple[str, Workspace], token_of: Callable[..., str]) -> dict[str, str]:
    return {"CLINIC_URL": live[0], "CLINIC_TOKEN": token_of("curator")}


def test_it_holds_one_package_and_asks_for_httpx_and_numpy(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {wheel.PACKAGE}
    needs = [line for line in text.splitlines() if line.startswith("Requires-Dist")]
    assert needs == ["Requires-Dist: httpx>=0.28", "Requires-Dist: numpy>=2.0"]
    assert "clinic_client/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in names)


def test_it_loads_nothing_of_the_clinic(built: Path, tmp_path: Path) -> None:
    code = (
        "import clinic_client, importlib.util as u;"
        "print([m for m in ('torch', 'scipy', 'pydantic', 'dataengine', 'ui') if u.find_spec(m)])"
    )
    assert run("-c", code, cwd=tmp_path) == "[]"


def test_the_example_of_its_readme_is_three_lines_that_run(
    built: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    text = (wheel.TEMPLATE / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert len(list(filter(None, example.splitlines()))) == 3
    shown = run("-c", example, cwd=tmp_path, **environment)
    assert "a drawn hand, number 3" in shown


def test_a_label_map_makes_the_round(built: Path, environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import numpy as np; from clinic_client import Clinic, MaskRefused\n"
        "with Clinic() as clinic:\n"
        "    image = next(clinic.images.list())\n"
        "    labels = np.zeros((image.height, image.width), np.uint8); labels[3:9, 4:20] = 1\n"
        "    revision = clinic.labels.put(image.id, labels)\n"
        "    same = (clinic.labels.get(image.id) == labels).all()\n"
        "    print(revision, same, clinic.images.map(image.id).dtype)\n"
        "    try: clinic.labels.put(image.id, labels[1:])\n"
        "    except MaskRefused as error: print(error)\n"
    )
    shown = run("-c", code, cwd=tmp_path, **environment)
    assert shown.startswith("1 True uint8\nlabel map is (63, 64)")
