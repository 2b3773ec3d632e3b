"""Read models of what rounds, trainings and treatments cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select

from dataengine.records import CLINIC, INJECTED
from storage import tables
from storage.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What was spent on one round, or on one job outside rounds.

    Device seconds count every attempt, waiting for the device excluded; people's seconds are those that the
    pages measured, breaks left out as they do.
    """

    of: str
    """The round's or the job's id."""
    kind: str
    """"round", or the job's kind."""
    created: float
    device_seconds: Mapping[str, float] = field(default_factory=dict)
    """By kind of device, such as "cpu" or a card's name."""
    images: int = 0
    """Images that it made."""
    labels: int = 0
    """Labels by people, not by simulated annotators; revisions of one image by one person count once."""
    label_seconds: float = 0.0
    votes: int = 0
    """Answers of raters in studies of this round."""
    vote_seconds: float = 0.0


def costs(catalog: Catalog) -> list[Cost]:
    """One row for each round, then one for each job outside rounds that held a device; the oldest first."""
    rounds = catalog.rounds.list()
    spent = _device_seconds(catalog)
    of_round: dict[str, dict[str, float]] = {row.id: {} for row in rounds}
    others: dict[str, dict[str, float]] = {}
    for job_id, devices in spent.items():
        mine = of_round.get(job_id.partition(".")[0])
        if mine is None:
            others[job_id] = devices
            continue
        for device, seconds in devices.items():
            mine[device] = mine.get(device, 0.0) + seconds
    images, labels, votes = _images(catalog), _labels(catalog), _votes(catalog)
    found = [
        Cost(
            of=row.id,
            kind="round",
            created=row.created,
            device_seconds=of_round[row.id],
            images=images.get(row.id, 0),
            labels=labels.get(row.id, (0, 0.0))[0],
            label_seconds=labels.get(row.id, (0, 0.0))[1],
            votes=votes.get(row.id, (0, 0.0))[0],
            vote_seconds=votes.get(row.id, (0, 0.0))[1],
        )
        for row in rounds
    ]
    jobs = [catalog.jobs.get(id) for id in others]
    return found + [
        Cost(of=job.id, kind=job.kind, created=job.created, device_seconds=others[job.id])
        for job in sorted(jobs, key=lambda job: (job.created, job.id))
    ]


def _device_seconds(catalog: Catalog) -> dict[str, dict[str, float]]:
    table = tables.device_seconds.c
    found: dict[str, dict[str, float]] = {}
    rows = select(table.job_id, table.device, table.seconds).order_by(table.job_id, table.device)
    for job_id, device, seconds in catalog.connection.execute(rows):
        found.setdefault(job_id, {})[device] = seconds
    return found


def _images(catalog: Catalog) -> dict[str, int]:
    images = tables.images.c
    counted = select(images.round_id, func.count()).where(images.round_id.is_not(None))
    return {id: count for id, count in catalog.connection.execute(counted.group_by(images.round_id))}


def _labels(catalog: Catalog) -> dict[str, tuple[int, float]]:
    labels = tables.labels.c
    by_people = labels.source.not_in(("simulated", INJECTED)) & (labels.author != CLINIC)
    mine = labels.round_id.is_not(None) & by_people
    pairs = select(labels.round_id, labels.image_id, labels.author).where(mine).distinct().subquery()
    counted = select(pairs.c.round_id, func.count()).group_by(pairs.c.round_id)
    spent = select(labels.round_id, func.sum(labels.lead_seconds)).where(mine).group_by(labels.round_id)
    seconds = {id: float(total or 0.0) for id, total in catalog.connection.execute(spent)}
    return {id: (count, seconds[id]) for id, count in catalog.connection.execute(counted)}


def _votes(catalog: Catalog) -> dict[str, tuple[int, float]]:
    votes, studies = tables.votes.c, tables.studies.c
    counted = (
        select(studies.round_id, func.count(), func.sum(votes.seconds))
        .select_from(tables.votes.join(tables.studies, votes.study_id == studies.id))
        .where(studies.round_id.is_not(None))
        .group_by(studies.round_id)
    )
    return {id: (count, float(spent or 0.0)) for id, count, spent in catalog.connection.execute(counted)}
