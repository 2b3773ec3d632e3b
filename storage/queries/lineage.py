"""From a treated generator back to every label that it rests on."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import func, select

from dataengine.errors import NotFound
from dataengine.records import DetectorVersion, GeneratorVersion, Snapshot, Treatment
from storage import schema
from storage.catalog import Catalog

ROW = ("snapshot_id", "position", "image_id", "kind", "author", "target")


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
    items = schema.snapshot_items.c
    inside = items.snapshot_id == snapshot_id
    kinds = select(items.kind, func.count()).where(inside).group_by(items.kind).order_by(items.kind)
    authors = (
        select(items.author, func.count())
        .where(inside, items.author.is_not(None))
        .group_by(items.author)
        .order_by(func.count().desc(), items.author)
    )
    return TrainingSet(
        snapshot=catalog.snapshots.get(snapshot_id),
        kinds=dict(catalog.connection.execute(kinds).tuples().all()),
        authors={str(author): count for author, count in catalog.connection.execute(authors)},
    )


def snapshots_under(steps: list[Treated]) -> list[str]:
    """The snapshots behind a generator, each once, the nearest first."""
    found = [one.trained_on.snapshot.id for step in steps for one in step.detectors if one.trained_on]
    return list(dict.fromkeys(found))


def labels_under(catalog: Catalog, snapshot_ids: list[str]) -> Iterator[UsedLabel]:
    """Every label by people in these snapshots: the revision whose map went in, the newest of equal ones."""
    items, labels = schema.snapshot_items.c, schema.labels.c
    same_map = (items.target == labels.label_map) | (items.target.is_(None) & labels.clean.is_(True))
    matching = (labels.image_id == items.image_id) & (labels.author == items.author) & same_map
    for snapshot_id in snapshot_ids:
        statement = (
            select(
                items.snapshot_id,
                items.image_id,
                items.kind,
                items.author,
                func.max(labels.revision).label("revision"),
                func.max(labels.created).label("created"),
                items.target.is_(None).label("clean"),
            )
            .select_from(schema.snapshot_items.outerjoin(schema.labels, matching))
            .where(items.snapshot_id == snapshot_id, items.author.is_not(None))
            .group_by(
                items.snapshot_id, items.position, items.image_id, items.kind, items.author, items.target
            )
            .order_by(items.position)
        )
        for row in catalog.connection.execute(statement).mappings():
            yield UsedLabel(**{**row, "clean": bool(row["clean"])})
