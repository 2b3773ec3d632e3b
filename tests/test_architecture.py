"""House rules a machine can check: who imports whom, one home per library, small modules, a light web."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("dataengine", "storage", "pipelines", "ui")
MOST_FILES = 25

ORDER = {
    "": "dataengine storage pipelines ui app",
    "dataengine": "errors outgoing devices licences bounds safetensors_header model_files state_dicts "
    "durable csv_files statistics coordinates masks images records defects config injection curation quality "
    "diagnosis treatment clinic integrations api",
    "dataengine/integrations": "rewards diffusers_callbacks comfyui",
    "dataengine/clinic": "drawing flaws scenes subjects world lessons readers models vocabulary config "
    "training parts oracles build",
    "dataengine/treatment": "config presets families sampling objectives tuning refining guided_sampling "
    "repair",
    "dataengine/treatment/families": "autoencoder catalog rows diffusion lora quantization own_call "
    "weight_files components ddim family recorded schedulers dit stable_diffusion unconditional "
    "latent_unconditional flux stock stable_diffusion_xl selfcheck shapes guided_diffusion loading "
    "single_file inspection",
    "pipelines": "config runtime generators detectors selections stages round recipes exchange reports "
    "repair jobs services worker demo evidence cli",
    "pipelines/exchange": "prompts metadata labels importer safe_files prompt_sets import_options shapes "
    "outlines label_studio readers formats public_sets writers",
    "pipelines/services": "schemas names queue rounds jobs inference agreement gold annotation triage "
    "reviews categories benchmarks detectors generators endpoints sign_on locations training_free "
    "training_preview preflight model_card round_options runs training images studies todo exchange "
    "operation admin standalone",
    "pipelines/evidence": "config schema journal machine plan parts collect page run",
    "storage": "addresses locations tables prompt_search migrations repositories engine catalog passwords "
    "accounts stores migrate workspace references identity job_queue maintenance opening queries",
    "storage/migrations": "env versions",
    "ui": "config web client mcp runs home account reference importing annotate curate train treat rounds "
    "study admin gradio label_studio desks server",
    "ui/client": "transport records jobs images annotation uploads training results clinic wheel",
    "ui/mcp": "pictures tools server",
    "ui/gradio": "values assets mask_editor wheel context runs tabs app desk space",
}
"""The rooms and files of every folder that has rooms, from the lowest up: each may import those before it.
Folders of files alone need no order; there, too, nothing may import in a circle."""

ALLOWED = {
    "dataengine": ("dataengine",),
    "storage": (
        "storage",
        "dataengine.records",
        "dataengine.masks",
        "dataengine.errors",
        "dataengine.bounds",
        "dataengine.durable",
        "dataengine.config",
    ),
    "pipelines": ("pipelines", "dataengine", "storage"),
    "ui": (
        "ui",
        "pipelines.services",
        "storage.queries",
        "storage.workspace",
        "storage.opening",
        "storage.catalog",
        "storage.accounts",
        "storage.passwords",
        "dataengine.records",
        "dataengine.csv_files",
        "dataengine.images",
        "dataengine.masks",
        "dataengine.errors",
        "dataengine.bounds",
    ),
}
"""What a layer may import of ours; every `config` module is open to `ui` and `pipelines/cli` as well."""

COMMANDS_ALLOWED = (
    "pipelines.cli",
    *ALLOWED["ui"][1:],
    "pipelines.recipes",
    # The table of import formats, which the help of `clinic import` prints.
    "pipelines.exchange.formats",
    # The doors of `worker/` that start a worker or run a stage in this process.
    "pipelines.worker.worker",
    "pipelines.worker.supervisor",
    "pipelines.worker.local_runner",
    "pipelines.worker.ray_shards",
    # The whole of `clinic evidence`, which puts services and a worker's rounds in a row.
    "pipelines.evidence",
)
"""What `pipelines/cli` may import of ours besides `config` modules."""

HOME = {
    "gradio": "ui",
    "fastmcp": "ui/mcp",
    "fastapi": "ui",
    "starlette": "ui",
    "uvicorn": "ui",
    "prometheus_client": "ui",
    "label_studio_sdk": "pipelines/exchange",
    "datasets": "pipelines/exchange",
    "sqlalchemy": "storage",
    "alembic": "storage",
    "diffusers": "dataengine",
    "peft": "dataengine",
    "segmentation_models_pytorch": "dataengine",
    "open_clip": "dataengine/quality",
    "dbos": "pipelines",
    "ray": "pipelines",
}
ORACLES = "dataengine.clinic.oracles"
MAY_IMPORT_ORACLES = ("dataengine/clinic/", "pipelines/demo/simulated_annotators.py", "pipelines/demo/run.py")


def modules() -> list[Path]:
    return sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every imported dotted name with its line, in functions too; `from a import b` gives `a.b`."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
    return tuple(found)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def broken_layers(path: Path, allowed: tuple[str, ...], configs: bool) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for name, line in imports(path)
        if name.split(".")[0] in (*LAYERS, "app", "tests")
        and not within(name, allowed)
        and not (configs and "config" in name.split(".")[1:])
    ]


def test_layers_import_only_what_they_may() -> None:
    bad = []
    for path in modules():
        layer = path.relative_to(ROOT).parts[0]
        bad += broken_layers(path, ALLOWED[layer], configs=layer == "ui")
    assert not bad, "\n".join(bad)


def test_commands_use_services_like_the_desks() -> None:
    bad = [
        b
        for path in (ROOT / "pipelines/cli").glob("*.py")
        for b in broken_layers(path, COMMANDS_ALLOWED, True)
    ]
    assert not bad, "\n".join(bad)


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    (ROOT / "build").mkdir(exist_ok=True)
    probe = ROOT / "build" / "architecture_probe.py"
    probe.write_text(
        "from pipelines.worker.worker import Worker\n"
        "import storage.catalog\nfrom dataengine.config import Config\n"
    )
    try:
        found = broken_layers(probe, ALLOWED["ui"], configs=True)
        assert [b.split(" imports ")[1] for b in found] == ["pipelines.worker.worker.Worker"]
    finally:
        probe.unlink()


Arrows = dict[str, dict[tuple[str, str], list[str]]]
"""Folder -> (importing child, imported child) -> where."""


def arrows(root: Path, paths: Iterable[Path]) -> Arrows:
    """Who imports whom inside every folder, between its files and folders; a package's own file counts as
    one named `__init__`."""
    dotted = {".".join(p.relative_to(root).with_suffix("").parts): p for p in paths}
    found: Arrows = {}
    for module, path in dotted.items():
        for name, line in imports(path):
            target = _module_of(name, dotted)
            if target is None or target == module:
                continue
            a, b = module.split("."), target.split(".")
            depth = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
            folder = "/".join(a[:depth])
            pair = (a[depth], b[depth])
            found.setdefault(folder, {}).setdefault(pair, []).append(f"{module}:{line} imports {target}")
    return found


def _module_of(name: str, dotted: Mapping[str, Path]) -> str | None:
    """The module that an imported name lies in; a package's name stands for its `__init__`."""
    while name:
        for known in (name, f"{name}.__init__"):
            if known in dotted:
                return known
        name = name.rpartition(".")[0]
    return None


