"""Blind pairs as a spreadsheet with images, for raters without the server, and its answers as votes.

Each outside rater has a sheet of their own, with sides, order and file names drawn as on the page; nothing in
it tells the sides apart. A sheet comes back as the filled CSV file.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dataengine.csv_files import as_csv, unescape_row
from dataengine.durable import move
from dataengine.errors import Conflict, InputRefused
from dataengine.records import AuditEvent, Study, Vote
from pipelines.services.studies.blind_images import blind_bodies
from pipelines.services.studies.plans import Showing, design_of, plan_of
from pipelines.services.studies.voting import (
    VoteBody,
    images_of_pair,
    store_votes,
    unblinded,
)
from storage.catalog import Catalog
from storage.workspace import Workspace

OUTSIDE = "outside-"
"""What the names of raters without an account begin with, so that none is taken for an account."""
MAX_SHEET = 8 * 2**20
"""Bytes of a filled sheet."""
MOST_PROBLEMS = 10
SIDES = ("left", "right", "tie")
EPOCH = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
README = """Each row of sheet.csv is a pair: two images of the same prompt, in the folder images.
Look at both, and write left, right or tie into the columns {questions}.
Leave a row empty to skip it. Change nothing else, save as CSV, and send sheet.csv back.
"""


def outside_rater(name: str) -> str:
    """The rater of an outside person. Raises `InputRefused` for an invalid name."""
    if not _NAME.fullmatch(name):
        raise InputRefused(
            f"the rater's name {name[:60]!r} is invalid: use 1 to 48 letters, digits, - and _, "
            "a letter or digit first"
        )
    return OUTSIDE + name


def write_sheet(workspace: Workspace, study_id: str, name: str, file: IO[bytes]) -> int:
    """Write the .zip of one outside rater: sheet.csv, the images and a short README; returns its rows.

    Pairs with an erased image are left out. Raises `InputRefused` for an invalid name, `NotFound`, and
    `Conflict` for a closed study.
    """
    rater = outside_rater(name)
    with workspace.catalog(read_only=True) as catalog:
        study = _open_study(catalog, study_id)
        rows = [
            (showing, images)
            for showing in plan_of(study, rater).showings
            if (images := images_of_pair(catalog, study, showing.pair)) is not None
        ]
    questions = design_of(study).questions
    lines = [
        (showing.task, images[1].prompt, *map(_file, _names(showing)), *("" for _ in questions))
        for showing, images in rows
    ]
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "README.txt", README.format(questions=", ".join(questions)).encode())
        _add(archive, "sheet.csv", as_csv(("task", "prompt", "left", "right", *questions), lines).encode())
        for showing, (before, after) in rows:
            spoiled = showing.pair >= len(study.pairs)
            bodies = dict(
                zip(
                    ("before", "after"),
                    blind_bodies(workspace, before.sha256, after.sha256, spoiled),
                    strict=True,
                )
            )
            for side in (showing.left, showing.right):
                _add(archive, _file(showing.pictures[side]), bodies[side])
    return len(rows)


def write_sheet_file(workspace: Workspace, study_id: str, name: str, path: str) -> int:
    """`write_sheet` into a file. Raises also `InputRefused` where none can be written."""
    target = Path(path)
    draft = target.with_name(f".{target.name}.part")
    try:
        with draft.open("wb") as file:
            rows = write_sheet(workspace, study_id, name, file)
        move(draft, target)
    except OSError as error:
        raise InputRefused(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return rows


def read_sheet(workspace: Workspace, study_id: str, name: str, text: str, actor: str) -> dict[str, int]:
    """Store a filled sheet as the votes of an outside rater: all rows, or none.

    Rows without any answer are skipped; rows that were stored before are corrected. Returns the counts of
    `pairs`, `new` answers and `skipped` rows. Raises `InputRefused` naming the rows that are wrong,
    `NotFound`, and `Conflict` for a closed study.
    """
    rater = outside_rater(name)
    with workspace.catalog() as catalog:
        study = _open_study(catalog, study_id)
        tasks, questions = plan_of(study, rater).by_task, design_of(study).questions
        answered: dict[str, list[Vote]] = {}
        problems: list[str] = []
        skipped = 0
        for line, row in _rows(text, questions):
            said: dict[str, str] = {
                question: (row.get(question) or "").strip().lower() for question in questions
            }
            task = (row.get("task") or "").strip()
            problem = _problem(task, said, tasks, answered, name)
            if problem:
                problems.append(f"line {line}: {problem}")
            elif not any(said.values()):
                skipped += 1
            else:
                sent = VoteBody.model_validate({"task": task, "answers": said})
                answered[task] = unblinded(study, tasks[task], sent, rater)
        if problems:
            more = len(problems) - MOST_PROBLEMS
            raise InputRefused(
                "nothing was stored. "
                + "; ".join(problems[:MOST_PROBLEMS])
                + (f"; and {more} more" if more > 0 else "")
            )
        if not answered:
            raise InputRefused(
                "this sheet has no answers: write left, right or tie into its question columns"
            )
        new = sum(store_votes(catalog, study, votes, corrects=True) for votes in answered.values())
        details = {"rater": rater, "pairs": len(answered), "new": new}
        catalog.audit.add(AuditEvent(actor=actor, action="study.import", subject=study.id, details=details))
        catalog.commit()
    return {"pairs": len(answered), "new": new, "skipped": skipped}


def read_sheet_file(workspace: Workspace, study_id: str, name: str, path: Path, actor: str) -> dict[str, int]:
    """`read_sheet` of a file. Raises `InputRefused` for a file that cannot be read as text."""
    try:
        if path.stat().st_size > MAX_SHEET:
            raise InputRefused(
                f"{path} is larger than {MAX_SHEET // 2**20} MiB; a filled sheet is a small CSV file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror or error}") from error
    return read_sheet(workspace, study_id, name, sheet_text(data), actor)


def sheet_text(data: bytes) -> str:
    """The text of a CSV file as spreadsheets save it. Raises `InputRefused` for any other file."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputRefused(
            "this is not a CSV file in UTF-8; save the sheet as “CSV UTF-8” and try again"
        ) from error
    if "\0" in text:
        raise InputRefused("this is not a CSV file; save the sheet as “CSV UTF-8” and try again")
    return text


