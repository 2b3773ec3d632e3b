"""What still holds something after an erasure, and what can be done about each."""

import gzip
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.maintenance.erase_files import BACKUPS, chunks_of, holds
from storage.maintenance.scrubbing import Scrub
from storage.workspace import Workspace

SHOWN = 20
MADE_OF_IT = {
    "snapshots": "publish a new one, which leaves the erased rows out, and export it again where it was "
    "exported to",
    "detectors": "retrain it from a new snapshot",
    "treatments": "treat the generator again with a retrained detector",
    "generators": "treat it again with a retrained detector, and replace copies that were published",
    "benchmarks": "freeze a new version without it",
    "packs": "it goes with `clinic gc` once no snapshot needs it",
}
KEPT_ROWS = {
    "snapshot_items": MADE_OF_IT["snapshots"],
    "benchmark_items": MADE_OF_IT["benchmarks"],
    "jobs": "let it end or cancel it, then run the same erasure again",
    "rounds": "let it end or cancel it, then run the same erasure again; a setting that is only spelled "
    "like the name can stay",
    "settings": "change it under Admin → System",
    "endpoints": "remove it under Admin → Models and endpoints, and register it under another name",
}
OTHER_ROWS = "if it means the person, register or import it again without the name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Remain:
    """Something that still holds what was erased: its kind, its name, and what can be done about it."""

    kind: str
    name: str
    advice: str


def remaining_lineage(**made: Iterable[str]) -> list[Remain]:
    """Snapshots, models and benchmarks that were made of it; the keywords are the keys of `MADE_OF_IT`."""
    return [
        Remain(kind=kind.removesuffix("s"), name=id, advice=MADE_OF_IT[kind])
        for kind, ids in made.items()
        for id in ids
    ]


def remaining_rows(kept: Mapping[str, list[str]]) -> list[Remain]:
    """Rows of the catalog that keep it, by "table.column"."""
    return [
        Remain(
            kind=place,
            name=", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""),
            advice=KEPT_ROWS.get(place.partition(".")[0], OTHER_ROWS),
        )
        for place, ids in kept.items()
    ]


def remaining_elsewhere(workspace: Workspace, traces: Iterable[str]) -> Iterator[Remain]:
    """The trash, traces in the database (reasons), and places into which this machine cannot look."""
    for reason in traces:
        yield Remain(kind="database", name=reason, advice="run the same erasure again while nobody works")
    if trashed := sum(1 for _ in workspace.blobs.trashed()):
        yield Remain(
            kind="trash",
            name=f"{trashed} blobs that `clinic gc` had moved to the trash",
            advice="`clinic gc --days 0` deletes them, with all else that nothing refers to",
        )
    with workspace.catalog(read_only=True) as catalog:
        projects = catalog.endpoints.of_kind("label-studio")
    for project in projects:
        yield Remain(
            kind="published copy",
            name=f"Label Studio at {project.location}",
            advice="delete its tasks and members there",
        )
    if not workspace.own_database:
        yield Remain(
            kind="team",
            name="logs in the folders of other machines, and the database server's own archives",
            advice="run the same erasure on each machine with its --workspace, and let the archives expire",
        )
    yield Remain(
        kind="copies",
        name="backups, exports and models that were written or published elsewhere",
        advice="make them again and delete the old ones; a restored backup needs the same erasure again",
    )


def backups_that_hold(workspace: Workspace, scrub: Scrub, blobs: Iterable[str]) -> Iterator[Remain]:
    """Backups in the workspace's folder with the name in their rows, or with one of the blobs."""
    names = frozenset(blobs)
    for path in sorted((workspace.path / BACKUPS).glob("*")):
        if path.is_file() and _backup_holds(path, scrub, names):
            day = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
            yield Remain(
                kind="backup",
                name=f"{path.relative_to(workspace.path)} of {day}",
                advice=f"make a new one with `clinic backup`, then delete {path.name}",
            )


def _backup_holds(path: Path, scrub: Scrub, blobs: frozenset[str]) -> bool:
    """Whether a backup holds the name or a blob; True as well when it cannot be read."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if member.name.rpartition("/")[2] in blobs:
                    return True
                if content is None or member.name.startswith("blobs/"):
                    continue
                plain = gzip.GzipFile(fileobj=content) if member.name.endswith(".gz") else content
                if holds(chunks_of(plain), scrub):
                    return True
    except (OSError, tarfile.TarError, EOFError, zlib.error):
        return True
    return False
