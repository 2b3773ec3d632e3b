"""`python -m ui.gradio.wheel FOLDER`: the mask editor as the wheel `gradio-artifact-mask`.

Its modules are copies of ours under another package name, its script and style what `assets` makes of the
annotation page; nothing is written twice.
"""

import sys
from pathlib import Path

from ui.gradio import assets
from ui.web.wheels import begin_sources, build_wheel, copy_modules

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
    package = begin_sources(folder, PACKAGE, TEMPLATE)
    (package / "static").mkdir()
    copy_modules(MODULES, package, ("dataengine", "ui.gradio"))
    for name in ASSET_NAMES:
        (package / "static" / f"{name}.txt").write_text(getattr(assets, name)(), encoding="utf-8")
    (package / "assets.py").write_text(ASSETS + "".join(ASSET.format(name=name) for name in ASSET_NAMES))
    (package / "__init__.py").write_text(INIT)


def build(target: Path) -> Path:
    """Build the wheel into `target`; its path. Raises `subprocess.CalledProcessError`."""
    return build_wheel(write_sources, PACKAGE, target)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
