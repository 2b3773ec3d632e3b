"""Blind pairs go out as a spreadsheet and come back as votes, over HTTP and by command."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import app
from pipelines.services.studies.plans import plan_of
from storage.workspace import Workspace
from tests.ui.study.test_routes import WANTED, opened, study_of

Clients = Callable[..., TestClient]
DESIGN = {"questions": ["artifacts", "quality"], "raters_a_pair": 2, "checks": 1}
Rows = list[dict[str, str]]


def sheet_of(engineer: TestClient, study_id: str, rater: str = "anna") -> tuple[zipfile.ZipFile, Rows]:
    answer = engineer.get(f"/api/studies/{study_id}/sheet.zip", params={"rater": rater})
    assert answer.status_code == 200, answer.text
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    return archive, list(csv.DictReader(io.StringIO(archive.read("sheet.csv").decode())))


def as_text(rows: Rows, delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def filled(rows: Rows, answer: str = "left") -> Rows:
    return [row | {"artifacts": answer, "quality": "tie"} for row in rows]


def test_a_sheet_tells_nothing_of_the_sides(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=DESIGN))
    archive, rows = sheet_of(engineer, study.id)
    assert len(rows) == 5 and {row["artifacts"] for row in rows} == {""}
    assert {name for row in rows for name in (row["left"], row["right"])} == {
        name for name in archive.namelist() if name.startswith("images/")
    }
    for row in rows:
        left, right = (archive.getinfo(row[side]) for side in ("left", "right"))
        assert left.file_size == right.file_size and left.date_time == right.date_time == (
            1980,
            1,
            1,
            0,
            0,
            0,
        )
    told = archive.read("sheet.csv").decode() + " ".join(archive.namelist())
    with workspace.catalog(read_only=True) as catalog:
        secrets = [image.sha256 for image in catalog.images.find()]
    secrets += ["base", "treated", "before", "after", str(study.seed), *(id for p in study.pairs for id in p)]
    assert not [secret for secret in secrets if secret in told]
    others = sheet_of(engineer, study.id, "bob")[1]
    assert not {row["task"] for row in rows} & {row["task"] for row in others}


def test_a_filled_sheet_becomes_votes(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=DESIGN))
    rows = sheet_of(engineer, study.id)[1]
    plan = plan_of(study, "outside-anna")
    rows.sort(key=lambda row: plan.by_task[row["task"]].pair)
    for row in rows:  # the rater prefers "after" everywhere, wherever it is, and sees that a check is spoiled
        showing = plan.by_task[row["task"]]
        row["artifacts"] = " Left " if showing.left == "after" else "right"
        row["quality"] = "TIE" if showing.pair < 4 else row["artifacts"]
    body = {"rater": "anna", "csv": "\ufeff" + as_text(rows, ";")}
    url = f"/api/studies/{study.id}/sheet"
    assert engineer.post(url, json=body).json() == {"pairs": 5, "new": 10, "skipped": 0}
    assert engineer.post(url, json=body).json()["new"] == 0, "stored once"
    found = engineer.get(f"/api/studies/{study.id}").json()
    assert found["results"]["questions"][0]["after"] == 4 and found["share"] == 0.5
    assert [one["rater"] for one in found["results"]["raters"]] == ["outside-anna"]
    rows[0]["quality"], rows[1]["artifacts"], rows[1]["quality"] = "left", "", ""
    body = {"rater": "anna", "csv": as_text(rows)}
    assert engineer.post(url, json=body).json() == {"pairs": 4, "new": 1, "skipped": 1}
    with workspace.catalog(read_only=True) as catalog:
        actions = [event.action for event in catalog.audit.list()]
    assert actions.count("study.correct") == 1 and actions.count("study.import") == 3


BAD: list[tuple[str, Callable[[Rows], Rows], str]] = [
    ("unknown task", lambda rows: [rows[0] | {"task": "0" * 32}, *rows[1:]], "is no task"),
    ("a formula as task", lambda rows: [rows[0] | {"task": "=HYPERLINK(1)"}, *rows[1:]], "is no task"),
    ("doubled row", lambda rows: [*rows, rows[2]], "answered in an earlier line"),
    ("formula", lambda rows: [rows[0] | {"artifacts": "=1+1"}, *rows[1:]], "expected left, right or tie"),
    ("another word", lambda rows: [rows[0] | {"artifacts": "after"}, *rows[1:]], "expected left"),
    ("a long answer", lambda rows: [rows[0] | {"quality": "x" * 10_000}], "expected left"),
    ("half a row", lambda rows: [rows[0] | {"quality": ""}, *rows[1:]], "no answer to quality"),
    ("no answers", lambda rows: [row | {"artifacts": "", "quality": ""} for row in rows], "no answers"),
    ("missing column", lambda rows: [{"task": row["task"]} for row in rows], "columns artifacts, quality"),
]


def test_a_bad_sheet_stores_nothing(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    study = study_of(workspace, opened(engineer, design=DESIGN))
    plan = plan_of(study, "outside-anna")
    rows = [{"task": one.task, "artifacts": "left", "quality": "tie"} for one in plan.showings]
    for kind, change, told in BAD:
        body = {"rater": "anna", "csv": as_text(change(rows))}
        refused = engineer.post(f"/api/studies/{study.id}/sheet", json=body)
        assert refused.status_code == 422 and told in refused.text and len(refused.text) < 2_000, kind
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.votes.of_study(study.id) == []


def test_sheets_of_nobody_or_others_are_refused(client_of: Clients, workspace: Workspace) -> None:
    engineer, rater = client_of("engineer"), client_of("rater")
    id = opened(engineer, design=DESIGN)
    for name in ("../x", "=1", "a b", "x" * 10_000, ""):
        assert engineer.get(f"/api/studies/{id}/sheet.zip", params={"rater": name}).status_code == 422
        assert (
            engineer.post(f"/api/studies/{id}/sheet", json={"rater": name, "csv": "task"}).status_code == 422
        )
    rows = sheet_of(engineer, id)[1]
    other = engineer.post(f"/api/studies/{id}/sheet", json={"rater": "bob", "csv": as_text(filled(rows))})
    assert other.status_code == 422 and "no task of the sheet of bob" in other.text
    assert rater.get(f"/api/studies/{id}/sheet.zip", params={"rater": "anna"}).status_code == 403
    engineer.post(f"/api/studies/{id}/close", json={})
    late = engineer.post(f"/api/studies/{id}/sheet", json={"rater": "anna", "csv": as_text(filled(rows))})
    assert late.status_code == 409


def test_the_commands_do_the_same(
    client_of: Clients, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = opened(client_of("engineer"), **{k: v for k, v in WANTED.items() if k != "design"}, design=DESIGN)
    place, out, back = str(workspace.path), tmp_path / "anna.zip", tmp_path / "back.csv"
    asked = ["--workspace", place, "study"]
    assert app.main([*asked, "export", id, "--rater", "anna", "--out", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("sheet.csv").decode())))
    back.write_text(as_text(filled(rows)))
    capsys.readouterr()
    assert app.main([*asked, "import", id, str(back), "--rater", "anna", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 5
    for data in (b"\xff\xfe\x00", b"task\x00", b"", b"\x89PNG\r\n"):
        back.write_bytes(data)
        assert app.main([*asked, "import", id, str(back), "--rater", "anna"]) != 0
    assert app.main([*asked, "import", id, str(tmp_path / "none.csv"), "--rater", "anna"]) != 0
    assert app.main([*asked, "export", id, "--rater", "anna", "--out", str(tmp_path / "no" / "a.zip")]) != 0