def _problem(
    task: str, said: dict[str, str], tasks: dict[str, Showing], answered: dict[str, list[Vote]], name: str
) -> str:
    """What is wrong with a row; "" for nothing."""
    if task not in tasks:
        return f"{task[:40]!r} is no task of the sheet of {name}"
    if task in answered:
        return f"the task {task[:12]}… was answered in an earlier line already"
    wrong = {question: answer for question, answer in said.items() if answer not in (*SIDES, "")}
    if wrong:
        question, answer = next(iter(wrong.items()))
        return f"{question} is {answer[:20]!r}; expected left, right or tie"
    missing = [question for question, answer in said.items() if not answer]
    if any(said.values()) and missing:
        return f"no answer to {', '.join(missing)}"
    return ""


def _rows(text: str, questions: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows with their line numbers. Raises `InputRefused` for another table."""
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",")
    try:
        missing = {"task", *questions} - set(reader.fieldnames or ())
        if missing:
            raise InputRefused(
                f"this is not a sheet of this study: the columns {', '.join(sorted(missing))} are missing"
            )
        for row in reader:
            yield reader.line_num, unescape_row(row)
    except csv.Error as error:
        raise InputRefused(f"this is not a CSV file that can be read: {error}") from error


def _open_study(catalog: Catalog, study_id: str) -> Study:
    study = catalog.studies.get(study_id)
    if study.state != "open":
        raise Conflict("this study is closed; it takes no more votes")
    return study


def _names(showing: Showing) -> tuple[str, str]:
    return showing.pictures[showing.left], showing.pictures[showing.right]


def _file(name: str) -> str:
    return f"images/{name}.png"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A member whose time says nothing. PNG is stored as it is."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)
