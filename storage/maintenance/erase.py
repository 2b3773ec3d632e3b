"""Erase images, or everything of a person, and report what still holds something of it.

A kill is harmless: the rows go, and a mark with the blobs is stored in their place; then blobs and files go,
then the traces in the databases' own files, and the mark last. The same erasure run again continues from its
mark. Snapshots, frozen benchmarks, detectors and treatments are not changed, because others depend on them:
the answer lists them, with what can be done.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from dataengine.errors import NotFound
from dataengine.records import ERASED, AuditEvent, digest
from storage import job_queue, tables
from storage.catalog import Catalog
from storage.engine import reclaim
from storage.maintenance.archives import drop_exports
from storage.maintenance.erase_blobs import (
    MAP_COLUMNS,
    delete_unused,
    map_refs,
    remove_exports,
    repack,
    unused,
)
from storage.maintenance.erase_files import files_that_name, scrub_file, unfinished_exports
from storage.maintenance.erase_rows import (
    Mark,
    delete_rows,
    drop_answers_made_of,
    drop_playbacks,
    find_mark,
    frozen_benchmarks_with,
    handle_rows,
    made_of,
    only_drawn_by,
    remove_mark,
    rows_that_keep,
    set_values,
    values,
    write_mark,
)
from storage.maintenance.personal_columns import IMAGE, PERSON, Handling
from storage.maintenance.remains import (
    Remain,
    backups_that_hold,
    remaining_elsewhere,
    remaining_lineage,
    remaining_rows,
)
from storage.maintenance.scrubbing import IdScrub, PersonScrub, Scrub
from storage.prompt_search import INDEX, forget_erased
from storage.stores.maps import MapRef
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    """Counts of erased records, the ids of what was derived from them, and what still holds something.

    In a trial, what would be erased.
    """

    images: int = 0
    labels: int = 0
    votes: int = 0
    reviews: int = 0
    blobs: int = 0
    snapshots: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    """Versions of frozen benchmarks that were made with it."""
    packs_kept: tuple[str, ...] = ()
    """Packs that contain an erased map and are kept, because a snapshot refers to their other maps."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """Rows deleted and values changed, by "table.column"."""
    files: tuple[str, ...] = ()
    """Files of the workspace's folder from which the name was removed."""
    remains: tuple[Remain, ...] = ()


def erase_images(workspace: Workspace, image_ids: Iterable[str], actor: str, trial: bool = False) -> Erased:
    """Delete images with their labels, predictions and queue items, and every blob that only they refer to.

    Repairs of one of them and images with an artifact injected into it go too. Exported shards that contain
    one of them are removed from this machine and can be exported again without it. With `trial` nothing is
    changed. Raises `NotFound`, erasing nothing, if one of the images does not exist, unless these images were
    being erased when an earlier run was killed.
    """
    named = sorted(set(image_ids))
    key = digest("erase images", *named)
    with workspace.catalog(read_only=True) as catalog:
        begun = find_mark(catalog.connection, key)
        ids = sorted({*made_of(catalog, named), *(begun.images if begun else ())})
        packs = {MapRef.parse(ref).pack for ref in map_refs(catalog.connection, ids)}
    moved = {} if trial else repack(workspace, packs, set(ids))
    with workspace.catalog() as catalog:
        connection = catalog.connection
        existing = {image.id: image for image in catalog.images.get_many(ids)}
        missing = [id for id in named if id not in existing]
        if missing and begun is None:
            raise NotFound(f"there is no image {missing[0]!r}; nothing was erased. Check the ids")
        items, labels = tables.snapshot_items.c, tables.labels.c
        mark = _mark(key, begun, packs, values(connection, items.snapshot_id, items.image_id, ids))
        about = _lineage(catalog, mark.snapshots)
        about = replace(about, benchmarks=frozen_benchmarks_with(connection, ids, ()))
        doomed = {blob for image in existing.values() for blob in (image.sha256, image.thumbnail) if blob}
        doomed |= values(connection, labels.label_map, labels.image_id, ids)
        playbacks, frames = drop_playbacks(connection, frozenset(ids))
        doomed |= frames
        mark = replace(mark, blobs=mark.blobs | doomed, images=frozenset(ids) - frozenset(named))
        for old, new in moved.items():
            for column in MAP_COLUMNS:
                set_values(connection, column, old, new)
        columns = {"labels.image_id": delete_rows(connection, labels.image_id, ids)}
        columns |= {"jobs.result": playbacks} if playbacks else {}
        columns["images.id"] = delete_rows(connection, tables.images.c.id, ids)
        free = unused(connection, mark)
        scrub = IdScrub(frozenset(ids) | free, mark.pseudonym)
        columns |= _handle(connection, mark, IMAGE, {}, scrub)
        about = replace(
            about, images=columns["images.id"], labels=columns["labels.image_id"], columns=columns
        )
        if trial:
            return replace(about, blobs=len(free))
        forget_erased(connection)
        catalog.commit()
    return _complete(workspace, mark, scrub, about, actor, ("image_id", ids))


