"""The page of an evidence: self-contained, plain sentences, escaped, no person and no place."""

import re
from pathlib import Path

import pytest

from pipelines.evidence.page import WIDEST, position, render, sentences
from storage.opening import create_workspace
from tests.pipelines.evidence import samples


@pytest.fixture
def html(tmp_path: Path) -> str:
    work = samples.work(create_workspace(tmp_path / "w"), samples.request(tmp_path / "out"))
    return render(work, samples.evidence(notes=["<script>alert(1)</script>"]))


def test_the_page_needs_nothing_else(html: str) -> None:
    assert not re.search(r"<script|(?:src|href)=[\"'](?!data:image/)|url\(|@import", html)
    assert "prefers-color-scheme:dark" in html and "&lt;script&gt;alert(1)" in html


def test_it_says_no_place_and_no_person(html: str, tmp_path: Path) -> None:
    assert str(tmp_path) not in html and str(Path.home()) + "/" not in html
    assert "simulated-ada" not in html and "rater-" not in html


def test_every_figure_stands_with_its_interval(html: str) -> None:
    text = re.sub(r"<[^>]+>", " ", html)
    for shown in ("0.25 to 0.80", "-0.050 to +0.010", "0.51 to 0.90", "61.00", "no artifacts in the base"):
        assert shown in text, shown
    assert "Not drawn: 8 bits." in text


def test_the_study_is_the_first_sentence() -> None:
    said = sentences(samples.evidence())
    assert said[0].startswith("Blind, 11 raters preferred the treated image in 75% of 16 decided pairs")
    assert "0.50 times as frequent (95 % interval 0.25 to 0.80; 20 held-out pairs)" in said[1]
    assert "held in 1 of 2 cells" in " ".join(said) and "200 labels by people took 61.5 minutes" in said[-1]


def test_a_study_without_votes_is_said_to_have_none() -> None:
    nobody = samples.SAMPLE["study"] | {"votes": 0, "raters": 0}
    assert sentences(samples.evidence(study=nobody))[0] == (
        "Nobody has compared the 20 pairs of the blind study yet."
    )


def test_a_run_that_waits_says_so(tmp_path: Path) -> None:
    empty = dict.fromkeys(("labels", "detectors", "treatment", "under", "study", "model", "photos"))
    waiting = samples.evidence(state="waiting for labels", **empty)
    assert sentences(waiting) == ["The work waits for people to mark images; nothing is treated yet."]
    work = samples.work(create_workspace(tmp_path / "w"), samples.request(tmp_path / "out"))
    assert "a generator" in render(work, waiting)


def test_nothing_kept_says_why() -> None:
    kept_none = samples.SAMPLE["treatment"] | {"kept": None, "stopped": "detail fell", "figures": {}}
    said = sentences(samples.evidence(treatment=kept_none, study=None, under=None, state="nothing kept"))
    assert said[0] == "No update was better within the guard's limits (detail fell)."


def test_bars_end_at_the_widest_ratio() -> None:
    assert [position(one) for one in (-1.0, 0.0, WIDEST / 2, 9.0)] == [0.0, 0.0, 50.0, 100.0]
