"""Part `restore`: garbage collection beside wrong catalogs, restores elsewhere, and damaged backups.

Each refusal has its control in the same run: gc clears what is its own, sound backups are restored. Without
its control a figure is not written.
"""

import shutil
from pathlib import Path

from dataengine.errors import ClinicError
from storage.maintenance.collect_garbage import collect
from storage.maintenance.restore import check_backup, restore
from storage.opening import create_workspace
from storage.workspace import CATALOG_FILE, Workspace
from tests.bench.harness import Figure, figure, quick
from tests.bench.hold_power import scratch
from tests.drill import drill
from tests.storage.maintenance.damage import (
    KEY,
    KINDS,
    damaged_files,
    first_format,
    sealed,
    sound_backup,
    take_apart,
    wrong_with,
)
from tests.storage.test_identity import filled, old

WASTE = 3
"""Blobs of its own that the control clears."""


def figures() -> list[Figure]:
    """All of the part's figures."""
    found = []
    for measure in (gc_figures, drill_figures, damage_figures):
        with scratch() as folder:
            found += measure(folder)
    return found


# ---- garbage collection -----------------------------------------------------------------------------------


def gc_figures(folder: Path) -> list[Figure]:
    """Blobs that gc deleted or trashed beside a catalog that is not theirs."""
    deleted, blobs = 0, 0
    for harm in (lost, empty, foreign, older, second):
        workspace = filled(folder / harm.__name__)
        workspace.close()
        before = len(old(workspace)) + harm(workspace)
        after = len(old(workspace))
        deleted, blobs = deleted + before - after, blobs + before
        print(f"  {harm.__name__} catalog: {before - after} of {before} blobs deleted", flush=True)
    own = filled(folder / "own")
    own.blobs.put_many([f"waste {number}".encode() for number in range(WASTE)])
    old(own)
    cleared = collect(own).blobs
    own.close()
    if cleared != WASTE:
        raise RuntimeError(f"gc cleared {cleared} of {WASTE} unneeded blobs of its own: it proves nothing")
    note = (
        "lost, empty, foreign and older catalog, and a second workspace on the same store; opened and "
        f"cleared with no grace time; its own {WASTE} unneeded blobs were cleared"
    )
    return [figure("gc_foreign", deleted, unit="blobs", n=blobs, note=note)]


def lost(workspace: Workspace) -> int:
    """Each harm returns how many blobs it added itself."""
    for leftover in workspace.path.glob(f"{CATALOG_FILE}*"):
        leftover.unlink()
    clear(workspace.path)
    return 0


def empty(workspace: Workspace) -> int:
    lost(workspace)
    workspace.catalog_file.touch()
    clear(workspace.path)
    return 0


def foreign(workspace: Workspace) -> int:
    other = filled(workspace.path.with_name("other"))
    other.close()
    shutil.copy(other.catalog_file, workspace.catalog_file)
    clear(workspace.path)
    return 0


def older(workspace: Workspace) -> int:
    copy = workspace.path.with_name("last-week.sqlite")
    shutil.copy(workspace.catalog_file, copy)
    more = workspace.blobs.put_many([f"this week {number}".encode() for number in range(10)])
    old(workspace)
    shutil.copy(copy, workspace.catalog_file)
    clear(workspace.path)
    return len(more)


def second(workspace: Workspace) -> int:
    clear(workspace.path.with_name("second-workspace"), workspace.blob_url)
    return 0


def clear(path: Path, blob_url: str | None = None) -> None:
    """What an admin would try: open the workspace, and clear garbage."""
    try:
        workspace = create_workspace(path, blob_url=blob_url)
    except ClinicError:
        return
    try:
        collect(workspace, grace_seconds=-1)
    except ClinicError:
        return
    finally:
        workspace.close()


# ---- the drill --------------------------------------------------------------------------------------------


def drill_figures(folder: Path) -> list[Figure]:
    """Whether a workspace restored elsewhere is equal, and finishes its round."""
    found = drill(folder, seconds=0.5 if quick() else 20.0)
    print(f"  {found}", flush=True)
    note = (
        f"{found.rows} rows and {found.blobs} blobs equal; {found.acknowledged} labels were acknowledged "
        "before a backup under load, none is missing; old path gone, a round of fakes finished there"
        if found.passed
        else f"{found}"
    )
    return [figure("restored_elsewhere", float(found.passed), n=found.rows, note=note)]


# ---- damaged backups --------------------------------------------------------------------------------------


def damage_figures(folder: Path) -> list[Figure]:
    """Kinds of damage, and how many were taken, ended in a traceback, or left something behind."""
    sound = sound_backup(folder)
    parts = take_apart(sound, folder)
    restored = sum(restores(backup, key, folder / "control") for backup, key in controls(sound, folder))
    if restored != CONTROLS:
        raise RuntimeError(f"{restored} of {CONTROLS} sound backups were restored: refusals prove nothing")
    accepted = []
    for number, (kind, damaged) in enumerate(damaged_files(parts)):
        target = folder / "target"
        if number % 2:
            target.mkdir()
        if problem := wrong_with(damaged, target, kind.key):
            accepted.append(kind.name)
            print(f"  {kind.name}: {problem}", flush=True)
        shutil.rmtree(target, ignore_errors=True)
    note = "cut, flipped, forged and resealed; each refused in one line, the target folder as before"
    control = f"{restored} sound ones (signed, unsigned, of format 1) restored and proved in the same run"
    return [
        figure("damaged_backups", len(KINDS), unit="kinds", n=len(KINDS), note=note),
        figure("damaged_accepted", len(accepted), unit="kinds", n=len(KINDS), note=control),
    ]


CONTROLS = 4


def controls(sound: Path, folder: Path) -> list[tuple[Path, bytes | None]]:
    """Sound backups, each with the key to restore it with."""
    parts = take_apart(sound, folder)
    unsigned = folder / "unsigned.tar"
    unsigned.write_bytes(sealed(parts, parts.members))
    first = first_format(sound, folder / "first.tar")
    return [(sound, KEY), (sound, None), (unsigned, None), (first, None)]


def restores(backup: Path, key: bytes | None, target: Path) -> bool:
    """Whether it is restored, and proved by `clinic restore --check`."""
    try:
        restore(backup, target, key=key).close()
        check_backup(backup, key)
    except ClinicError as error:
        print(f"  a sound backup was refused: {error}", flush=True)
        return False
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return True
