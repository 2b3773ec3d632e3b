"""The comparison with another commit: its code is what runs, its worktree goes, times are paired by id."""

import subprocess
from pathlib import Path

import pytest

from tests.bench import base, harness

BENCH = """
import json
import os
from tests.bench import harness
from timed import MILLISECONDS

assert os.environ["QUICK"] == "1"
figures = [
    {"id": "page_ms", "value": MILLISECONDS, "unit": "ms"},
    {"id": "cards", "value": 48, "unit": "images"},
    {"id": "import_per_s", "value": 1000 / MILLISECONDS, "unit": "images/s"},
]
(harness.RESULTS / "trial.json").write_text(json.dumps({"figures": figures}))
"""


def in_git(folder: Path, *command: str) -> str:
    """What git prints in a repository of its own."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run([*git, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose bench takes 20 ms in the first commit and 10 ms in the working tree."""
    root = tmp_path / "project"
    bench = root / "tests" / "bench"
    bench.mkdir(parents=True)
    for file in (bench.parent / "__init__.py", bench / "__init__.py", bench / "web_server.py"):
        file.touch()
    (bench / "harness.py").write_text("RESULTS = None\n")
    (bench / "trial.py").write_text(BENCH)
    (root / "timed.py").write_text("MILLISECONDS = 20\n")
    (root / ".gitignore").write_text("build/\n__pycache__/\n")
    in_git(root, "init", "--quiet")
    in_git(root, "add", ".")
    in_git(root, "commit", "--quiet", "-m", "first")
    (root / "timed.py").write_text("MILLISECONDS = 10\n")
    monkeypatch.setattr(harness, "ROOT", root)
    monkeypatch.setattr(harness, "RESULTS", root / "build" / "bench")
    return root


def test_both_commits_are_measured_in_turns(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", "HEAD")
    monkeypatch.setenv("QUICK", "")
    monkeypatch.setattr(base, "PAIRS", 3)
    measured: list[str] = []
    portion = base.portion

    def counted(checkout: Path, name: str) -> dict[str, object]:
        measured.append("now" if checkout == repository else "base")
        return portion(checkout, name)

    monkeypatch.setattr(base, "portion", counted)
    found = {one.id: one for one in base.over_base("trial")}
    assert measured == ["now", "base", "base", "now", "now", "base"]
    assert set(found) == {"page_ms_over_base", "import_per_s_over_base"}, "a count has no ratio"
    assert found["page_ms_over_base"].value == 0.5 and found["import_per_s_over_base"].value == 2
    assert found["page_ms_over_base"].n == 3 and "3 pairs" in found["page_ms_over_base"].note
    assert found["page_ms_over_base"].interval == (0.5, 0.5)
    assert "below 1 is faster" in found["page_ms_over_base"].note
    assert in_git(repository, "worktree", "list").count("\n") == 1, "the worktree is gone"
    assert not any((repository / "build" / "bench" / "base").iterdir())


def test_a_worktree_that_a_killed_run_left_is_made_anew(repository: Path) -> None:
    with pytest.raises(KeyError), base.checkout("HEAD") as folder:
        in_git(repository, "worktree", "lock", str(folder))  # as if it could not be removed
        (folder / "timed.py").write_text("broken")
        raise KeyError
    in_git(repository, "worktree", "unlock", str(folder))
    with base.checkout("HEAD") as again:
        assert again == folder and (again / "timed.py").read_text() == "MILLISECONDS = 20\n"


def test_a_pair_that_fails_is_left_out_and_none_at_all_is_an_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "timed.py").write_text("raise SystemError('no times today')\n")
    monkeypatch.setenv("BASE", "HEAD")
    monkeypatch.setenv("QUICK", "1")
    with pytest.raises(RuntimeError, match="no pair of trial"):
        base.over_base("trial")
    with pytest.raises(RuntimeError, match="no times today"):
        base.portion(repository, "trial")
    monkeypatch.setenv("BASE", "nothing-of-that-name")
    with pytest.raises(RuntimeError, match="rev-parse"):
        base.over_base("trial")


def test_without_a_base_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASE", raising=False)
    assert base.over_base("trial") == []
