"""The bench harness: the written form, intervals that are what they say, and keys of what is kept."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.bench import harness
from tests.bench.source_hash import source_files


def test_written_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setenv("QUICK", "1")
    figures = [
        harness.share("right", 9, 10, note="of ten"),
        harness.figure("claim", np.bool_(True)),
        harness.p95("page_ms", np.arange(100.0)),
    ]
    path = harness.write("trial", figures, seeds=[0, 1])
    result = json.loads(path.read_text())
    assert list(result) == ["name", "commit", "quick", "machine", "seeds", "figures"]
    assert result["quick"] is True and result["seeds"] == [0, 1] and result["machine"]["cores"] >= 1
    assert all(list(one) == ["id", "value", "interval", "unit", "n", "note"] for one in result["figures"])
    assert result["figures"][1]["value"] is True
    assert "page_ms" in capsys.readouterr().out
    assert (tmp_path / harness.curve("trial", {"step": [1, 2], "loss": [0.5, 0.25]})).read_text().split() == [
        "step,loss",
        "1,0.5",
        "2,0.25",
    ]
    with pytest.raises(ValueError, match="twice"):
        harness.write("trial", [figures[1], figures[1]])
    with pytest.raises(ValueError, match="finite"):
        harness.figure("broken", float("nan"))


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(100):
        low, high = harness.bootstrap(rng.normal(5, 2, 60), draws=200, seed=trial)
        hits += low <= 5 <= high
    assert 88 <= hits <= 100


def test_only_an_interval_that_misses_entirely_fails() -> None:
    measured = harness.figure("rate", 190, (180, 210))
    assert not harness.missed(measured, at_least=200) and harness.missed(measured, at_least=211)
    assert not harness.missed(measured, at_most=185) and harness.missed(measured, at_most=179)
    assert harness.missed(harness.figure("claim", False), at_least=1)


def test_timing_ratio_is_a_over_b() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("a")
        sum(range(400_000))

    def fast() -> None:
        calls.append("b")
        sum(range(4_000))

    ratio = harness.timing_ratio("ratio", slow, fast)
    assert float(ratio.value) > 5 and ratio.n == 9
    assert "".join(calls[2:8]) == "abbaab"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project in small: a bench that imports a package, which finds its parts by name."""
    files = {
        "engine/__init__.py": "",
        "engine/draw.py": "STEPS = 5\n",
        "engine/parts/by_name.py": "RATE = 1\n",
        "engine/weights.safetensors": "1",
        "other/__init__.py": "",
        "tests/__init__.py": "",
        "tests/rows.py": "def rows():\n    from engine import draw\n    return draw.STEPS\n",
        "tests/bench.py": "from tests.rows import rows\n",
        "tests/unrelated.py": "import other\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "build" / "bench")
    monkeypatch.delenv("FRESH", raising=False)
    return tmp_path


def measured(project: Path, settings: object = None, weights: dict[str, str | Path] | None = None) -> bool:
    """Whether a run of the bench in `project` made its result anew."""
    keeper = harness.Keeper("trial", ["tests.bench"], settings, weights, root=project)
    made = []
    if keeper.get("row") is None:
        keeper.keep("row", {"error": 0.5})
        made.append("result")
    keeper.arrays("images", lambda: made.append("images") or {"images": np.zeros(3)})
    if not keeper.folder("run").is_dir():
        keeper.folder("run").mkdir()
        made.append("folder")
    assert keeper.get("row") == {"error": 0.5}
    assert made in ([], ["result", "images", "folder"]), "all of it has one key"
    return bool(made)


@pytest.mark.parametrize("changed", ["engine/draw.py", "engine/parts/by_name.py", "tests/rows.py"])
def test_a_kept_result_is_made_anew_when_the_source_changes(project: Path, changed: str) -> None:
    assert measured(project) and not measured(project)
    before = (project / changed).read_text()
    (project / changed).write_text(before + "# another way\n")
    assert measured(project) and not measured(project)
    (project / changed).write_text(before)
    assert not measured(project), "what the old source made is still there"


def test_source_that_a_bench_does_not_run_is_no_part_of_its_key(project: Path) -> None:
    assert measured(project)
    for name in ("tests/unrelated.py", "other/__init__.py", "engine/draw.pyc"):
        (project / name).write_text("CHANGED = True\n")
    assert not measured(project)


def test_settings_and_weights_are_part_of_the_key(project: Path) -> None:
    weights: dict[str, str | Path] = {"detector": project / "engine", "judge": "ab12"}
    assert measured(project, {"steps": 5}, weights) and not measured(project, {"steps": 5}, weights)
    assert measured(project, {"steps": 6}, weights)
    assert measured(project, {"steps": 5}, weights | {"judge": "cd34"})
    (project / "engine" / "weights.safetensors").write_text("2")
    assert measured(project, {"steps": 5}, weights)
    with pytest.raises(TypeError, match="part of a key"):
        measured(project, {"steps": object()})


def test_fresh_keeps_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(project)
    monkeypatch.setenv("FRESH", "1")
    assert measured(project) and measured(project)
    monkeypatch.delenv("FRESH")
    assert not measured(project)


def test_a_name_is_kept_by_settings_of_its_own(project: Path) -> None:
    keeper = harness.Keeper("trial", ["tests.bench"], root=project)
    keeper.keep("row all", 1, {"updates": 120})
    assert keeper.get("row all", {"updates": 120}) == 1
    assert keeper.get("row all", {"updates": 100}) is None and keeper.get("row all") is None
    folders = {keeper.folder("runs/all", {"updates": n}) for n in (100, 120)} | {keeper.folder("runs/all")}
    assert len(folders) == 3 and all(folder.parent == keeper.place / "runs" for folder in folders)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("trainingfree", {"dataengine", "pipelines", "storage"}),
        ("treatment", {"dataengine"}),
        ("detector", {"dataengine", "pipelines", "storage"}),
    ],
)
def test_the_benches_keys_cover_what_they_import(name: str, packages: set[str]) -> None:
    files = [path.relative_to(harness.ROOT) for path in source_files([f"tests.bench.{name}"], harness.ROOT)]
    assert {path.parts[0] for path in files} - {"tests"} >= packages
    assert Path("tests/bench") / f"{name}.py" in files and Path("tests/bench/harness.py") in files


