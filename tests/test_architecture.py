"""House rules a machine can check: who imports whom, one home per library, small modules, a light web."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("dataengine", "storage", "pipelines", "ui")

ALLOWED = {
    "dataengine": ("dataengine",),
    "storage": (
        "storage",
        "dataengine.records",
        "dataengine.masks",
        "dataengine.errors",
        "dataengine.config",
    ),
    "pipelines": ("pipelines", "dataengine", "storage"),
    "ui": (
        "ui",
        "pipelines.requests",
        "pipelines.exchange.requests",
        "pipelines.preflight",
        "pipelines.promote",
        "pipelines.runs",
        "storage.queries",
        "storage.workspace",
        "storage.catalog",
        "storage.accounts",
        "dataengine.records",
        "dataengine.masks",
        "dataengine.errors",
        "dataengine.curation.agreement",
        "dataengine.curation.balance",
        "dataengine.curation.outliers",
        "dataengine.curation.stratify",
        "dataengine.quality.study",
    ),
}
"""What a layer may import of ours; every `config` module is open to `ui` as well."""

HOME = {
    "gradio": "ui",
    "fastapi": "ui",
    "starlette": "ui",
    "uvicorn": "ui",
    "label_studio_sdk": "pipelines/exchange",
    "sqlalchemy": "storage",
    "alembic": "storage",
    "diffusers": "dataengine",
    "peft": "dataengine",
    "segmentation_models_pytorch": "dataengine",
    "dbos": "pipelines",
    "ray": "pipelines",
}
ORACLES = "dataengine.clinic.oracles"
MAY_IMPORT_ORACLES = ("dataengine/clinic/", "pipelines/simulation.py", "pipelines/demo.py")


def modules() -> list[Path]:
    return sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every imported dotted name with its line; `from a import b` gives `a.b`."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
    return tuple(found)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def broken_layers(path: Path, layer: str) -> list[str]:
    bad = []
    for name, line in imports(path):
        if name.split(".")[0] not in (*LAYERS, "app", "tests") or within(name, ALLOWED[layer]):
            continue
        parts = name.split(".")
        if layer == "ui" and "config" in parts[1:]:
            continue
        bad.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return bad


def test_layers_import_only_what_they_may() -> None:
    bad = [b for p in modules() for b in broken_layers(p, p.relative_to(ROOT).parts[0])]
    assert not bad, "\n".join(bad)


def test_a_forbidden_import_would_be_seen() -> None:
    (ROOT / "build").mkdir(exist_ok=True)
    probe = ROOT / "build" / "architecture_probe.py"
    probe.write_text(
        "from pipelines.worker import Worker\nimport storage.catalog\nfrom dataengine.config import Config\n"
    )
    try:
        assert [b.split(" imports ")[1] for b in broken_layers(probe, "ui")] == ["pipelines.worker.Worker"]
    finally:
        probe.unlink()


def test_each_library_has_one_home() -> None:
    bad = []
    for path in [*modules(), ROOT / "app.py"]:
        where = path.relative_to(ROOT).as_posix()
        for name, line in imports(path):
            home = HOME.get(name.split(".")[0])
            if home and not where.startswith(home + "/"):
                bad.append(f"{where}:{line} imports {name}, whose home is {home}/")
    assert not bad, "\n".join(bad)


def test_nothing_in_the_loop_sees_the_oracles() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules()
        for name, line in imports(path)
        if within(name, (ORACLES,)) and not path.relative_to(ROOT).as_posix().startswith(MAY_IMPORT_ORACLES)
    ]
    assert not bad, "\n".join(bad)


def test_only_the_tests_import_the_composition_root() -> None:
    assert not [p for p in modules() if any(name.split(".")[0] in ("app", "tests") for name, _ in imports(p))]


def test_modules_stay_short() -> None:
    long = {
        p.relative_to(ROOT).as_posix(): n for p in modules() if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long, f"split these before 500 lines: {long}"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ui.server", ("torch", "transformers", "diffusers")),
        ("app", ("torch", "transformers", "diffusers", "gradio", "dbos", "sqlalchemy")),
        ("storage.workspace", ("torch", "gradio", "dbos")),
        ("pipelines.requests", ("torch", "gradio")),
        ("pipelines.recipes", ("torch", "gradio")),
    ],
)
def test_heavy_libraries_stay_unloaded(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing {module} loads {done.stdout.split()}"
