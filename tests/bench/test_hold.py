"""The bench of what must hold: one file of all parts, each of which can be measured alone."""

import json
import types
from pathlib import Path
from typing import Any

import pytest

from tests.bench import harness, hold


def part(value: float | Exception) -> types.SimpleNamespace:
    def figures() -> list[harness.Figure]:
        if isinstance(value, Exception):
            raise value
        return [harness.figure(f"figure{value:.0f}", value, (0.0, 9.0))]

    return types.SimpleNamespace(figures=figures)


def written(folder: Path) -> dict[str, float]:
    return {one["id"]: one["value"] for one in json.loads((folder / "hold.json").read_text())["figures"]}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The modules of the parts that are there, by name."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(hold.importlib.util, "find_spec", lambda name: found.get(name.partition("hold_")[2]))
    monkeypatch.setattr(hold.importlib, "import_module", lambda name: found[name.partition("hold_")[2]])
    monkeypatch.delenv("PART", raising=False)
    return found


def test_a_part_alone_keeps_the_others_of_the_same_commit(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts |= {"people": part(1), "power": part(2)}
    assert hold.main() == 0
    assert written(tmp_path) == {"figure1": 1, "figure2": 2}
    assert "part faults is not built yet" in capsys.readouterr().out
    monkeypatch.setenv("PART", "power")
    parts["power"] = part(3)
    assert hold.main() == 0
    assert written(tmp_path) == {"figure1": 1, "figure3": 3}
    monkeypatch.setattr(hold, "commit_measured", lambda: "another")
    assert hold.main() == 0
    assert written(tmp_path) == {"figure3": 3}


def test_a_part_that_fails_has_no_figures_and_says_so(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts |= {"people": part(RuntimeError("the control held")), "power": part(2)}
    assert hold.main() == 1
    assert written(tmp_path) == {"figure2": 2}
    assert "failed, and without figures: people" in capsys.readouterr().out


def test_an_unknown_part_is_refused(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PART", "everything")
    with pytest.raises(SystemExit, match="the parts are people, power"):
        hold.main()