def test_finished_parts_of_a_full_run_stay_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "build")
    monkeypatch.setattr(harness, "MEASURED", tmp_path / "measured")
    monkeypatch.delenv("QUICK", raising=False)
    monkeypatch.delenv("FRESH", raising=False)
    monkeypatch.setattr(harness, "commit_measured", lambda: "first")

    def broken() -> list[harness.Figure]:
        raise KeyboardInterrupt

    parts = {"rows of seed 0": lambda: [harness.figure("error", 0.5)], "long": broken}
    with pytest.raises(KeyboardInterrupt):
        harness.write_in_parts("trial", parts, [0], key="k1")
    assert not (tmp_path / "measured").exists(), "only FULL=1 leaves anything there"
    monkeypatch.setenv("FULL", "1")
    with pytest.raises(KeyboardInterrupt):
        harness.write_in_parts("trial", parts, [0], key="k1")
    left = tmp_path / "measured" / "trial" / "rows-of-seed-0.json"
    found = json.loads(left.read_text())
    assert [path.name for path in left.parent.iterdir()] == [left.name]
    assert found["figures"][0]["value"] == 0.5 and found["seeds"] == [0] and found["machine"]["load_before"]
    monkeypatch.setattr(harness, "commit_measured", lambda: "second")
    parts["long"] = lambda: [harness.figure("far", 2)]
    harness.write_in_parts("trial", parts, [0], key="k1")
    assert json.loads(left.read_text())["commit"] == "first", "it was measured then"
    whole = json.loads(left.with_name("all.json").read_text())
    assert [one["id"] for one in whole["figures"]] == ["error", "far"] and whole["commit"] == "second"
    harness.write_in_parts("trial", parts, [0], key="k2")
    assert json.loads(left.read_text())["commit"] == "second"


def test_the_commit_says_whether_the_tree_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    clean = harness.commit()
    assert len(clean) == 12
    (tmp_path / "docs" / "measured").mkdir(parents=True)
    (tmp_path / "docs" / "measured" / "trial.json").touch()
    assert harness.commit() == clean, "results are no change of what is measured"
    (tmp_path / "new.py").touch()
    assert harness.commit() == f"{clean}+dirty"
    monkeypatch.setattr(harness, "COMMIT_BEFORE", clean)
    assert harness.commit_measured() == f"{clean}+dirty", "files changed while the bench ran"
