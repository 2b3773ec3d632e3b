"""Read models of rounds."""

from dataclasses import dataclass

from sqlalchemy import func, select

from dataengine.records import Job, Round
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Labeller:
    """One person's labels in a round; revisions of one image count once, their seconds are summed."""

    author: str
    images: int
    clean: int
    seconds: float


def stage_jobs(catalog: Catalog, round_id: str) -> list[Job]:
    """Every job of a round's stages, oldest first."""
    jobs = tables.jobs.c
    ids = select(jobs.id).where(jobs.id.startswith(f"{round_id}.", autoescape=True)).order_by(jobs.created)
    return [catalog.jobs.get(id) for id in catalog.connection.scalars(ids).all()]


def labellers(catalog: Catalog, round_id: str) -> list[Labeller]:
    """The annotators of a round, the most productive first."""
    labels = tables.labels.c
    latest = (
        select(labels.image_id, labels.author, func.max(labels.revision).label("revision"))
        .where(labels.round_id == round_id)
        .group_by(labels.image_id, labels.author)
        .subquery()
    )
    newest = (
        (labels.image_id == latest.c.image_id)
        & (labels.author == latest.c.author)
        & (labels.revision == latest.c.revision)
    )
    clean = func.count().filter(labels.clean.is_(True))
    answered = (
        select(labels.author, func.count(), clean)
        .join(latest, newest)
        .group_by(labels.author)
        .order_by(func.count().desc(), labels.author)
    )
    spent = (
        select(labels.author, func.sum(labels.lead_seconds))
        .where(labels.round_id == round_id)
        .group_by(labels.author)
    )
    seconds = {author: total for author, total in catalog.connection.execute(spent)}
    return [
        Labeller(author=author, images=images, clean=without, seconds=seconds[author])
        for author, images, without in catalog.connection.execute(answered)
    ]


def open_assignments(catalog: Catalog, round_id: str) -> tuple[dict[str, int], int]:
    """Open images of a round: reserved ones by person, and the number of unreserved ones."""
    items, assignees = tables.queue_items.c, tables.queue_takers.c
    reserved = (
        (assignees.image_id == items.image_id)
        & (assignees.round_id == items.round_id)
        & (assignees.kind == items.kind)
    )
    open_ones = items.round_id == round_id, items.done.is_(False)
    by_person = catalog.connection.execute(
        select(assignees.person, func.count())
        .select_from(tables.queue_items.join(tables.queue_takers, reserved))
        .where(*open_ones)
        .group_by(assignees.person)
        .order_by(assignees.person)
    )
    taken = select(assignees.image_id).where(reserved).exists()
    free = select(func.count()).select_from(tables.queue_items).where(*open_ones, ~taken)
    return {person: count for person, count in by_person}, catalog.connection.scalar(free) or 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundProgress:
    """A round and its results so far."""

    round: Round
    images: dict[str, int]
    """Images by purpose."""
    queued: int
    answered: int
    labels: int
    pseudo_labels: int
    hard_categories: tuple[str, ...]


def round_progress(catalog: Catalog, round_id: str) -> RoundProgress:
    """The progress of a round. Raises `NotFound`."""
    images, labels, pseudo = tables.images.c, tables.labels.c, tables.pseudo_labels.c
    by_purpose = catalog.connection.execute(
        select(images.purpose, func.count())
        .where(images.round_id == round_id)
        .group_by(images.purpose)
        .order_by(images.purpose)
    )
    pairs = select(labels.image_id, labels.author).where(labels.round_id == round_id).distinct().subquery()
    remaining, done = catalog.queue.remaining(round_id), catalog.queue.done(round_id)
    pseudo_count = select(func.count()).select_from(tables.pseudo_labels).where(pseudo.round_id == round_id)
    return RoundProgress(
        round=catalog.rounds.get(round_id),
        images={purpose: count for purpose, count in by_purpose},
        queued=remaining + done,
        answered=done,
        labels=catalog.connection.scalar(select(func.count()).select_from(pairs)) or 0,
        pseudo_labels=catalog.connection.scalar(pseudo_count) or 0,
        hard_categories=tuple(one.category for one in catalog.hard.of_round(round_id) if one.hard),
    )
