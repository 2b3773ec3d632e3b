"""From a treated generator back to every label that it rests on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, func, select

from dataengine.errors import NotFound
from dataengine.records import AND, DetectorVersion, GeneratorVersion, Snapshot, Treatment
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """A snapshot with its rows by kind, and by author where people drew them."""

    snapshot: Snapshot
    kinds: dict[str, int]
    authors: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """A detector, what it was trained on, and the one it went on from."""

    detector: DetectorVersion
    trained_on: TrainingSet | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Treated:
    """A treatment, what it made and of what, and the detectors behind it, the nearest first."""

    generator: GeneratorVersion
    treatment: Treatment
    detectors: tuple[Taught, ...] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedLabel:
    """One label under a generator; revision and time are None once the label was erased."""

    snapshot_id: str
    image_id: str
    kind: str
    author: str
    revision: int | None
    created: float | None
    clean: bool


def lineage(catalog: Catalog, generator_id: str) -> tuple[list[Treated], GeneratorVersion]:
    """The treatments that made a generator, the newest first, and the untreated one at their end.

    Raises `NotFound` for an unknown generator; what was erased or came from elsewhere ends a chain.
    """
    steps: list[Treated] = []
    current = catalog.generators.get(generator_id)
    seen = {current.id}
    while current.treatment_id is not None:
        treatment = catalog.treatments.get(current.treatment_id)
        detectors = tuple(taught(catalog, treatment.detector_id))
        steps.append(Treated(generator=current, treatment=treatment, detectors=detectors))
        current = catalog.generators.get(treatment.generator_id)
        if current.id in seen:
            break
        seen.add(current.id)
    return steps, current


def taught(catalog: Catalog, detector_id: str | None) -> Iterator[Taught]:
    """A detector and those that it went on from."""
    seen: set[str] = set()
    while detector_id is not None and detector_id not in seen:
        seen.add(detector_id)
        try:
            detector = catalog.detectors.get(detector_id)
        except NotFound:
            return
        found = detector.snapshot_id and training_set(catalog, detector.snapshot_id)
        yield Taught(detector=detector, trained_on=found or None)
        detector_id = detector.parent


def training_set(catalog: Catalog, snapshot_id: str) -> TrainingSet:
    """A snapshot's rows, counted."""
    items = tables.snapshot_items.c
    inside = items.snapshot_id == snapshot_id
    kinds = select(items.kind, func.count()).where(inside).group_by(items.kind).order_by(items.kind)
    drawn = select(items.author, func.count()).where(inside, items.author.is_not(None))
    authors: Counter[str] = Counter()
    for names, count in catalog.connection.execute(drawn.group_by(items.author)):
        authors.update(dict.fromkeys(names.split(AND), count))
    return TrainingSet(
        snapshot=catalog.snapshots.get(snapshot_id),
        kinds=dict(catalog.connection.execute(kinds).tuples().all()),
        authors=dict(sorted(authors.items(), key=lambda one: (-one[1], one[0]))),
    )


def snapshots_under(steps: list[Treated]) -> list[str]:
    """The snapshots behind a generator, each once, the nearest first."""
    found = [one.trained_on.snapshot.id for step in steps for one in step.detectors if one.trained_on]
    return list(dict.fromkeys(found))


def labels_under(catalog: Catalog, snapshot_ids: list[str]) -> Iterator[UsedLabel]:
    """Every label by people in these snapshots, one for each author of a merged one.

    The revision is that whose map went in, the newest of equal ones; where several people's were merged, each
    one's newest of when the snapshot was made.
    """
    items, labels = tables.snapshot_items.c, tables.labels.c
    for snapshot_id in snapshot_ids:
        made = catalog.snapshots.get(snapshot_id).created
        drawn = items.snapshot_id == snapshot_id, items.author.is_not(None)
        images = select(items.image_id).where(*drawn)
        revisions: dict[tuple[str, str], list[Row[Any]]] = {}
        given = select(tables.labels).where(labels.image_id.in_(images)).order_by(labels.revision)
        for label in catalog.connection.execute(given):
            revisions.setdefault((label.image_id, label.author), []).append(label)
        rows = select(items.image_id, items.kind, items.author, items.target).where(*drawn)
        for row in catalog.connection.execute(rows.order_by(items.position)):
            authors = row.author.split(AND)
            for author in authors:
                known = revisions.get((row.image_id, author), [])
                same = [one for one in known if one.label_map == row.target or (one.clean and not row.target)]
                before = [one for one in known if one.created <= made]
                used = next(reversed(same if len(authors) == 1 else before), None)
                yield UsedLabel(
                    snapshot_id=snapshot_id,
                    image_id=row.image_id,
                    kind=row.kind,
                    author=author,
                    revision=used.revision if used else None,
                    created=used.created if used else None,
                    clean=row.target is None,
                )
