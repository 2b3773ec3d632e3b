"""Paths in the catalog follow the workspace and the registered folders, on both databases."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dataengine.records import AuditEvent, Endpoint, GeneratorVersion, Job, Round, Treatment
from storage.engine import make_engine
from storage.locations import Places, unregistered_folder
from storage.opening import create_workspace, open_workspace
from storage.tables import metadata
from storage.workspace import CATALOG_FILE, Workspace
from tests.storage.later_columns import LATER_COLUMNS, LATER_OBJECTS

PLACES = Places(Path("/srv/clinic"), lambda: {"big disk": "/data", "deep": "/data/deep"})


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/srv/clinic/models/flux", "workspace:models/flux"),
        ("/srv/clinic", "workspace:"),
        ("/srv/clinic/../clinic/a", "workspace:a"),
        ("clip:/srv/clinic/clip", "clip:workspace:clip"),
        ("/data/sdxl", "folder:big%20disk/sdxl"),
        ("pickscore:/data", "pickscore:folder:big%20disk/"),
        ("hpsv2:/data/hps", "hpsv2:folder:big%20disk/hps"),
    ],
)
def test_a_path_is_stored_relative_and_read_as_this_machines(path: str, stored: str) -> None:
    assert PLACES.stored(path) == stored
    assert PLACES.resolved(stored) == path.replace("/../clinic", "")
    elsewhere = Places(Path("/mnt/new"), lambda: {"big disk": "/other"})
    assert "/srv/" not in elsewhere.resolved(stored) and "/data" not in elsewhere.resolved(stored)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "clinic",
            "black-forest-labs/FLUX.1-dev",
            "https://host/v1#model",
            "/srv/clinics/x",
            "/elsewhere",
        ),
        *("workspace:../../etc/passwd", "folder:unknown/x", "a photo: /srv/clinic/x", "workspace: a desk"),
    ],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert PLACES.stored(text) == text and PLACES.resolved(text) == text


def test_an_unknown_folder_is_named() -> None:
    assert unregistered_folder("folder:big%20disk/x") == "big disk"
    assert unregistered_folder("owner/name") is None


def fill(workspace: Workspace) -> None:
    """A row of every kind that may hold a path."""
    inside, outside = str(workspace.path / "models" / "a"), str(workspace.path.parent / "big" / "b")
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="e", kind="folder", name="in", location=inside))
        catalog.endpoints.add(
            Endpoint(id="f", kind="folder", name="big", location=str(workspace.path.parent / "big"))
        )
        catalog.audit.add(
            AuditEvent(actor="root", action="endpoint.add", subject=inside, details={"x": inside})
        )
        catalog.commit()
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="g", name="g", location=inside, settings={"at": inside}))
        catalog.generators.add(GeneratorVersion(id="h", name="h", location=outside))
        catalog.jobs.add(Job(id="j", kind="import", args={"path": inside, "more": [{"deep": outside}]}))
        recipe = {"judge": {"scorers": [f"clip:{inside}"]}}
        catalog.rounds.add(Round(id="r", recipe=recipe, stage="generate"))
        catalog.treatments.add(
            Treatment(id="t", generator_id="g", detector_id="d", config={"rewards": [{"location": inside}]})
        )
        catalog.commit()


def raw(workspace: Workspace) -> str:
    """All of the catalog as it is stored."""
    engine = make_engine(workspace.database_url)
    with engine.connect() as connection:
        names = [table.name for table in metadata.sorted_tables]
        rows = [list(connection.execute(text(f'SELECT * FROM "{name}"'))) for name in names]
    engine.dispose()
    return repr(rows)


@pytest.fixture
def moved(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace of `fill` in another folder, the old one gone."""
    fill(workspace)
    workspace.close()
    target = workspace.path.with_name("moved")
    shutil.move(workspace.path, target)
    again = open_workspace(target, None if workspace.own_database else workspace.database_url)
    yield again
    again.close()


def test_no_row_holds_the_workspaces_own_path(workspace: Workspace) -> None:
    """In a team's catalog a path in one machine's folder is that machine's, not every machine's."""
    fill(workspace)
    stored = raw(workspace)
    assert (str(workspace.path) in stored) == (not workspace.own_database)
    assert "folder:big/b" in stored


def test_a_moved_workspace_reads_its_own_files(moved: Workspace) -> None:
    """Desks 1.16: a copy read the generator from the original's folder."""
    home = moved.path if moved.own_database else moved.path.with_name("workspace")
    new = str(home / "models" / "a")
    with moved.catalog(read_only=True) as catalog:
        assert catalog.endpoints.get("e").location == new
        generator, outside = catalog.generators.get("g"), catalog.generators.get("h")
        assert (generator.location, generator.settings) == (new, {"at": new})
        assert outside.location == str(moved.path.parent / "big" / "b"), "the folder did not move"
        assert catalog.jobs.get("j").args["path"] == new
        assert catalog.rounds.get("r").recipe["judge"]["scorers"] == [f"clip:{new}"]
        assert catalog.treatments.get("t").config["rewards"][0]["location"] == new
        assert catalog.audit.list(limit=1)[0].subject == new


def test_a_folder_registered_again_under_its_name_is_followed(moved: Workspace, tmp_path: Path) -> None:
    with moved.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="n", kind="folder", name="big", location=str(tmp_path / "new")))
        catalog.commit()
    with moved.catalog(read_only=True) as catalog:
        assert catalog.generators.get("h").location == str(tmp_path / "new" / "b")


def test_an_older_catalogs_paths_are_rewritten_on_opening(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "old")
    fill(workspace)
    workspace.close()
    inside = str(workspace.path / "models" / "a")

    def absolute(value: Any) -> Any:
        return value.replace("workspace:models/a", inside) if isinstance(value, str) else value

    with closing(sqlite3.connect(workspace.catalog_file)) as catalog, catalog:
        for table, column in (("generators", "location"), ("jobs", "args"), ("rounds", "recipe")):
            catalog.create_function("absolute", 1, absolute)
            catalog.execute(f"UPDATE {table} SET {column} = absolute({column})")
        catalog.execute("UPDATE alembic_version SET version_num = '0007'")
        for statement in LATER_OBJECTS["sqlite"]:
            catalog.execute(statement)
        for table, columns in LATER_COLUMNS.items():
            for column in columns:
                catalog.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        [[args]] = catalog.execute("SELECT args FROM jobs")
        assert json.loads(args)["path"] == inside
    again = open_workspace(workspace.path)
    assert str(workspace.path) not in raw(again)
    with again.catalog(read_only=True) as catalog:
        assert catalog.generators.get("g").location == inside
    again.close()
    assert (tmp_path / "old" / CATALOG_FILE).is_file()
