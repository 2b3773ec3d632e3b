"""`python -m ui.gradio.wheel FOLDER`: the mask editor as the wheel `gradio-artifact-mask`.

Its modules are copies of ours under another package name, its script and style what `assets` makes of the
annotation page; nothing is written twice.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ui.gradio import assets

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).parent / "wheel_template"
PACKAGE = "gradio_artifact_mask"
MODULES = (
    "dataengine/errors.py",
    "dataengine/bounds.py",
    "dataengine/masks.py",
    "dataengine/images.py",
    "ui/gradio/values.py",
    "ui/gradio/mask_editor.py",
)
"""What the component needs of ours; each needs Gradio, NumPy and Pillow only."""

OURS = re.compile(r"^(\s*from )(?:dataengine|ui\.gradio)(?=[. ])", re.MULTILINE)
INIT = '''"""Draw pixel label maps in Gradio."""

from gradio_artifact_mask.mask_editor import ArtifactMaskEditor, MaskEditorValue

__all__ = ["ArtifactMaskEditor", "MaskEditorValue"]
'''
ASSETS = '''"""Markup, style and script of the mask editor, made when the wheel was built."""

from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
'''
ASSET = '''

@cache
def {name}() -> str:
    """As built."""
    return (STATIC / "{name}.txt").read_text(encoding="utf-8")
'''
ASSET_NAMES = ("html", "css", "javascript", "head")


def write_sources(folder: Path) -> None:
    """Write the wheel's source tree into an empty folder."""
    package = folder / PACKAGE
    (package / "static").mkdir(parents=True)
    for file in (*TEMPLATE.iterdir(), ROOT / "LICENSE"):
        shutil.copy(file, folder / file.name)
    for module in MODULES:
        source = (ROOT / module).read_text(encoding="utf-8")
        (package / Path(module).name).write_text(OURS.sub(rf"\1{PACKAGE}", source), encoding="utf-8")
    for name in ASSET_NAMES:
        (package / "static" / f"{name}.txt").write_text(getattr(assets, name)(), encoding="utf-8")
    (package / "assets.py").write_text(ASSETS + "".join(ASSET.format(name=name) for name in ASSET_NAMES))
    (package / "__init__.py").write_text(INIT)
    (package / "py.typed").touch()


def build(target: Path) -> Path:
    """Build the wheel into `target`; its path. Raises `subprocess.CalledProcessError`."""
    with tempfile.TemporaryDirectory() as name:
        write_sources(Path(name))
        options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", target, name], check=True)
    (built,) = target.glob(f"{PACKAGE}-*.whl")
    return built


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
