"""A Space's folder: what it holds, and that it starts with its own requirements alone (`make test-space`)."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from app import main
from dataengine.errors import InputRefused
from pipelines.services.standalone.space import README, SOURCES, write_space

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS, MAP_SECONDS = 300.0, 300.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_space(tmp_path_factory.mktemp("space") / "space", ROOT)


def test_the_readme_tells_the_space_what_to_run(folder: Path) -> None:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and settings["sdk_version"] == version("gradio")
    assert (folder / settings["app_file"]).is_file() and settings["license"] == "apache-2.0"
    assert settings["python_version"].startswith("3.") and len(settings["short_description"]) <= 60
    assert "published in no package index" in text and "ZeroGPU" in text and "CLINIC_PASSWORD" in text


def test_the_requirements_are_ours_without_extras(folder: Path) -> None:
    lines = (folder / "requirements.txt").read_text().splitlines()
    names = {Requirement(line).name for line in lines}
    assert {"torch", "gradio", "diffusers", "SQLAlchemy"} <= names and "pytest" not in names
    assert "artifact-clinic" not in names and not [line for line in lines if "extra" in line]


def test_the_sources_and_weights_are_whole(folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(SOURCES)
    assert not list(folder.rglob("__pycache__")) and (folder / "app.py").is_file()
    weights = folder / "dataengine" / "clinic" / "weights"
    for line in (weights / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split()
        assert hashlib.sha256((weights / name).read_bytes()).hexdigest() == expected
    assert "filter=lfs" in (folder / ".gitattributes").read_text()
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text() and README.count("{") == 4


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputRefused, match="holds something already"):
        write_space(tmp_path, ROOT)
    assert main(["space", str(tmp_path)]) == 1 and "new or empty folder" in capsys.readouterr().err
    with pytest.raises(InputRefused):
        write_space(tmp_path / "kept.txt", ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("space", [True, False])
def test_without_a_command_a_space_starts_and_anything_else_prints_help(
    space: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import app

    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setattr(app, "run_space", lambda: 0)
    monkeypatch.setenv("SPACE_ID", "me/clinic") if space else monkeypatch.delenv("SPACE_ID", raising=False)
    if space:
        assert main() == 0
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "usage: clinic" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def python(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with what the Space asks for, in the versions that we test."""
    made = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(made, with_pip=True)
    install = [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*install, "-c", ROOT / "constraints.txt", "-r", folder / "requirements.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return made / "bin" / "python"


@pytest.fixture(scope="module")
def started(folder: Path, python: Path) -> Iterator[str]:
    """`python app.py` in the Space's folder; yields its address."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CLINIC_"))}
    settings = kept | {
        "SPACE_ID": "me/clinic",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=settings, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.space
@pytest.mark.timeout(1800)
def test_it_starts_with_its_own_requirements_alone(started: str, folder: Path) -> None:
    from gradio_client import Client, handle_file

    client = connect(started)
    picture = folder / "example.png"
    write_picture(picture)
    found = client.predict([handle_file(picture)], None, api_name="/diagnose")
    assert found[-2]["data"][0][0] == "example.png" and "small drawings" in found[0]
    end = time.monotonic() + MAP_SECONDS
    while True:
        value, lead = client.predict(api_name="/next_image")
        if value is not None or time.monotonic() > end:
            break
        time.sleep(3)
    assert value is not None and "waiting" in lead
    client.predict(api_name="/submit_clean")
    other = Client(started, download_files=False, verbose=False)
    assert other.predict(api_name="/next_image")[0] is not None
    names = client.view_api(return_format="dict")["named_endpoints"]  # type: ignore[index]
    assert "/start_training" in names and "/add_person" not in names


def connect(url: str) -> "object":
    from gradio_client import Client

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return Client(url, download_files=False, verbose=False)
        except Exception:
            assert time.monotonic() < end, "the Space did not start"
            time.sleep(0.5)


def write_picture(path: Path) -> None:
    from dataengine.clinic.world import stream
    from dataengine.images import encode_png

    path.write_bytes(encode_png(stream("validation", flawed=1.0)[0].image))
