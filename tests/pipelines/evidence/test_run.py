"""The command's course: parts once each, resumed after any failure, timed; the whole of it on the clinic."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import app
from dataengine.clinic.world import stream
from dataengine.errors import ConfigRefused, InputRefused, JobFailed
from dataengine.images import encode_png
from dataengine.records import Report, Vote, no_report
from pipelines.evidence import journal, parts, run
from pipelines.evidence.config import EvidenceRun
from pipelines.evidence.journal import Journal
from pipelines.evidence.parts import Work
from pipelines.evidence.plan import default_settings
from pipelines.evidence.schema import Evidence
from storage.opening import create_workspace, open_workspace
from tests.pipelines.evidence import samples

SMALL = (
    *("--recipe", "cpu-smoke", "--budget", "6", "--set", "draw.prompts_per_category=1"),
    *("--set", 'draw.categories=["hand","sign"]', "--set", "treat.judge.per_category=1"),
    *("--set", "treat.prompts.per_category=1", "--set", "under.conditions.axes=[]"),
    *("--set", "second.training.steps=2", "--set", "second.training.checkpoint_every=2"),
)


def photographs(folder: Path, count: int = 16) -> Path:
    """Clean drawings with captions, as photographs."""
    folder.mkdir()
    for index in range(count):
        drawing = stream("photos")[index]
        (folder / f"{index}.png").write_bytes(encode_png(drawing.image))
        (folder / f"{index}.txt").write_text(drawing.caption)
    return folder


class Course:
    """Parts that only count, of which one may fail or wait."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing = ""
        self.waiting = ""
        names = [name for name, _, _ in parts.PARTS]
        self.parts = tuple((name, name, self._part(name)) for name in names)

    def _part(self, name: str) -> Any:
        def work(work: Work, report: Report) -> Any:
            self.calls.append(name)
            if name == self.failing:
                raise JobFailed(f"{name} failed")
            return None if name == self.waiting else {"treated": None}

        return work


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    found = Course()
    monkeypatch.setattr(run, "PARTS", found.parts)
    monkeypatch.setattr(run, "collect", lambda work, state: samples.evidence(state=state))
    monkeypatch.setattr(run, "render", lambda work, evidence: "page")
    return found


def test_every_part_runs_once_wherever_it_failed_before(course: Course, tmp_path: Path) -> None:
    names = [name for name, _, _ in course.parts]
    asked = samples.request(tmp_path / "out")
    for failing in names[2::3]:
        course.failing, course.calls = failing, []
        with pytest.raises(JobFailed):
            run.run_evidence(asked, parts_serve)
        assert course.calls[-1] == failing
    course.failing, course.calls = "", []
    outcome = run.run_evidence(asked, parts_serve)
    assert course.calls == names[8:] and outcome.evidence.state == "nothing kept"
    course.calls = []
    run.run_evidence(asked, parts_serve)
    assert course.calls == []
    kept = Journal(tmp_path / "out" / ".clinic")
    assert [kept.row(name)["runs"] for name in names] == [1, 1, 2, 1, 1, 2, 1, 1, 2, 1]


def parts_serve(workspace: Any) -> Any:
    raise AssertionError("nobody is served")


def test_a_part_that_waits_for_people_ends_the_call_and_is_asked_again(
    course: Course, tmp_path: Path
) -> None:
    course.waiting = "labels"
    asked = samples.request(tmp_path / "out")
    outcome = run.run_evidence(asked, parts_serve)
    assert course.calls[-1] == "labels" and outcome.evidence.state == "waiting for labels"
    assert "--labels none" in outcome.next[1] and "/annotate" in outcome.next[0]
    course.waiting, course.calls = "", []
    run.run_evidence(asked, parts_serve)
    assert course.calls[0] == "labels" and len(course.calls) == 5


def test_what_is_refused_at_once_leaves_nothing_behind(course: Course, tmp_path: Path) -> None:
    course.failing = "generator"
    with pytest.raises(JobFailed):
        run.run_evidence(samples.request(tmp_path / "out"), parts_serve)
    assert not (tmp_path / "out").exists()


def test_another_request_is_refused_and_who_marks_may_change(course: Course, tmp_path: Path) -> None:
    course.waiting = "labels"
    run.run_evidence(samples.request(tmp_path / "out", labels="people"), parts_serve)
    course.waiting = ""
    with pytest.raises(InputRefused, match="nothing was overwritten"):
        run.run_evidence(samples.request(tmp_path / "out", detector="other"), parts_serve)
    run.run_evidence(samples.request(tmp_path / "out", labels="none"), parts_serve)


def test_time_is_kept_over_interruptions_and_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(tmp_path)
    with pytest.raises(ValueError, match="broken"), kept.timed("treat", "cpu"):
        time.sleep(0.05)
        raise ValueError("broken")
    first = Journal(tmp_path).row("treat")
    assert first["seconds"] >= 0.05 and first["runs"] == 1 and first["host_gb_peak"] > 0.01
    monkeypatch.setattr(journal, "KEEP_SECONDS", 0.0)
    again = Journal(tmp_path)
    with again.timed("treat", "cpu") as report:
        time.sleep(0.05)
        report(1, 2, "half")
        on_the_way = Journal(tmp_path).row("treat")["seconds"]
    assert on_the_way >= first["seconds"] + 0.05
    assert again.row("treat")["seconds"] >= on_the_way and again.row("treat")["runs"] == 2


