"""A person who did everything, and an image with everything, are gone from every place, on both databases."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dataengine.errors import NotFound
from storage.maintenance import erase
from storage.maintenance.backup import back_up
from storage.maintenance.erase import erase_images, erase_person
from storage.maintenance.personal_columns import PERSON as PERSON_COLUMNS
from storage.workspace import Workspace
from tests.erasure import OTHER, PERSON, World, fill, left, search


@pytest.fixture
def world(workspace: Workspace) -> World:
    return fill(workspace)


def columns_with(found: dict[str, int]) -> set[str]:
    return {place for place, count in found.items() if count and "/" not in place and " " not in place}


def later(workspace: Workspace, world: World, folder: Path) -> Path:
    """What is exported and backed up after the erasure."""
    workspace.snapshots.export(world.snapshot, shard_rows=1)
    back_up(workspace, folder / "later.tar", blobs=False)
    return folder


def test_a_person_is_nowhere_but_where_the_answer_says(
    workspace: Workspace, world: World, tmp_path: Path
) -> None:
    before = search(workspace, [PERSON])
    handled = {place for place, how in PERSON_COLUMNS.items() if how != "report"}
    assert handled <= columns_with(before), "the control: every column is attacked, and the search sees it"
    assert sum(1 for place, count in before.items() if count and "/" in place) > 8
    report = erase_person(workspace, PERSON, actor=OTHER)
    found = search(workspace, [PERSON, *world.person_blobs], later(workspace, world, tmp_path / "out"))
    assert not left(workspace, report, found)
    assert not columns_with(search(workspace, [PERSON]))
    assert {one.kind for one in report.remains} >= {"snapshot", "backup"}
    assert all(one.advice for one in report.remains)
    assert report.snapshots == (world.snapshot,) and report.labels == 3 and report.blobs == 2


def test_what_was_deleted_before_the_databases_overwrote_it_goes_as_well(
    workspace: Workspace, world: World
) -> None:
    if not workspace.own_database:
        pytest.skip("free pages are looked into on SQLite")
    workspace.close()
    with closing(sqlite3.connect(workspace.catalog_file)) as catalog:  # as an older version did
        catalog.execute("PRAGMA secure_delete=OFF")
        catalog.executemany(
            "INSERT INTO comments VALUES (?, ?, 'x', ?, 1)",
            [(f"old{number}", world.image, f"{PERSON} " * 200) for number in range(50)],
        )
        catalog.execute("DELETE FROM comments WHERE id LIKE 'old%'")
        catalog.commit()
    before = search(workspace, [PERSON])
    assert before["free pages of catalog.sqlite"] > 100, "the search sees them"
    erase_person(workspace, PERSON, actor=OTHER)
    found = search(workspace, [PERSON])
    assert not any(count for place, count in found.items() if place.startswith("free pages"))


def test_a_reader_who_keeps_the_old_state_is_reported(
    workspace: Workspace, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.engine.BUSY_SECONDS", 0.2)
    with workspace.catalog(read_only=True) as reading:
        assert reading.users.count()
        report = erase_person(workspace, PERSON, actor=OTHER)
        found = [one for one in report.remains if one.kind == "database"]
        assert found and "run the same erasure again" in found[0].advice
    again = erase_person(workspace, PERSON, actor=OTHER)
    assert not [one for one in again.remains if one.kind == "database"]
    with workspace.catalog(read_only=True) as catalog:
        assert not catalog.audit.list(action="erase.begin")


def test_an_image_is_nowhere_but_where_the_answer_says(
    workspace: Workspace, world: World, tmp_path: Path
) -> None:
    words = [world.image, *world.image_blobs]
    before = search(workspace, words)
    assert len(columns_with(before)) >= 20
    report = erase_images(workspace, [world.image], actor=OTHER)
    found = search(workspace, words, later(workspace, world, tmp_path / "out"))
    assert not left(workspace, report, found)
    assert {place for place in columns_with(found)} <= {
        "snapshot_items.image_id", "snapshot_items.image_sha256", "snapshot_items.target"
    }  # fmt: skip
    assert {one.kind for one in report.remains} >= {"snapshot", "backup", "snapshot_items.image_id"}


def test_what_others_depend_on_keeps_one_pseudonym(workspace: Workspace, world: World) -> None:
    erase_person(workspace, PERSON, actor=PERSON)
    with workspace.catalog(read_only=True) as catalog:
        pseudonyms = {
            event.actor for event in catalog.audit.list() if event.action in ("session.open", "erase.person")
        }
        (pseudonym,) = pseudonyms
        study, job = catalog.studies.list()[0], catalog.jobs.get("j")
        frozen = catalog.benchmarks.newest_frozen()
        assert frozen is not None
        assert {study.created_by, job.requested_by, job.args["author"], frozen.created_by} == {pseudonym}
        assert catalog.rounds.get("r").recipe["name"] == "demo"
        comments = catalog.comments.newest()
        assert [one.author for one in comments] == [OTHER]
        assert comments[0].text.startswith(f"@{pseudonym} see {world.image}; {pseudonym}'s lines")
        assert [gold.chosen_by for gold in catalog.gold.list()] == [pseudonym]
        draft = catalog.benchmarks.open_draft()
        assert draft is not None
        assert [item.settled for item in catalog.benchmarks.items(draft.id)] == [False]
    log = (workspace.path / "jobs" / "j" / "log.txt").read_text()
    assert log == f"{pseudonym} asked for {world.image}\n"


def test_a_trial_shows_what_would_go_and_changes_nothing(workspace: Workspace, world: World) -> None:
    before = search(workspace, [PERSON, world.image])
    shown = erase_person(workspace, PERSON, actor=OTHER, trial=True)
    assert shown.columns["labels.author"] == 3 and "jobs/j/log.txt" in shown.files and shown.blobs == 2
    images = erase_images(workspace, [world.image], actor=OTHER, trial=True)
    assert images.images == 1 and images.labels == 2
    assert search(workspace, [PERSON, world.image]) == before
    done = erase_person(workspace, PERSON, actor=OTHER)
    assert (done.columns, done.blobs, sorted(done.files)) == (
        shown.columns, shown.blobs, sorted(shown.files)
    )  # fmt: skip


@pytest.mark.parametrize("step", ["delete_unused", "_scrub_files", "job_queue.scrub", "reclaim"])
def test_a_kill_in_the_middle_is_continued_by_running_again(
    workspace: Workspace, world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for erasing in (
        lambda: erase_images(workspace, [world.image], actor=OTHER),
        lambda: erase_person(workspace, PERSON, actor=OTHER),
    ):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(f"storage.maintenance.erase.{step}", killed)
            erasing()
        with workspace.catalog(read_only=True) as catalog:
            (mark,) = catalog.audit.list(action="erase.begin")
            assert mark.details["blobs"] and PERSON not in str(mark) and world.image not in str(mark)
        report = erasing()
        assert report.snapshots == (world.snapshot,)
        with workspace.catalog(read_only=True) as catalog:
            assert not catalog.audit.list(action="erase.begin")
    found = search(workspace, [PERSON, world.image, *world.image_blobs, *world.person_blobs])
    assert {place for place in columns_with(found)} <= {
        "snapshot_items.image_id", "snapshot_items.image_sha256", "snapshot_items.target"
    }  # fmt: skip


def test_erasing_twice_changes_nothing_more(workspace: Workspace, world: World) -> None:
    erase_person(workspace, PERSON, actor=OTHER)
    once = search(workspace, ["erased-"])
    assert len(columns_with(once)) > 20
    with pytest.raises(NotFound, match="no data of a person"):
        erase_person(workspace, PERSON, actor=OTHER)
    assert search(workspace, ["erased-"]) == once


def test_work_under_way_is_left_and_named(workspace: Workspace, world: World) -> None:
    with workspace.catalog() as catalog:
        catalog.rounds.set_state("r", "running")
        catalog.commit()
    report = erase_person(workspace, PERSON, actor=OTHER)
    (round_,) = [one for one in report.remains if one.kind == "rounds.recipe"]
    assert round_.name == "r" and "run the same erasure again" in round_.advice
    with workspace.catalog() as catalog:
        assert catalog.rounds.get("r").recipe["by"] == PERSON
        catalog.rounds.set_state("r", "done")
        catalog.commit()
    again = erase_person(workspace, PERSON, actor=OTHER)
    assert "rounds.recipe" in again.columns
    assert not columns_with(search(workspace, [PERSON]))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ask @ada.", "ask @X."),
        ("Ada's line", "X's line"),
        ("ada, ada!", "X, X!"),
        ("ada-b and adam and ada.lovelace", "ada-b and adam and ada.lovelace"),
        ("mail@ada", "mail@ada"),
        ("bob + ada", "bob + X"),
    ],
)
def test_a_name_is_replaced_as_a_whole_word(text: str, clean: str) -> None:
    assert erase.PersonScrub("ada", "X")(text) == clean


def test_a_setting_that_is_spelled_like_the_name_stays() -> None:
    from storage.maintenance.scrubbing import scrubbed_settings

    recipe = {"name": "demo", "by": "demo", "note": "for demo", "demo": 1, "people": ["demo", "bob"]}
    clean = {"name": "demo", "by": "X", "note": "for X", "demo": 1, "people": ["X", "bob"]}
    assert scrubbed_settings(recipe, erase.PersonScrub("demo", "X")) == clean
