"""compose.yaml and Dockerfile against what they start: our own command line, environment names, extras and
files. Docker is not needed: both are read by hand, so this proves no build."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
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
    services = compose["services"].items()
    return {name: one for name, one in services if one.get("image", "").startswith("artifact-clinic")}


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
        if options.command == "worker":
            assert options.grace < float(service["stop_grace_period"].removesuffix("s"))
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
        named = {filled_in(volume).partition(":")[0] for volume in service.get("volumes", [])}
        assert named <= set(compose["volumes"])
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


# ---- the Dockerfile, and both by their rules ----

INSTRUCTIONS = {
    *("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"),
    *("ADD", "ENTRYPOINT", "LABEL", "SHELL", "STOPSIGNAL", "ONBUILD"),
}


@dataclass
class Stage:
    """One stage of the Dockerfile: what it starts from, and its instructions in order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """The stages by name, in order."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    found: dict[str, Stage] = {}
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        name, _, rest = line.partition(" ")
        assert name in INSTRUCTIONS, f"{name} is no instruction of a Dockerfile"
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            assert stage and stage not in found, "every stage has a name of its own"
            found[stage] = Stage(base)
            current = found[stage]
        else:
            current.steps.append((name, rest.strip()))
    return found


def inherited(stages: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    """The instructions of a stage after those of the stages that it starts from."""
    stage = stages[name]
    return (inherited(stages, stage.base) if stage.base in stages else []) + stage.steps


def test_both_images_run_as_a_fixed_user_that_is_not_root(stages: dict[str, Stage]) -> None:
    for name in ("cpu", "cuda"):
        steps = inherited(stages, name)
        users = [rest for instruction, rest in steps if instruction == "USER"]
        assert users == ["1000:1000"], "by number, so that Kubernetes can tell that it is not root"
        assert any("useradd --uid 1000 --gid 1000" in rest for _, rest in steps)
        volumes = json.loads(next(rest for instruction, rest in steps if instruction == "VOLUME"))
        made = next(rest for instruction, rest in steps if "install --directory" in rest)
        assert volumes == ["/workspace", "/models", "/cache"] and all(one in made for one in volumes)


def test_images_contain_no_build_tools_context_or_secrets(stages: dict[str, Stage]) -> None:
    assert list(stages)[-1] == "cpu", "the stage that a build without --target makes"
    for name in ("cpu", "cuda"):
        copied = [rest for instruction, rest in inherited(stages, name) if instruction == "COPY"]
        assert copied == [f"--from=build-{name} /opt/clinic /opt/clinic"]
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"(?i)(password|secret|token|api_key)\s*=", text) and "ADD " not in text
    for stage in stages.values():
        assert stage.base in stages or re.fullmatch(r"python:3\.\d+-slim-\w+", stage.base)
        for run in stage.all("RUN"):
            assert "pip install" not in run or "-c constraints.txt" in run


def test_every_file_that_is_copied_exists_and_is_in_the_context(stages: dict[str, Stage]) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*", "nothing gets into the context unless it is named"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        path
        for stage in stages.values()
        for rest in stage.all("COPY")
        if not rest.startswith("--from")
        for path in rest.split()[:-1]
    }
    assert copied == let_in and all((ROOT / path).exists() for path in copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied, "every package is in the image"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= copied
    for name in ("build-cpu", "build-cuda"):
        [install] = stages[name].all("RUN")
        wanted = re.search(r"'\.\[([\w,]+)\]'", install)
        assert wanted and set(wanted[1].split(",")) <= set(project["optional-dependencies"])


def test_the_image_starts_the_app_and_asks_after_its_health(stages: dict[str, Stage]) -> None:
    steps = inherited(stages, "cpu")
    program, *words = json.loads(next(rest for name, rest in steps if name == "CMD"))
    options = build_parser(COMMANDS).parse_args(words)
    assert program == "clinic" and options.command == "app" and options.workspace == "/workspace"
    health = next(rest for name, rest in steps if name == "HEALTHCHECK")
    flags, _, command = health.partition(" CMD ")
    assert all(re.fullmatch(r"--[a-z-]+=\d+s?", flag) for flag in flags.split())
    runs, flag, code = json.loads(command)
    assert (runs, flag) == ("python", "-c") and f":{options.port}/healthz" in code
    assert f"EXPOSE {options.port}" == " ".join(next(step for step in steps if step[0] == "EXPOSE"))
    compile(code, "healthcheck", "exec")


def test_compose_builds_stages_that_there_are(compose: dict[str, Any], stages: dict[str, Stage]) -> None:
    for name, service in ours(compose).items():
        built = service["build"]
        assert built["context"] == "." and built["target"] in ("cpu", "cuda")
        assert set(built.get("args", {})) <= {
            one.partition("=")[0] for stage in stages.values() for one in stage.all("ARG")
        }
        assert (built["target"] == "cuda") == (name == "worker-gpu") == service["image"].endswith("-cuda")
        volumes = {filled_in(volume).split(":")[1] for volume in service.get("volumes", [])}
        assert name == "bucket" or volumes == {"/workspace", "/models", "/cache"}
        assert name == "app" or service["healthcheck"] == {"disable": True}, f"{name} serves no page"


def lists_of(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(one, kind) for one in value)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_table(value: Any) -> bool:
    return isinstance(value, dict)


DURATION = re.compile(r"(\d+(h|m|s|ms|us))+")
SERVICE: dict[str, Callable[[Any], bool]] = {
    "image": is_text,
    "build": is_table,
    "command": lists_of(str),
    "environment": lambda value: is_table(value) and all(isinstance(one, str) for one in value.values()),
    "depends_on": is_table,
    "restart": lambda value: value in ("no", "always", "on-failure", "unless-stopped"),
    "stop_grace_period": lambda value: DURATION.fullmatch(value) is not None,
    "init": lambda value: isinstance(value, bool),
    "ports": lists_of(str),
    "volumes": lists_of(str),
    "profiles": lists_of(str),
    "healthcheck": is_table,
    "deploy": is_table,
}
HEALTH: dict[str, Callable[[Any], bool]] = {
    "test": lambda value: lists_of(str)(value) and value[0] in ("CMD", "CMD-SHELL", "NONE"),
    **dict.fromkeys(("interval", "timeout", "start_period"), lambda value: bool(DURATION.fullmatch(value))),
    "retries": lambda value: isinstance(value, int),
    "disable": lambda value: isinstance(value, bool),
}
CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")


def test_the_keys_that_compose_uses_are_those_of_its_specification(compose: dict[str, Any]) -> None:
    """A hand-made part of the Compose Specification: its own schema is in no package that we install."""
    top = {name for name in compose if not name.startswith("x-")}
    assert top <= {"name", "services", "volumes", "networks", "configs", "secrets"}
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", compose["name"])
    assert all(value is None or is_table(value) for value in compose["volumes"].values())
    for name, service in compose["services"].items():
        for key, value in service.items():
            assert key in SERVICE and SERVICE[key](value), f"{name}: {key}"
        for key, value in service.get("healthcheck", {}).items():
            assert key in HEALTH and HEALTH[key](value), f"{name}: healthcheck {key}"
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS, f"{name} depends on {other}"
            if how["condition"] == "service_healthy":
                assert "test" in compose["services"][other]["healthcheck"], f"{other} tells no health"
        assert set(service.get("build", {})) <= {"context", "dockerfile", "target", "args"}
