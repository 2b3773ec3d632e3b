"""The schema and its migrations, on both databases."""

import shutil
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import JSON, Engine, inspect, text

import storage.migrate
from dataengine.errors import WorkspaceUnusable
from dataengine.records import DetectorVersion, Image
from storage import tables
from storage.catalog import Catalog
from storage.engine import make_engine
from storage.migrate import REVISION, _scripts, migrate, revision, upgrade
from tests.storage.later_columns import AFTER_0011, LATER_OBJECTS


def test_migrations_make_exactly_the_schema(database_url: str) -> None:
    engine = make_engine(database_url)
    assert revision(engine) is None
    migrate(engine)
    assert revision(engine) == REVISION

    def same_type(
        context: object, inspected: object, column: object, found: object, wanted: object
    ) -> bool | None:
        json = isinstance(wanted, tables.Tuples | tables.LocatedJson) and isinstance(found, JSON)
        return False if json else None

    def of_metadata(made: object, name: str | None, *_: object) -> bool:
        return not (name or "").startswith("prompt_search")  # the search index, which the database maintains

    with engine.connect() as connection:
        opts = {"compare_type": same_type, "include_object": of_metadata}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_revision_named_in_the_schema_is_the_newest_script() -> None:
    assert _scripts().get_heads() == [REVISION]


def test_a_newer_catalog_is_refused_and_left_alone(database_url: str) -> None:
    engine, calls = make_engine(database_url), []
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WorkspaceUnusable, match=r"'9999'.*newer Artifact Clinic"):
        migrate(engine, backup=lambda: calls.append("backup"))
    assert calls == [] and revision(engine) == "9999"
    engine.dispose()


FOLLOWING = f"{int(REVISION) + 1:04d}"
NEXT = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{FOLLOWING}", "{REVISION}"


def upgrade() -> None:
    op.add_column("images", sa.Column("mood", sa.Text(), server_default="calm"))
    {{then}}
"""


@pytest.fixture
def a_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed version, with one more migration to be written to the file returned."""
    scripts = tmp_path / "migrations"
    shutil.copytree(storage.migrate.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(storage.migrate, "SCRIPTS", scripts)
    monkeypatch.setattr(storage.migrate, "REVISION", FOLLOWING)
    return scripts / "versions" / f"version_{FOLLOWING}.py"


def test_an_upgrade_backs_up_first_and_keeps_the_data(engine: Engine, a_next_version: Path) -> None:
    with Catalog(engine) as catalog:
        catalog.images.add_many([Image(id="a", sha256="s", height=1, width=1)])
        catalog.commit()
    a_next_version.write_text(NEXT.format(then=""))
    seen: list[str | None] = []
    migrate(engine, backup=lambda: seen.append(revision(engine)))
    assert seen == [REVISION] and revision(engine) == FOLLOWING
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, mood FROM images")).all() == [("a", "calm")]
    migrate(engine, backup=lambda: seen.append("again"))
    assert seen == [REVISION]
    with engine.begin() as connection:  # other tests share the database
        connection.execute(text("ALTER TABLE images DROP COLUMN mood"))
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{REVISION}'"))


def test_an_upgrade_that_fails_changes_nothing(engine: Engine, a_next_version: Path) -> None:
    a_next_version.write_text(NEXT.format(then='raise OSError("power is gone")'))
    with pytest.raises(OSError, match="power"):
        migrate(engine)
    assert revision(engine) == REVISION
    assert "mood" not in [column["name"] for column in inspect(engine).get_columns("images")]


def test_an_upgrade_waits_for_its_backup(engine: Engine, a_next_version: Path) -> None:
    def backup() -> None:
        raise WorkspaceUnusable("the disk is full")

    a_next_version.write_text(NEXT.format(then=""))
    with pytest.raises(WorkspaceUnusable, match="full"):
        migrate(engine, backup)
    assert revision(engine) == REVISION


def test_two_processes_may_open_a_new_workspace_at_once(database_url: str) -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        engine = make_engine(database_url)
        try:
            migrate(engine)
        except Exception as error:
            errors.append(error)
        engine.dispose()

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    engine = make_engine(database_url)
    with Catalog(engine) as catalog:
        assert catalog.images.count() == 0
    engine.dispose()


def test_what_a_round_queued_before_was_sent_by_the_detector_of_its_maps(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.begin() as connection:
        upgrade(connection, "0008")
        for id, results in (("r1", {"diagnose": {"detector": "d1"}}), ("r2", {})):
            row = {"id": id, "recipe": {}, "stage": "mine", "state": "waiting", "results": results}
            connection.execute(tables.rounds.insert().values(**row, message="", created=0.0))
        image = {"id": "i", "sha256": "s", "height": 1, "width": 1, "media_type": "", "prompt": ""}
        image |= {"settings": {}, "source": "real", "origin": "", "licence": "", "split": "train"}
        image |= {"group": "", "purpose": "", "status": "active", "created": 0.0}
        connection.execute(tables.images.insert().values(**image))
        item = "INSERT INTO queue_items (image_id, round_id, kind, priority, opinions, reason, given, done) "
        for id in ("r1", "r2", "desk-1"):
            connection.execute(
                text(item + "VALUES ('i', :id, 'draw', 1, 1, '', 0, :done)"), {"id": id, "done": False}
            )
    migrate(engine)
    with Catalog(engine) as catalog:
        senders = {id: catalog.queue.sent_by("i", id) for id in ("r1", "r2", "desk-1")}
    assert senders == {"r1": "d1", "r2": None, "desk-1": None}
    engine.dispose()


def test_the_clinics_detectors_learn_what_they_were_made_for(engine: Engine) -> None:
    with Catalog(engine) as catalog:
        for id, parent in (("first-doctor", None), ("a", "first-doctor"), ("b", "a"), ("own", None)):
            catalog.detectors.add(DetectorVersion(id=id, name=id, checkpoint=id, parent=parent))
        catalog.commit()
    with engine.begin() as connection:
        for statement in LATER_OBJECTS[connection.dialect.name]:
            connection.execute(text(statement))
        for table, columns in {**AFTER_0011, "detectors": ("domain",)}.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0010'"))
    migrate(engine)
    with Catalog(engine) as catalog:
        domains = {one.id: one.domain for one in catalog.detectors.list()}
    assert domains == {"first-doctor": "clinic", "a": "clinic", "b": "clinic", "own": ""}


def test_webhooks_of_before_get_a_secret_and_are_not_told_again(database_url: str) -> None:
    engine = make_engine(database_url)
    before = _scripts().get_revision("0018").down_revision
    with engine.begin() as connection:
        upgrade(connection, str(before))
        endpoint = "'h', 'webhook', 'chat', 'https://hooks.example/1', '{}', 1.0"
        columns = "id, kind, name, location, settings, created"
        connection.execute(text(f"INSERT INTO endpoints ({columns}) VALUES ({endpoint})"))
        event = "'worker', 'webhook.sent', 'h:message', '{}', 1.0"
        columns = "actor, action, subject, details, at"
        connection.execute(text(f"INSERT INTO audit_events ({columns}) VALUES ({event})"))
    migrate(engine)
    with Catalog(engine) as catalog:
        [hook], [sent] = catalog.webhooks.list(), catalog.deliveries.of_endpoint("h", 9)
    assert hook.secret.startswith("whsec_") and (sent.id, sent.message_id) == ("h:message", "message")
    assert set(hook.events) == {"people needed", "engineers needed", "raters needed"}
    assert sent.state == "delivered"
    engine.dispose()