def circles(found: Arrows) -> list[str]:
    bad = []
    for folder, pairs in found.items():
        graph: dict[str, set[str]] = {}
        for importer, imported in pairs:
            graph.setdefault(importer, set()).add(imported)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            bad.append(f"{folder or 'the top'}: {' <- '.join(error.args[1])}")
    return bad


def upward(found: Arrows, order: Mapping[str, str]) -> list[str]:
    bad = []
    for folder, rooms in order.items():
        rank = {name: place for place, name in enumerate(["__init__", *rooms.split()])}
        for (importer, imported), where in found.get(folder, {}).items():
            if unknown := {importer, imported} - rank.keys():
                bad.append(f"{folder}: write {', '.join(unknown)} into ORDER")
            elif rank[imported] > rank[importer] and imported != "__init__" and importer != "__init__":
                bad += [f"upward: {each}" for each in where]
    return bad


@cache
def product_arrows() -> Arrows:
    return arrows(ROOT, [*modules(), ROOT / "app.py"])


def test_no_folder_imports_in_a_circle() -> None:
    assert not circles(product_arrows()), "\n".join(circles(product_arrows()))


def test_imports_point_downward_only() -> None:
    bad = upward(product_arrows(), ORDER)
    assert not bad, "\n".join(bad)


def test_every_folder_with_rooms_has_its_order() -> None:
    rooms = {
        parent.relative_to(ROOT).as_posix()
        for path in modules()
        if (parent := path.parent.parent) != ROOT and parent.is_relative_to(ROOT)
    }
    assert rooms - ORDER.keys() == set(), "write the order of these folders into ORDER"


def planted(root: Path, files: Mapping[str, str]) -> Arrows:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return arrows(root, sorted(root.rglob("*.py")))


def test_a_planted_circle_and_a_planted_upward_import_are_seen(tmp_path: Path) -> None:
    circle = planted(
        tmp_path / "circle",
        {
            "pipelines/worker/a.py": "def f():\n    from pipelines.worker.b import g\n",
            "pipelines/worker/b.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n"
            "    from pipelines.worker.a import f\n",
        },
    )
    assert len(circles(circle)) == 1
    up = planted(
        tmp_path / "up",
        {
            "pipelines/runtime/a.py": "def f():\n    from pipelines.worker.b import g\n",
            "pipelines/worker/b.py": "g = 1\n",
        },
    )
    assert not circles(up)
    assert upward(up, ORDER) == ["upward: pipelines.runtime.a:2 imports pipelines.worker.b"]


def test_folders_stay_small() -> None:
    counts = {
        folder.relative_to(ROOT).as_posix(): len([p for p in folder.glob("*.py") if p.name != "__init__.py"])
        for folder in {path.parent for path in modules()}
    }
    full = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert not full, f"at most {MOST_FILES} files to a folder: {full}"


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
        ("ui.server", ("torch", "transformers", "diffusers", "gradio")),
        ("app", ("torch", "transformers", "diffusers", "gradio", "dbos", "sqlalchemy")),
        ("storage.workspace", ("torch", "gradio", "dbos")),
        ("pipelines.services.jobs", ("torch", "gradio")),
        ("pipelines.recipes", ("torch", "gradio")),
    ],
)
def test_heavy_libraries_stay_unloaded(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing {module} loads {done.stdout.split()}"


def test_services_load_nothing_heavy() -> None:
    services = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules()
        if path.is_relative_to(ROOT / "pipelines/services") and path.name != "__init__.py"
    ]
    heavy = ("torch", "transformers", "diffusers", "gradio", "fastapi", "dbos")
    code = f"import sys, {', '.join(services)}; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing services loads {done.stdout.split()}"


def test_images_are_decoded_in_one_place() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path != ROOT / "dataengine/images.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "open"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("Image", "Picture")
    ]
    assert not bad, f"decode through dataengine.images, which keeps the bounds: {bad}"
