"""Building a part of this program as a wheel of its own, whose modules are copies under another name."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_modules(modules: Iterable[str], package: Path, rooms: Iterable[str]) -> None:
    """Copy modules, by their paths, into a package; what they import from `rooms` comes from it as well."""
    names = "|".join(re.escape(room) for room in rooms)
    ours = re.compile(rf"^(\s*from )(?:{names})(?=[. ])", re.MULTILINE)
    for module in modules:
        source = (ROOT / module).read_text(encoding="utf-8")
        copied = ours.sub(rf"\1{package.name}", source)
        (package / Path(module).name).write_text(copied, encoding="utf-8")


def begin_sources(folder: Path, package: str, template: Path) -> Path:
    """Write the files of a template and the licence into an empty folder; the package's folder in it."""
    made = folder / package
    made.mkdir(parents=True)
    for file in (*template.iterdir(), ROOT / "LICENSE"):
        shutil.copy(file, folder / file.name)
    (made / "py.typed").touch()
    return made


def build_wheel(write_sources: Callable[[Path], None], package: str, target: Path) -> Path:
    """Build the wheel of a source tree into `target`; its path. Raises `subprocess.CalledProcessError`."""
    with tempfile.TemporaryDirectory() as name:
        write_sources(Path(name))
        options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", target, name], check=True)
    (built,) = target.glob(f"{package}-*.whl")
    return built