def test_a_card_that_is_too_small_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "photos", 2)
    bad = {"verdict": "bad", "text": "Not enough memory. Peak memory about 61 GB."}
    monkeypatch.setattr("pipelines.jobs.estimate.estimate_run", lambda *given: bad)
    with pytest.raises(ConfigRefused, match="Peak memory about 61 GB"):
        run.run_evidence(samples.request(tmp_path / "out"), parts_serve)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_first_detector_learns_from_photographs_and_what_was_injected_into_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "photos", 8)
    settings = default_settings("owner/model").model_dump(mode="json")
    training = settings["first"]["training"]
    settings["first"]["start"] = "random"
    training |= {"steps": 2, "batch": 2, "checkpoint_every": 2, "workers": 1, "device": "cpu"}
    training["detector"]["size"] = 64
    asked = samples.request(
        tmp_path / "out",
        generator="owner/model",
        preset="diffdoctor",
        settings=EvidenceRun.model_validate(settings),
    )
    work = samples.work(create_workspace(tmp_path / "w"), asked)
    assert parts.photos(work, no_report) == {"used": 8, "captioned": 8, "refused": 0}
    found = parts.detector(work, no_report)
    assert found["injected"] > 0 and found["samples"]["injected"] == found["injected"]
    assert set(found["samples"]) == {"real", "injected"}
    with work.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    assert champion is not None and champion.id == found["id"] and champion.metrics
    # A kill between the training and its record: the detector is found, and not trained again.
    monkeypatch.setattr("pipelines.services.training.here.train_detector", None)
    assert parts.detector(work, no_report)["id"] == found["id"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--generator", "nobody", "--photos", "photos", "--out", "o"), "there is no generator 'nobody'"),
        (("--generator", "clinic-flux", "--photos", "empty", "--out", "o"), "holds no image"),
        (("--generator", "clinic-flux", "--photos", "nowhere", "--out", "o"), "there is no such folder"),
        (("--generator", "clinic-flux", "--photos", "photos"), "name the folder of the results with --out"),
        (
            ("--generator", "a/b", "--photos", "photos", "--out", "o", "--labels", "simulated"),
            "know only the embedded clinic's drawings",
        ),
        (
            ("--generator", "clinic-flux", "--photos", "photos", "--out", "o", "--prompts", "no.txt"),
            "there are no prompts at 'no.txt'",
        ),
        (
            ("--generator", "clinic-flux", "--photos", "photos", "--out", "o", "--recipe", "none"),
            "there is no recipe 'none'",
        ),
        (
            (
                "--generator",
                "clinic-flux",
                "--photos",
                "photos",
                "--out",
                "o",
                "--preset",
                "sequential-on-detector",
            ),
            "treats twice",
        ),
        (
            ("--generator", "clinic-flux", "--photos", "photos", "--out", "o", "--workspace", "w"),
            "a workspace of its own",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    assert app.main(["evidence", *words]) == 1
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
    assert not (tmp_path / "o").exists(), "the corrected call may name that folder again"


@pytest.mark.slow
@pytest.mark.treating
@pytest.mark.timeout(1500)  # a minute alone; on a machine with many others much more
def test_the_whole_of_it_on_the_tiny_flux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos")
    words = ["evidence", "--generator", "clinic-flux", "--photos", "photos", "--out", "out", *SMALL, "--json"]

    def evidence(*more: str) -> dict[str, Any]:
        capsys.readouterr()
        status = app.main([*words, *more])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        found: dict[str, Any] = json.loads(printed.out)
        text = (tmp_path / "out" / "evidence.json").read_text()
        assert Evidence.model_validate_json(text).model_dump(mode="json") == found["evidence"]
        page = (tmp_path / "out" / "evidence.html").read_text()
        for place in (str(tmp_path), "simulated-", "somebody"):
            assert place not in text and place not in page
        return found

    paused = evidence("--labels", "people")
    assert paused["state"] == "waiting for labels" and paused["evidence"]["treatment"] is None
    assert "/annotate" in paused["next"][0]
    waiting = evidence()["evidence"]
    assert waiting["state"] == "waiting for votes" and waiting["study"]["votes"] == 0
    assert waiting["labels"]["by"] == "simulated" and waiting["labels"]["given"] == waiting["labels"]["asked"]
    assert waiting["treatment"]["pairs"] > 0 and waiting["under"]["cells"]
    assert waiting["photos"] == {"used": 16, "captioned": 16, "refused": 0, "injected": 0}
    hours = {part["name"]: part["hours"] for part in waiting["parts"]}
    assert hours["treat"] > 0 and waiting["hours"] == pytest.approx(sum(hours.values()), abs=1e-3)
    with open_workspace(tmp_path / "out" / ".clinic").catalog() as catalog:
        (study,) = catalog.studies.list()
        catalog.votes.add(
            *(
                Vote(study_id=study.id, pair=0, rater="somebody", question=name, choice="after", seconds=30.0)
                for name in ("artifacts", "quality")
            )
        )
        catalog.commit()
    done = evidence()["evidence"]
    assert done["state"] == "complete" and done["study"]["raters"] == 1
    assert done["study"]["votes"] == 2 and done["study"]["minutes"] == 0.5
    assert done["study"]["questions"][0]["win_rate"] == 1.0
    assert done["parts"] == waiting["parts"], "nothing was done again"
