"""Part `erase`: a person who did everything and an image with everything are erased, and searched for.

The search is that of `tests.erasure`: every column of the database, every file of the workspace unpacked,
the databases' free pages and logs, and what is exported and backed up afterwards. Its control in the same
run: before the erasure it finds the name in at least `CONTROL` columns, and the image's id and hashes too.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from storage.maintenance.backup import back_up
from storage.maintenance.erase import Erased, erase_images, erase_person
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.harness import Figure, figure, full
from tests.bench.postgres import on_postgres
from tests.erasure import OTHER, PERSON, World, fill, left, search

CONTROL = 12
"""Columns in which the search has to find the name before; the figures count only then."""


def figures() -> list[Figure]:
    """Places searched, and places where something was found afterwards."""
    places, remaining, note = erased()
    found = [
        figure("erased_places", places, unit="places", n=2, note=note),
        figure("erased_left", remaining, unit="places", n=places, note="a person and an image, SQLite"),
    ]
    if full():
        places, remaining, note = erased(on_postgres)
        words = f"a person and an image, PostgreSQL: {note}"
        found.append(figure("erased_left_postgresql", remaining, unit="places", n=places, note=words))
    return found


Database = Callable[[], AbstractContextManager[None]]
"""Where the catalogs made inside are: a fresh database each time."""


def erased(database: Database = nullcontext) -> tuple[int, int, str]:
    """Places searched, places with a find that the answer does not name, and a note on the control.

    Raises `RuntimeError` when the control finds too little.
    """
    person = attack(
        database,
        lambda world: [world.person, *world.person_blobs],
        lambda workspace, world: erase_person(workspace, PERSON, OTHER),
    )
    image = attack(
        database,
        lambda world: [world.image, *world.image_blobs],
        lambda workspace, world: erase_images(workspace, [world.image], OTHER),
    )
    inside = "free pages, " if database is nullcontext else ""
    note = (
        f"columns, files, logs, {inside}later exports and backups; before, the name was in {person[2]} "
        f"columns and the image in {image[2]}"
    )
    return max(person[0], image[0]), person[1] + image[1], note


def attack(
    database: Database,
    words_of: Callable[[World], list[str]],
    erase: Callable[[Workspace, World], Erased],
) -> tuple[int, int, int]:
    """Fill, erase, search: places searched, places left, columns of the control."""
    with database(), tempfile.TemporaryDirectory(prefix="hold-erase-") as folder:
        workspace = create_workspace(Path(folder) / "workspace")
        try:
            world = fill(workspace)
            words = words_of(world)
            before = search(workspace, words)
            control = sum(1 for place, count in before.items() if count and "/" not in place)
            if control < CONTROL:
                raise RuntimeError(f"the search found it in {control} columns only, so it proves nothing")
            report = erase(workspace, world)
            later = Path(folder) / "later"
            workspace.snapshots.export(world.snapshot, shard_rows=1)
            back_up(workspace, later / "backup.tar")
            found = search(workspace, words, later)
            missed = left(workspace, report, found)
            print(f"  {control} columns before; {len(found)} places searched; left: {missed or 'none'}")
            return len(found), len(missed), control
        finally:
            workspace.close()
