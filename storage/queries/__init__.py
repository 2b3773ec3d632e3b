"""What screens show: rows shaped for them, read through a (read-only) unit of work.

Pages of images stand in `storage.queries.images`, the curation desk in `storage.queries.curation`, blind
studies in `storage.queries.studies`, and what was made of what in `storage.queries.lineage`.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, or_, select

from dataengine.records import Lease, Round
from storage import schema
from storage.catalog import Catalog
from storage.queries.images import champion_id
from storage.repositories.labelling import open_to


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The workspace in figures, for the home page and `clinic status`."""

    images: dict[str, int]
    """By source."""
    splits: dict[str, int]
    labelled: int
    waiting: int
    """Queue items that still need opinions."""
    pseudo_labels: int
    snapshots: int
    detectors: int
    generators: int
    treatments: int
    studies: int
    users: int
    jobs: dict[str, int]
    """By state."""
    rounds: dict[str, int]
    """By state."""
    champion: str | None


def overview(catalog: Catalog) -> Overview:
    """Counts of everything."""

    def total(name: str) -> int:
        table = schema.metadata.tables[name]
        return catalog.connection.scalar(select(func.count()).select_from(table)) or 0

    def grouped(column: ColumnElement[str]) -> dict[str, int]:
        rows = catalog.connection.execute(select(column, func.count()).group_by(column).order_by(column))
        return {name: count for name, count in rows}

    labelled = select(func.count(func.distinct(schema.labels.c.image_id)))
    return Overview(
        images=grouped(schema.images.c.source),
        splits=grouped(schema.images.c.split),
        labelled=catalog.connection.scalar(labelled) or 0,
        waiting=catalog.queue.remaining(),
        pseudo_labels=total("pseudo_labels"),
        snapshots=total("snapshots"),
        detectors=total("detectors"),
        generators=total("generators"),
        treatments=total("treatments"),
        studies=total("studies"),
        users=catalog.users.count(),
        jobs=grouped(schema.jobs.c.state),
        rounds=grouped(schema.rounds.c.state),
        champion=champion_id(catalog),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundProgress:
    """A round and what it has brought so far."""

    round: Round
    images: dict[str, int]
    """By purpose."""
    queued: int
    answered: int
    labels: int
    pseudo_labels: int
    hard_categories: tuple[str, ...]


def round_progress(catalog: Catalog, round_id: str) -> RoundProgress:
    """Where a round stands. Raises `NotFound`."""
    images, labels, pseudo = schema.images.c, schema.labels.c, schema.pseudo_labels.c
    by_purpose = catalog.connection.execute(
        select(images.purpose, func.count())
        .where(images.round_id == round_id)
        .group_by(images.purpose)
        .order_by(images.purpose)
    )
    pairs = select(labels.image_id, labels.author).where(labels.round_id == round_id).distinct().subquery()
    remaining, done = catalog.queue.remaining(round_id), catalog.queue.done(round_id)
    pseudo_count = select(func.count()).select_from(schema.pseudo_labels).where(pseudo.round_id == round_id)
    return RoundProgress(
        round=catalog.rounds.get(round_id),
        images={purpose: count for purpose, count in by_purpose},
        queued=remaining + done,
        answered=done,
        labels=catalog.connection.scalar(select(func.count()).select_from(pairs)) or 0,
        pseudo_labels=catalog.connection.scalar(pseudo_count) or 0,
        hard_categories=tuple(one.category for one in catalog.hard.of_round(round_id) if one.hard),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorDay:
    """What an annotator sees in the corner of the page."""

    remaining: int
    """Items of that kind that this person may still answer."""
    done_today: int
    leases: tuple[Lease, ...]


def annotator_day(
    catalog: Catalog, annotator: str, now: float, day_start: float, kind: str = "draw"
) -> AnnotatorDay:
    """A person's own queue: what they have not answered, what they did since `day_start`, what they hold."""
    items, answers = schema.queue_items.c, schema.queue_answers.c
    answered = exists().where(
        answers.image_id == items.image_id,
        answers.round_id == items.round_id,
        answers.kind == items.kind,
        answers.author == annotator,
    )
    remaining = (
        select(func.count())
        .select_from(schema.queue_items)
        .where(items.kind == kind, items.done.is_(False), ~answered, open_to(annotator))
    )
    return AnnotatorDay(
        remaining=catalog.connection.scalar(remaining) or 0,
        done_today=catalog.labels.count(annotator, since=day_start),
        leases=tuple(catalog.queue.held(annotator, now)),
    )


def is_shown(catalog: Catalog, sha256: str) -> bool:
    """Whether a blob is the picture or thumbnail of an image in use, so that a page may serve it."""
    images = schema.images.c
    found = select(images.id).where(
        or_(images.sha256 == sha256, images.thumbnail == sha256), images.status == "active"
    )
    return catalog.connection.scalar(found.limit(1)) is not None
