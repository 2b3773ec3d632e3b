"""`python -m ui.client.wheel FOLDER`: the client as the wheel `clinic-client`, for httpx and NumPy only."""

import sys
from pathlib import Path

from ui.web.wheels import ROOT, begin_sources, build_wheel, copy_modules

HERE = Path(__file__).parent
TEMPLATE = HERE / "wheel_template"
PACKAGE = "clinic_client"
SHARED = ("dataengine/errors.py", "dataengine/bounds.py", "dataengine/masks.py")
"""What the client needs of ours; of these it uses only what needs NumPy alone."""


def write_sources(folder: Path) -> None:
    """Write the wheel's source tree into an empty folder."""
    package = begin_sources(folder, PACKAGE, TEMPLATE)
    own = (path.relative_to(ROOT).as_posix() for path in HERE.glob("*.py") if path.name != "wheel.py")
    copy_modules((*SHARED, *own), package, ("dataengine", "ui.client"))


def build(target: Path) -> Path:
    """Build the wheel into `target`; its path. Raises `subprocess.CalledProcessError`."""
    return build_wheel(write_sources, PACKAGE, target)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
