"""Write the folder of a Hugging Face Space that runs the Gradio app."""

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from dataengine.durable import make_folder, write_text
from dataengine.errors import ConfigRefused, InputRefused

PACKAGE = "artifact-clinic"
SOURCES = ("dataengine", "storage", "pipelines", "ui")
README = """---
title: Artifact Clinic
emoji: 🩺
colorFrom: green
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: apache-2.0
short_description: Find, label and treat artifacts of text-to-image models
---
# Artifact Clinic

Finds the artifacts that text-to-image models draw, pixel by pixel; people label the hard cases; the detector
is retrained and the generator treated.

**Where the code comes from.** Artifact Clinic {version} is published in no package index. `app.py` and the
folders `{folders}` are a copy of its source, and the small models in
`dataengine/clinic/weights` are its own (Apache-2.0); `requirements.txt` lists its dependencies.
`clinic space FOLDER` wrote this folder.

**Start it anywhere.** `pip install -r requirements.txt`, then `SPACE_ID=local python app.py` and
http://127.0.0.1:7860. The workspace is the folder `workspace`, or what `CLINIC_WORKSPACE` names; on a Space
that folder is lost at a restart unless it lies on attached storage (`CLINIC_WORKSPACE=/data/workspace`).

**Who gets in.** Everyone who can open the Space may label, retrain and treat; keep it private, or set the
secret `CLINIC_PASSWORD`, and people sign in as `clinic`.

**Hardware.** It runs on “CPU basic”: the embedded clinic's models are tiny, and the small recipe
(`cpu-smoke`) trains or treats within minutes. A GPU of the Space's own is used as it is. ZeroGPU is not: it
lends its GPU to functions of the app's own process, while training and treatment run in the worker's process;
choose CPU basic or a GPU.
"""
ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
IGNORED = "__pycache__/\nworkspace/\n"


def write_space(folder: Path, root: Path) -> Path:
    """Write the Space's files to a new or empty folder; `root` is the folder of `app.py`.

    Raises `InputRefused` for a folder that holds something, `ConfigRefused` where the package's requirements
    are unknown.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRefused(
            f"{folder} holds something already; nothing was overwritten. Name a new or empty folder"
        )
    needed = requirements()
    make_folder(folder)
    for name in SOURCES:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copy(root / "app.py", folder / "app.py")
    write_text(folder / "requirements.txt", "\n".join(needed) + "\n")
    write_text(folder / "README.md", readme())
    write_text(folder / "LICENSE", licence(root))
    write_text(folder / ".gitattributes", ATTRIBUTES)
    write_text(folder / ".gitignore", IGNORED)
    return folder


def requirements() -> list[str]:
    """The package's dependencies without its extras, as pip reads them. Raises `ConfigRefused`."""
    try:
        stated = requires(PACKAGE) or []
    except PackageNotFoundError as error:
        raise ConfigRefused(
            f"{PACKAGE} is not installed here, so its requirements are unknown; install it with pip first"
        ) from error
    return [one for one in stated if "extra ==" not in one]


def licence(root: Path) -> str:
    """The licence's text: beside the sources of a checkout, else in the installed package."""
    file = root / "LICENSE"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return distribution(PACKAGE).read_text("licenses/LICENSE") or ""


def readme() -> str:
    """The README with the Space's settings on top."""
    return README.format(
        gradio=version("gradio"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        version=version(PACKAGE),
        folders="`, `".join(SOURCES),
    )
