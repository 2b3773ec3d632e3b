"""What an admin does by desk or command: audit, classes, backups, endpoints, models in use."""

import errno
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dataengine.csv_files import unescape_formula
from dataengine.errors import Conflict, InputRefused, NotFound, ServiceAbsent, Unavailable
from dataengine.records import (
    AuditEvent,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Round,
    Study,
)
from pipelines.config import TrainingRun
from pipelines.services.admin import audit, backups, classes, endpoint_tests, worker_logs
from pipelines.services.admin.maintenance import back_up, erase_images, erase_person
from pipelines.services.endpoints import KINDS, add_endpoint
from pipelines.worker.scheduled_backups import ScheduledBackups
from storage.opening import create_workspace, open_workspace
from storage.queries.audit import AuditFilter
from storage.queries.uses import uses_of_detector, uses_of_generator
from storage.workspace import Workspace


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with named models, made once."""
    path = tmp_path_factory.mktemp("admin") / "w"
    workspace = create_workspace(path)
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="2a592612115c", name="tiny FLUX", location="/m/flux"))
        catalog.generators.add(
            GeneratorVersion(id="t", name="treated", location="/m/flux", parent="2a592612115c")
        )
        catalog.detectors.add(DetectorVersion(id="6cd641", name="first doctor", checkpoint="c"))
        catalog.detectors.promote("6cd641", "ada", "the only one")
        catalog.images.add_many([Image(id="i", sha256="s", height=1, width=1, generator_id="2a592612115c")])
        catalog.rounds.add(Round(id="r", recipe={"generators": ["2a592612115c"]}, stage="generate"))
        catalog.studies.add(
            Study(id="st", name="strength", before_id="2a592612115c", after_id="t", pairs=(), seed=1)
        )
        catalog.commit()
    workspace.close()
    return path


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Iterator[Workspace]:
    import shutil

    opened = open_workspace(shutil.copytree(template, tmp_path / "w"))
    yield opened
    opened.close()


def note(workspace: Workspace, *events: AuditEvent) -> None:
    with workspace.catalog() as catalog:
        for event in events:
            catalog.audit.add(event)
        catalog.commit()


# ---- audit ----


@pytest.mark.parametrize(
    ("action", "subject", "details", "expected"),
    [
        ("detector.promote.refused", "6cd641", {}, ("was refused the promotion of", "first doctor", "")),
        (
            "user.roles",
            "ben",
            {"before": ["rater"], "roles": ["rater", "annotator"]},
            ("changed the roles of", "ben", "roles: rater → rater, annotator"),
        ),
        ("user.rename", "ben", {"before": "bob"}, ("renamed the account", "ben", "before: bob")),
        (
            "class.change",
            "text",
            {"before": {"name": "a", "retired": False}, "name": "b", "retired": True},
            ("changed the label class", "text", "name: a → b, retired: no → yes"),
        ),
        ("session.open", "ada", {}, ("signed in", "", "")),
        ("study.open", "st", {"pairs": 3}, ("opened the study", "strength", "pairs: 3")),
        ("thing.never-heard.of", "x", {"n": 1.5}, ("thing never heard of", "x", "n: 1.5")),
    ],
)
def test_events_are_read_as_sentences(
    workspace: Workspace, action: str, subject: str, details: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """desks 6.4: raw verbs and ids, and settings as a Python dict in a cell."""
    note(workspace, AuditEvent(actor="ada", action=action, subject=subject, details=details))
    row = audit.find_events(workspace, AuditFilter(), limit=1)[0][0]
    assert (row.what, row.subject, row.details) == expected and row.who == "ada"


def test_settings_of_a_job_are_what_was_changed_in_them(workspace: Workspace) -> None:
    settings = TrainingRun().model_dump(mode="json")
    settings["training"]["steps"] = 7
    settings["seed"] = 99
    details = {"run": "x", "settings": settings}
    note(
        workspace,
        AuditEvent(actor="ada", action="job.request", subject="retrain-20261130-1", details=details),
    )
    row = audit.find_events(workspace, AuditFilter(), limit=1)[0][0]
    assert row.details == "training.steps: 7, seed: 99" or set(row.details.split(", ")) == {
        "training.steps: 7",
        "seed: 99",
    }


def test_every_action_that_the_program_writes_has_words() -> None:
    root = Path(audit.__file__).parents[3]
    import re

    written = {
        found
        for layer in ("pipelines", "storage", "ui")
        for path in (root / layer).rglob("*.py")
        for found in re.findall(r'action="([a-z]+\.[a-z.-]+)"', path.read_text())
    }
    assert len(written) > 20 and written <= audit.VERBS.keys()
    assert {action.partition(".")[0] for action in audit.VERBS} <= audit.TOPICS.keys()


def test_filters_search_and_paging_agree(workspace: Workspace) -> None:
    events = [
        AuditEvent(
            actor="ada" if n % 2 else "ben",
            action="job.request" if n % 3 else "user.create",
            subject="6cd641" if n == 5 else f"s{n}",
            details={"100%": n} if n == 7 else {},
            at=1000.0 + n,
        )
        for n in range(20)
    ]
    note(workspace, *events)

    def found(**wanted: Any) -> set[int]:
        rows, total = audit.find_events(workspace, AuditFilter(since=1000.0, until=1020.0, **wanted))
        assert total == len(rows)
        return {int(row.at - 1000) for row in rows}

    everything = set(range(20))
    assert found() == everything
    assert found(actor="ada") == {n for n in everything if n % 2}
    assert found(topic="user") == {n for n in everything if n % 3 == 0}
    assert found(topic="use") == found(topic="%") == set()
    assert found(text="first DOCTOR") == {5}
    assert found(text="100%") == {7} and found(text="s_") == set() and found(text="S12") == {12}
    within = AuditFilter(since=1005.0, until=1010.0)
    assert audit.find_events(workspace, within)[1] == 5
    pages = [audit.find_events(workspace, within, 2, offset)[0] for offset in (0, 2, 4, 6)]
    assert [[row.at for row in page] for page in pages] == [[1009, 1008], [1007, 1006], [1005], []]


def test_the_export_is_safe_for_spreadsheets_and_whole(workspace: Workspace) -> None:
    import csv
    import io

    note(
        workspace, AuditEvent(actor="=cmd()", action="job.cancel", subject="x", details={"a": [1, {"b": 2}]})
    )
    rows = list(csv.DictReader(io.StringIO(audit.audit_csv(workspace, AuditFilter()))))
    assert rows[0]["who"] == "'=cmd()" and unescape_formula(rows[0]["who"]) == "=cmd()"
    assert json.loads(rows[0]["details_json"]) == {"a": [1, {"b": 2}]} and rows[0]["action"] == "job.cancel"
    assert rows[0]["time_utc"].endswith("+00:00")
    assert len(rows) == audit.find_events(workspace, AuditFilter())[1]


# ---- label classes ----


def test_two_people_rename_one_class_and_the_audit_names_the_first(workspace: Workspace) -> None:
    seen = classes.find_class(workspace, 2)
    classes.change_class(workspace, seen, replace(seen, name="extra parts"), "ada")
    with pytest.raises(Conflict, match="now 'extra parts'"):
        classes.change_class(workspace, seen, replace(seen, name="too many"), "ben")
    rows, total = audit.find_events(workspace, AuditFilter(topic="class"))
    assert total == 1 and rows[0].details == "name: unreasonable content → extra parts"
    again = classes.find_class(workspace, 2)
    classes.change_class(workspace, again, again, "ada")
    assert audit.find_events(workspace, AuditFilter(topic="class"))[1] == 1
    with pytest.raises(NotFound):
        classes.find_class(workspace, 9)


def test_colours_are_the_palettes_unless_chosen(workspace: Workspace) -> None:
    assert [classes.color_of(one) for one in classes.list_classes(workspace)] == [
        "#d55e00",
        "#56b4e9",
        "#f0e442",
    ]
    added = classes.add_class(workspace, "text", "#123456", "ada")
    assert classes.color_of(added) == "#123456" and added.value == 4


# ---- backups ----


def test_a_schedule_is_set_checked_and_followed(workspace: Workspace, tmp_path: Path) -> None:
    """desks 6.3: no schedule, retention or second place outside the environment."""
    worker = ScheduledBackups(workspace, None)
    assert not worker.sweep()
    place = tmp_path / "second"
    for hours, keep, to in (
        (0.01, None, ""),
        (1e6, None, ""),
        (24, 0, ""),
        (24, 3, "relative/folder"),
        (24, 3, str(place)),
        (24, 3, "http://169.254.169.254/x"),
        (24, 3, "file:///etc"),
        (24, 3, "s3://"),
    ):
        with pytest.raises(InputRefused):
            backups.set_schedule(workspace, hours, keep, to, "ada")
    assert backups.stored_schedule(workspace) is None
    place.mkdir()
    wanted = backups.Schedule(hours=24, keep=3, to=str(place))
    assert backups.set_schedule(workspace, 24, 3, f" {place} ", "ada") == wanted
    assert backups.stored_schedule(workspace) == wanted
    worker = ScheduledBackups(workspace, None)
    assert worker.sweep() and not worker.sweep()
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.list(kind="backup")[0].args == {"to": str(place), "keep": 3}
    assert backups.set_schedule(workspace, 0, None, "", "ada") is None
    assert backups.stored_schedule(workspace) is None
    rows, _ = audit.find_events(workspace, AuditFilter(topic="settings"))
    assert "hours: 0 → 24" in rows[1].details and "hours: 24" in rows[0].details


def test_backups_are_listed_checked_and_restored_beside(workspace: Workspace) -> None:
    made = back_up(workspace)
    for stray in ("notes.txt", ".hidden.tar", "a b.tar"):
        (made.path.parent / stray).write_text("x")
    assert [one.name for one in backups.list_backups(workspace)] == [made.path.name]
    for name in ("../catalog.sqlite", "notes.txt", "absent.tar", "", "a/b.tar"):
        with pytest.raises(NotFound):
            backups.backup_file(workspace, name)
        with pytest.raises(NotFound):
            backups.request_restore(workspace, name, "ada")
    assert made.path.name in backups.prove_backup(workspace, made.path.name)
    folder = backups.restore_beside(workspace, made.path.name)
    assert folder.parent == workspace.path.parent and (folder.stat().st_mode & 0o77) == 0
    restored = open_workspace(folder)
    with restored.catalog(read_only=True) as catalog:
        assert catalog.detectors.champion().name == "first doctor"  # type: ignore[union-attr]
    restored.close()


def test_a_full_backup_folder_is_one_clear_sentence(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 25, bad input: a backup folder that is full, found out while writing and before it."""
    first = back_up(workspace).path
    made = first.rename(first.with_name("backup-20260101-000000-0.tar"))  # not of the same second

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tarfile.TarFile.addfile", full)
        with pytest.raises(Unavailable, match=r"backups is full.*Free space") as error:
            back_up(workspace)
    assert str(error.value).count("\n") == 0
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    usage = type("Usage", (), {"free": 10, "total": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputRefused, match="GB free, and the newest backup took"):
        backups.request_backup(workspace, "ada")


# ---- endpoints, models, logs ----


class Answers(http.server.BaseHTTPRequestHandler):
    """A service: models at /v1/models, a hook at /hook, refusals at /closed and failures elsewhere."""

    taken: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self.reply({"/v1/models": 200, "/closed/models": 401, "/odd/models": 404}.get(self.path, 500))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append(json.loads(body))
        self.reply(204 if self.path == "/hook" else 404)

    def reply(self, status: int) -> None:
        body = b'{"data": [{"id": "qwen-vl"}]}' if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def service() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_kind_says_what_it_is_for() -> None:
    """desks 6.5: nine kinds without a word what each is for or what the location looks like."""
    assert endpoint_tests.KIND_HELP.keys() == set(KINDS)
    assert all(one.purpose.endswith(".") and one.location for one in endpoint_tests.KIND_HELP.values())


def test_services_are_asked_and_answers_read() -> None:
    here = ["127.0.0.0/8"]
    with service() as url:
        for location, words in (
            (f"{url}/v1#qwen-vl", "It answers in"),
            (f"{url}/v1#other", "does not list the model other"),
            (f"{url}/closed", "wants a token"),
            (f"{url}/odd", "with 404"),
        ):
            assert words in endpoint_tests.check_endpoint("vqa", "eyes", location, here)
        with pytest.raises(ServiceAbsent, match="answered 500"):
            endpoint_tests.check_endpoint("llm", "writer", f"{url}/broken", here)
        assert "taken" in endpoint_tests.check_endpoint("webhook", "hook", f"{url}/hook", here)
        assert Answers.taken[-1]["event"] == "test"
        with pytest.raises(ServiceAbsent, match="answered 404"):
            endpoint_tests.check_endpoint("webhook", "hook", f"{url}/secret", here)
        with pytest.raises(InputRefused, match="private or local"):
            endpoint_tests.check_endpoint("vqa", "eyes", f"{url}/v1")
    with pytest.raises(ServiceAbsent, match="does not answer") as error:
        endpoint_tests.check_endpoint("webhook", "hook", f"{url}/secret-path", here)
    assert "secret-path" not in str(error.value)


def test_folders_are_looked_into(tmp_path: Path) -> None:
    model = tmp_path / "flux"
    model.mkdir()
    with pytest.raises(InputRefused, match=r"holds none of model_index.json.*no generator"):
        endpoint_tests.check_endpoint("generator", "g", str(model))
    (model / "model_index.json").write_text("{}")
    assert "holds model_index.json" in endpoint_tests.check_endpoint("generator", "g", str(model))
    assert "1 files" in endpoint_tests.check_endpoint("folder", "f", str(model))
    assert "hub id" in endpoint_tests.check_endpoint("generator", "g", "owner/name")


def test_tags_are_bounded(workspace: Workspace, tmp_path: Path) -> None:
    made = add_endpoint(workspace, "folder", "f", str(tmp_path), "ada", (), [" photos ", "", "big", "photos"])
    assert made.settings == {"tags": ["photos", "big"]}
    for tags in (["x" * 10_000], ["a\nb"], [str(number) for number in range(11)]):
        with pytest.raises(InputRefused, match="at most 10 tags"):
            add_endpoint(workspace, "folder", "g", str(tmp_path), "ada", (), tags)


def test_what_uses_a_model_is_told(workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        assert uses_of_generator(catalog, "2a592612115c") == [
            "1 image",
            "1 treated copy of it",
            "1 study",
            "1 open round that names it",
        ]
        assert uses_of_generator(catalog, "t") == ["1 study"] and uses_of_generator(catalog, "x") == []
        assert uses_of_detector(catalog, "6cd641") == ["the champion’s place"]


def test_log_levels(workspace: Workspace) -> None:
    assert worker_logs.log_level(workspace) == "info"
    worker_logs.set_log_level(workspace, "debug", "ada")
    assert worker_logs.log_level(workspace) == "debug"
    with pytest.raises(InputRefused, match="choose one of"):
        worker_logs.set_log_level(workspace, "loud", "ada")


def test_an_erasure_names_what_keeps_it(workspace: Workspace, tmp_path: Path) -> None:
    place = tmp_path / "ada"
    place.mkdir()
    backups.set_schedule(workspace, 24, None, str(place), "ada")
    kept = erase_person(workspace, "ada", "root").remains
    assert [(one.name, one.advice) for one in kept if one.kind == "settings.value"] == [
        ("backups", "change it under Admin → System")
    ]
    trial = erase_images(workspace, ["i"], "ada", trial=True)
    assert trial.images == 1
    with pytest.raises(NotFound, match="nothing was erased"):
        erase_images(workspace, ["i", "absent"], "ada", trial=True)
