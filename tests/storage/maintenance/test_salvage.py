"""Damaged catalogs: one sentence wherever they are opened, and salvage of what can be read."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dataengine.errors import Conflict, WorkspaceUnusable
from dataengine.records import Image, Label, User
from storage.maintenance import salvage as salvaging
from storage.maintenance.salvage import damage_of, salvage
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace

PAGE = 4096
IMAGES = 400


def filled(folder: Path) -> Workspace:
    """A workspace with many pages of images and labels, closed."""
    workspace = create_workspace(folder)
    with workspace.catalog() as catalog:
        catalog.images.add_many(
            Image(id=f"i{number:04d}", sha256=f"{number:064x}", height=4, width=6, prompt="a dog " * 30)
            for number in range(IMAGES)
        )
        for number in range(IMAGES):
            catalog.labels.submit(
                Label(image_id=f"i{number:04d}", author="anna", height=4, width=6, clean=True)
            )
        catalog.users.add(User(name="anna", roles=("annotator",)), "hash")
        catalog.commit()
    workspace.close()
    return workspace


def page_of(catalog: Path, table: str) -> int:
    """A leaf page of the table, in the middle of it."""
    with closing(sqlite3.connect(catalog)) as connection:
        row = f"SELECT id FROM {table} LIMIT 1 OFFSET {IMAGES // 2}"
        needle = connection.execute(row).fetchone()[0].encode() + b"0" * 40
    return catalog.read_bytes().index(needle) // PAGE


def overwrite(catalog: Path, offset: int, body: bytes) -> None:
    with catalog.open("r+b") as file:
        file.seek(offset)
        file.write(body)


def magic(catalog: Path) -> None:
    overwrite(catalog, 0, b"\0" * 16)


def head(catalog: Path) -> None:
    overwrite(catalog, 0, b"\0" * 100)


def middle(catalog: Path) -> None:
    overwrite(catalog, page_of(catalog, "images") * PAGE, b"\xa5" * PAGE)


def cut(catalog: Path) -> None:
    with catalog.open("r+b") as file:
        file.truncate(int(catalog.stat().st_size * 0.75) // PAGE * PAGE + 100)


def nothing(catalog: Path) -> None:
    catalog.write_bytes(b"no database at all" * 5000)


HARMS: list[Callable[[Path], None]] = [magic, head, middle, cut]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("template") / "workspace").path


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(template, tmp_path / "workspace")
    return Workspace.located(tmp_path / "workspace", None, None)


def read_everything(workspace: Workspace) -> None:
    again = open_workspace(workspace.path)
    try:
        with again.catalog(read_only=True) as catalog:
            catalog.images.find()
            catalog.labels.of_images([f"i{number:04d}" for number in range(IMAGES)])
    finally:
        again.close()


@pytest.mark.parametrize("harm", [*HARMS, nothing], ids=lambda harm: harm.__name__)
def test_a_damaged_catalog_is_one_sentence(workspace: Workspace, harm: Callable[[Path], None]) -> None:
    assert damage_of(workspace.catalog_file) is None
    harm(workspace.catalog_file)
    assert damage_of(workspace.catalog_file)
    with pytest.raises(
        WorkspaceUnusable, match=r"is damaged .*`clinic salvage`, or restore a backup"
    ) as told:
        read_everything(workspace)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("program", [True, False], ids=["recover", "python"])
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_what_can_be_read_is_saved(
    workspace: Workspace, harm: Callable[[Path], None], program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program and shutil.which(salvaging.PROGRAM) is None:
        pytest.skip("the program sqlite3 is absent")
    if not program:
        monkeypatch.setattr(salvaging, "PROGRAM", "no-such-program")
    harm(workspace.catalog_file)
    damaged = workspace.catalog_file.read_bytes()
    found = salvage(workspace)
    assert workspace.catalog_file.read_bytes() == damaged and found.damaged_file is None
    assert damage_of(found.path) is None
    images = found.tables["images"]
    if harm in (magic, head):
        assert images.kept == found.tables["labels"].kept == IMAGES and not images.damaged
    else:
        assert 0 < images.kept < IMAGES and images.damaged
    replaced = salvage(workspace, replace=True)
    assert replaced.damaged_file is not None and replaced.damaged_file.read_bytes() == damaged
    again = open_workspace(workspace.path)
    with again.catalog(read_only=True) as catalog:
        assert catalog.images.count() == replaced.tables["images"].kept == images.kept
    again.close()
    assert not list(workspace.path.glob(".salvage-*"))


def test_of_noise_nothing_is_made(workspace: Workspace) -> None:
    nothing(workspace.catalog_file)
    before = sorted(path.name for path in workspace.path.iterdir())
    with pytest.raises(WorkspaceUnusable, match="nothing can be read of"):
        salvage(workspace, replace=True)
    assert sorted(path.name for path in workspace.path.iterdir()) == before


def test_a_sound_catalog_is_left_alone(workspace: Workspace) -> None:
    with pytest.raises(Conflict, match="is sound"):
        salvage(workspace)
