"""The bench harness: the written form, and intervals that are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.bench import harness


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
