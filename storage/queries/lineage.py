"""The lineage of a treated generator, back to every label that it was built from."""

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
class DetectorLineage:
    """A detector, its training set, and the detector that its training started from."""

    detector: DetectorVersion
    trained_on: TrainingSet | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TreatmentLineage:
    """A treatment, its generator and the untreated one, and the detectors behind it, nearest first."""

    generator: GeneratorVersion
    treatment: Treatment
    detectors: tuple[DetectorLineage, ...] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedLabel:
    """One label in a generator's lineage; revision and time are None if the label was erased."""

    snapshot_id: str
    image_id: str
    kind: str
    author: str
    revision: int | None
    created: float | None
    clean: bool


def lineage(catalog: Catalog, generator_id: str) -> tuple[list[TreatmentLineage], GeneratorVersion]:
    """The treatments of a generator, newest first, and the untreated generator at the end.

    Raises `NotFound` for an unknown generator; erased and external records end a chain.
    """
    steps: list[TreatmentLineage] = []
    current = catalog.generators.get(generator_id)
    seen = {current.id}
    while current.treatment_id is not None:
        treatment = catalog.treatments.get(current.treatment_id)
        detectors = tuple(detector_lineage(catalog, treatment.detector_id))
        steps.append(TreatmentLineage(generator=current, treatment=treatment, detectors=detectors))
        current = catalog.generators.get(treatment.generator_id)
        if current.id in seen:
            break
        seen.add(current.id)
    return steps, current


def detector_lineage(catalog: Catalog, detector_id: str | None) -> Iterator[DetectorLineage]:
    """A detector and its ancestors."""
    seen: set[str] = set()
    while detector_id is not None and detector_id not in seen:
        seen.add(detector_id)
        try:
            detector = catalog.detectors.get(detector_id)
        except NotFound:
            return
        trained_on = detector.snapshot_id and training_set(catalog, detector.snapshot_id)
        yield DetectorLineage(detector=detector, trained_on=trained_on or None)
        detector_id = detector.parent


def training_set(catalog: Catalog, snapshot_id: str) -> TrainingSet:
    """A snapshot with counts of its rows."""
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


def snapshots_under(steps: list[TreatmentLineage]) -> list[str]:
    """The distinct snapshots in a generator's lineage, nearest first."""
    snapshot_ids = [one.trained_on.snapshot.id for step in steps for one in step.detectors if one.trained_on]
    return list(dict.fromkeys(snapshot_ids))


def labels_under(catalog: Catalog, snapshot_ids: list[str]) -> Iterator[UsedLabel]:
    """All human labels in these snapshots, one for each author of a merged label.

    The revision is the newest with the snapshot's map; for a merged label, each author's newest at the time
    of the snapshot.
    """
    items, labels = tables.snapshot_items.c, tables.labels.c
    for snapshot_id in snapshot_ids:
        created = catalog.snapshots.get(snapshot_id).created
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
                before = [one for one in known if one.created <= created]
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
