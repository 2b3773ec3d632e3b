"""compose.yaml against what it starts: our own command line, environment names, extras and files."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import COMMANDS
from pipelines.cli.command import with_settings
from pipelines.cli.main import build_parser
from tests.object_store import object_store
from ui.config import ServerConfig

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("storage", "pipelines", "ui", "dataengine")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


def filled_in(text: str) -> str:
    """Text with `${NAME:-default}` replaced by its default, as without an .env file."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose["services"].items() if one.get("image") == "artifact-clinic"}


def test_every_command_is_one_of_ours(compose: dict[str, Any]) -> None:
    services = ours(compose)
    assert set(services) == {"app", "worker", "worker-gpu", "bucket"}
    for name, service in services.items():
        if name == "bucket":
            continue
        program, *words = map(filled_in, service["command"])
        options = build_parser(COMMANDS).parse_args(words)
        assert program == "clinic" and options.command == ("app" if name == "app" else "worker")
        assert any(volume.endswith(f":{options.workspace}") for volume in service["volumes"])
    served = build_parser(COMMANDS).parse_args([filled_in(word) for word in services["app"]["command"][1:]])
    settings = with_settings(ServerConfig(host=served.host).model_dump(mode="json"), served.set)
    assert ServerConfig.model_validate(settings).allowed_hosts == ()
    assert services["app"]["ports"] == [f"127.0.0.1:{served.port}:{served.port}"] and served.no_worker


def test_the_bucket_is_made_before_anything_starts(compose: dict[str, Any]) -> None:
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    program, flag, code = compose["services"]["bucket"]["command"]
    assert (program, flag) == ("python", "-c")
    with object_store():
        exec(code)
    made = re.search(r'makedirs\("(\w+)"', code)
    for name in ("app", "worker", "worker-gpu"):
        service = compose["services"][name]
        assert made and service["environment"]["CLINIC_BLOB_URL"] == f"s3://{made[1]}"
        assert service["depends_on"]["bucket"] == {"condition": "service_completed_successfully"}


def test_nothing_of_ours_runs_as_root(compose: dict[str, Any]) -> None:
    lines = compose["services"]["app"]["build"]["dockerfile_inline"].splitlines()
    assert "USER clinic" in lines and "USER root" not in lines
    assert not any("user" in service or "privileged" in service for service in ours(compose).values())


def test_every_clinic_variable_is_read_somewhere(compose: dict[str, Any]) -> None:
    files = [ROOT / "app.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    known = set(re.findall(r"CLINIC_[A-Z_]+", " ".join(path.read_text() for path in files)))
    for service in ours(compose).values():
        named = {name for name in service["environment"] if name.startswith("CLINIC_")}
        assert named <= known and {"CLINIC_DATABASE_URL", "CLINIC_BLOB_URL"} <= named


def test_images_are_pinned_and_secrets_come_from_outside(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name not in ours(compose):
            tag = service["image"].rpartition(":")[2]
            assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), f"{name} follows a moving tag"
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_URL$", variable) and "http://objects" not in value:
                assert "${" in value or value.startswith("s3://"), f"{name}: {variable} is written down"


def test_what_it_names_exists(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert named <= set(compose["volumes"])
    lines = services["app"]["build"]["dockerfile_inline"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.search(r"\.\[([\w,]+)\]", lines)
    assert wanted and set(wanted[1].split(",")) <= set(extras)
    for copied in re.findall(r"^COPY (.+) \S+$", lines, re.MULTILINE):
        assert all((ROOT / path).exists() for path in copied.split()), copied
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    device = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["capabilities"] == ["gpu"]


def test_the_steps_at_its_top_are_commands_of_ours() -> None:
    text = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    ours = r"(?<=clinic )((?:--workspace \w+ )?(?:users add NAME --role admin|worker))$"
    commands = re.findall(ours, re.sub(r" +\(.*\)", "", text), re.MULTILINE)
    assert len(commands) == 2
    for line in commands:
        build_parser(COMMANDS).parse_args(line.split())