def erase_person(workspace: Workspace, name: str, actor: str, trial: bool = False) -> Erased:
    """Delete a person's account, sessions, labels, reviews and votes, and the label maps that only they drew.

    What others depend on keeps a pseudonym: the audit trail, job requests, studies, benchmarks, and texts
    of others that mention the name. Images that they had labelled are not queued again. With `trial` nothing
    is changed. Raises `NotFound` if there is no data of that name.
    """
    key = digest("erase person", name)
    found = files_that_name(workspace, PersonScrub(name, ERASED))
    files = tuple(str(path.relative_to(workspace.path)) for path in found)
    with workspace.catalog() as catalog:
        connection = catalog.connection
        begun, maps = find_mark(connection, key), only_drawn_by(connection, name)
        mark = _mark(key, begun, set(), {one.id for one in catalog.snapshots.drawn_by(name)})
        mark = replace(mark, blobs=mark.blobs | maps)
        scrub = PersonScrub(name, mark.pseudonym)
        about = _lineage(catalog, mark.snapshots)
        about = replace(about, benchmarks=frozen_benchmarks_with(connection, [], mark.blobs))
        columns = drop_answers_made_of(connection, mark.blobs)
        columns |= _handle(connection, mark, PERSON, {"": [name]}, scrub)
        about = replace(
            about,
            labels=columns.get("labels.author", 0),
            votes=columns.get("votes.rater", 0),
            reviews=columns.get("reviews.reviewer", 0),
            columns=columns,
        )
        if not (begun or columns or files or about.snapshots):
            raise NotFound(f"there is no data of a person {name!r}; check the name")
        if trial:
            return replace(about, blobs=len(unused(connection, mark)), files=files)
        catalog.commit()
    by = mark.pseudonym if actor == name else scrub(actor)
    return _complete(workspace, mark, scrub, about, by, ("author", [name]))


# ---- the order of an erasure -------------------------------------------------------------------------------


def _mark(key: str, begun: Mark | None, packs: set[str], snapshots: set[str]) -> Mark:
    """A new mark, or that of a killed run with what was found now."""
    if begun is None:
        begun = Mark(key, f"{ERASED}{secrets.token_hex(4)}", frozenset(), frozenset(), frozenset())
    return replace(begun, packs=begun.packs | packs, snapshots=begun.snapshots | snapshots)


def _handle(
    connection: Connection,
    mark: Mark,
    columns: Mapping[str, Handling],
    keys: Mapping[str, Sequence[str]],
    scrub: Scrub,
) -> dict[str, int]:
    """Handle all rows but the mark, which names blobs that the scrub would replace."""
    remove_mark(connection, mark.pseudonym)
    counts = handle_rows(connection, columns, keys, scrub)
    delete_rows(connection, tables.label_map_facts.c.sha256, sorted(unused(connection, mark)))
    write_mark(connection, mark)
    return counts


def _complete(
    workspace: Workspace,
    mark: Mark,
    scrub: Scrub,
    about: Erased,
    actor: str,
    exported: tuple[str, Sequence[str]],
) -> Erased:
    """Everything after the rows: blobs, files, the database's traces, the mark. Safe to repeat."""
    blobs, packs_kept = delete_unused(workspace, mark)
    remove_exports(workspace, about.snapshots, *exported)
    files, unclean = _scrub_files(workspace, scrub)
    about = replace(about, blobs=blobs, packs_kept=packs_kept, files=files)
    person = isinstance(scrub, PersonScrub)
    _, jobs_left = job_queue.scrub(workspace.jobs_url, scrub)
    traces = {jobs_left, reclaim(workspace.engine, [*tables.metadata.tables, INDEX])} - {""}
    with workspace.catalog() as catalog:
        if not traces:  # else the mark stays, and the next run tries again
            remove_mark(catalog.connection, mark.pseudonym)
        details = {"images": about.images, "labels": about.labels, "snapshots": list(about.snapshots)}
        catalog.audit.add(
            AuditEvent(
                actor=actor,
                action="erase.person" if person else "erase.images",
                subject=mark.pseudonym if person else str(about.images),
                details=details,
            )
        )
        catalog.commit()
    # What is left of the mark names no one, and leaves the log as soon as nobody reads the old state.
    reclaim(workspace.engine, [tables.audit_events.name], rewrite=False)
    with workspace.catalog(read_only=True) as catalog:
        kept = rows_that_keep(catalog.connection, PERSON if person else IMAGE, scrub)
    remains = (
        *remaining_lineage(
            snapshots=about.snapshots,
            detectors=about.detectors,
            treatments=about.treatments,
            generators=about.generators,
            benchmarks=about.benchmarks,
            packs=packs_kept,
        ),
        *remaining_rows(kept),
        *unclean,
        *backups_that_hold(workspace, scrub, mark.blobs),
        *remaining_elsewhere(workspace, traces),
    )
    return replace(about, remains=remains)


def _scrub_files(workspace: Workspace, scrub: Scrub) -> tuple[tuple[str, ...], list[Remain]]:
    drop_exports(workspace, expired=False)
    for stale in unfinished_exports(workspace):
        stale.unlink(missing_ok=True)
    done, remains = [], []
    for path in files_that_name(workspace, scrub):
        name = str(path.relative_to(workspace.path))
        if scrub_file(path, scrub):
            done.append(name)
        else:
            remains.append(Remain(kind="file", name=name, advice="look into it, and delete it if you can"))
    return tuple(done), remains


def _lineage(catalog: Catalog, snapshots: Collection[str]) -> Erased:
    """Add what was derived from the snapshots: detectors, treatments and generators."""
    detectors = {one.id for one in catalog.detectors.list() if one.snapshot_id in snapshots}
    _add_descendants(detectors, [(one.id, one.parent) for one in catalog.detectors.list()])
    treatments = {one.id for one in catalog.treatments.list() if one.detector_id in detectors}
    generators = {one.id for one in catalog.generators.list() if one.treatment_id in treatments}
    _add_descendants(generators, [(one.id, one.parent) for one in catalog.generators.list()])
    return Erased(
        snapshots=tuple(sorted(snapshots)),
        detectors=tuple(sorted(detectors)),
        treatments=tuple(sorted(treatments)),
        generators=tuple(sorted(generators)),
    )


def _add_descendants(ids: set[str], parents: Sequence[tuple[str, str | None]]) -> None:
    while children := {id for id, parent in parents if parent in ids} - ids:
        ids |= children
