"""`clinic check` verifies the installation; `clinic build-clinic` retrains the embedded clinic's models."""

import argparse
import importlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ClinicError, JobFailed
from pipelines.cli.command import Call

if TYPE_CHECKING:
    from pydantic import BaseModel


MARKS = {"ready": "✓", "unused": "·", "broken": "✗"}
LIBRARIES = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "datasets"),
    *("segmentation_models_pytorch", "sqlalchemy", "alembic", "dbos", "gradio", "fastapi", "pycocotools"),
)


def build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("build/clinic"), help="output folder (default: build/clinic)"
    )
    parser.add_argument("--part", action="append", help="train only this part; may be repeated")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, … (default: cpu)")


def build_command(call: Call) -> Any:
    from dataengine.clinic.config import BuildConfig
    from pipelines.services.admin.installation import build_clinic

    given = call.options
    parts = {"parts": tuple(given.part)} if given.part else {}
    config = BuildConfig.model_validate({"device": given.device, **parts})
    build_clinic(config, given.out, call.report)
    call.report.close()
    call.say(f"{', '.join(config.parts)} in {given.out}")
    return {"out": given.out, "parts": config.parts}


def build_config() -> "type[BaseModel]":
    from dataengine.clinic.config import BuildConfig

    return BuildConfig


def check(call: Call) -> Any:
    """Verify everything that an installation needs, and name what is missing for GPU, hub, PostgreSQL, S3 and
    Label Studio. Raises `JobFailed` naming the checks that failed."""
    from pipelines.services.admin.extras import find_extras

    checks = {
        "python": check_python,
        "libraries": check_libraries,
        "device": check_device,
        "clinic weights": check_weights,
        "workspace": lambda: check_workspace(call),
    }
    results: dict[str, str] = {}
    failed = []
    for name, run_check in checks.items():
        try:
            results[name] = run_check()
        except (ClinicError, ImportError, OSError, RuntimeError, ValueError) as error:
            results[name] = " ".join(f"{type(error).__name__}: {error}".split())
            failed.append(name)
        call.say(f"{'✗' if name in failed else '✓'} {name}: {results[name]}")
    for extra in find_extras():
        results[extra.name] = extra.text
        if extra.state == "broken":
            failed.append(extra.name)
        call.say(f"{MARKS[extra.state]} {extra.name}: {extra.text}")
    if failed:
        raise JobFailed("; ".join(f"{name}: {results[name]}" for name in failed))
    return results


def check_python() -> str:
    return f"{platform.python_version()} on {platform.platform()}"


def check_libraries() -> str:
    """Import every library, so that mismatched builds of torch and torchvision are detected here."""
    versions = {name: getattr(importlib.import_module(name), "__version__", "") for name in LIBRARIES}
    return ", ".join(f"{name} {version}".strip() for name, version in versions.items())


def check_device() -> str:
    from pipelines.services.admin import installation

    return f"{installation.check_device()} works"


def check_weights() -> str:
    from pipelines.services.admin.installation import check_clinic_weights

    return f"{', '.join(check_clinic_weights())} match their hashes"


def check_workspace(call: Call) -> str:
    if not call.options.workspace.exists():
        return f"no workspace in {call.options.workspace} yet"
    blob = call.workspace.blobs.put(b"clinic check")
    call.workspace.blobs.get(blob)
    with call.workspace.catalog() as catalog:
        images = catalog.images.count()
    return f"{call.workspace.path} is readable and writable, {images} images"
