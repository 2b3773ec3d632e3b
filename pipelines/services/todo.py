"""What waits for a person: images to label, labels to review, repairs to decide, studies to judge."""

from collections.abc import Collection
from dataclasses import dataclass

from dataengine.records import now
from pipelines.services.studies.voting import is_for, left_for
from storage.catalog import Catalog
from storage.queries.annotation import annotator_day
from storage.queries.repairs import count_of_repairs
from storage.queries.reviews import review_counts
from storage.queries.studies import pairs_answered
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Task:
    """So many things of a kind wait, and where they are done."""

    count: int
    text: str
    path: str


def is_guest(workspace: Workspace, name: str) -> bool:
    """Whether this person was invited to one study, and may see nothing else."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.guests.find(name) is not None


def tasks_of(workspace: Workspace, name: str, roles: Collection[str]) -> list[Task]:
    """What waits for this person in each of their roles; what does not wait is left out."""
    held = set(roles)
    with workspace.catalog(read_only=True) as catalog:
        tasks = [
            *(_of_annotator(catalog, name) if held & {"annotator", "admin"} else []),
            *(_of_curator(catalog) if held & {"curator", "admin"} else []),
            *(_of_rater(catalog, name) if held & {"rater", "admin"} else []),
            *(_of_engineer(catalog) if held & {"engineer", "admin"} else []),
        ]
    return [task for task in tasks if task.count]


def _of_annotator(catalog: Catalog, name: str) -> list[Task]:
    at = now()
    drawing, triage = (annotator_day(catalog, name, at, at, kind).remaining for kind in ("draw", "triage"))
    return [
        Task(count=drawing, text=f"{_counted(drawing, 'image')} to label", path="/annotate"),
        Task(count=triage, text=f"{_counted(triage, 'image')} to triage", path="/annotate"),
    ]


def _of_curator(catalog: Catalog) -> list[Task]:
    labels, repairs = review_counts(catalog)["unreviewed"], count_of_repairs(catalog)["proposed"]
    return [
        Task(
            count=labels, text=f"{_counted(labels, 'label')} to review", path="/curate?view=review&by=anyone"
        ),
        Task(count=repairs, text=f"{_counted(repairs, 'repair')} to decide", path="/curate?view=repairs"),
    ]


def _of_rater(catalog: Catalog, name: str) -> list[Task]:
    """Studies of which this person has pairs left; one that they have not begun counts as a whole."""
    studies = [
        study
        for study in catalog.studies.list()
        if study.state == "open" and is_for(catalog, study, name) and left_for(catalog, study, name)
    ]
    begun = sum(bool(pairs_answered(catalog, study.id, name)) for study in studies)
    text = f"{len(studies)} {'study' if len(studies) == 1 else 'studies'} to judge"
    return [Task(count=len(studies), text=text + f", {begun} begun" * bool(begun), path="/study")]


def _of_engineer(catalog: Catalog) -> list[Task]:
    running = len(catalog.jobs.list(states=("queued", "running"), limit=1000))
    waiting = len(catalog.rounds.in_state("waiting"))
    return [
        Task(count=running, text=f"{_counted(running, 'job')} running or queued", path="/rounds?view=jobs"),
        Task(count=waiting, text=f"{_counted(waiting, 'round')} waiting for people", path="/rounds"),
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
