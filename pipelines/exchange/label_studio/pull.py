"""Pull from Label Studio: annotations become labels, and their changes and deletions are applied.

The whole project is read each time and compared with the stored labels, so that lost webhooks do no harm.
Unchanged annotations are skipped, so that an interrupted or repeated pull creates no duplicates.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataengine.errors import InputRefused
from dataengine.records import Image, Label, Report, Review, no_report
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.label_studio.regions import draw, notes_aside
from pipelines.exchange.label_studio.server import Server, brush_labels, translating_errors
from pipelines.exchange.label_studio.tasks import (
    Annotation,
    author_of,
    note_of,
    read_annotation,
)
from pipelines.exchange.labels import ImportedAnnotation, PackedAnnotation, pack, reasons_of, store_new_labels
from pipelines.exchange.metadata import Refusal
from pipelines.exchange.safe_files import read_json
from storage.workspace import Workspace

BATCH = 64
REVIEWER = "label-studio"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """Counts of annotations read, labels new or changed, labels withdrawn because their annotation was
    deleted, and deleted tasks (their labels stay); refused annotations and regions; and what was left aside.
    """

    annotations: int
    labels: int
    withdrawn: int
    tasks_gone: int
    refused: tuple[Refusal, ...] = ()
    losses: tuple[str, ...] = ()


def pull(
    workspace: Workspace, server: Server, project: str, *, partial: bool = False, report: Report = no_report
) -> Pulled:
    """Update the workspace's labels from the project's annotations.

    Each author's newest annotation of an image is used. Alpha of at least 128 counts as painted. Raises as
    `Server`; bad regions are refused by name, and with them their annotation, unless `partial`
    keeps the rest.
    """
    home = server.project(project)
    if home is None:
        raise InputRefused(f"{server.url} has no project {project!r}; was it deleted, or the name mistyped?")
    brush_labels(home)
    people = _people(server)
    tasks = {task["id"]: task for task in server.tasks(home.id)}
    refused: list[Refusal] = []
    newest: dict[tuple[str, str], tuple[Annotation, int]] = {}
    count = 0
    for task_id, image_id, annotation in _annotations(server, home.id, people, refused):
        count += 1
        key = (image_id, annotation.author)
        if key not in newest or newest[key][0].updated <= annotation.updated:
            newest[key] = (annotation, task_id)
    place = {"url": server.url, "project": home.id}
    mine = _labels_of(workspace, set(people.values()), place)
    labels = _keep(workspace, newest, mine, place, tasks, refused, partial, report)
    withdrawn, gone = _withdraw(workspace, mine, newest, tasks)
    return Pulled(
        annotations=count,
        labels=labels,
        withdrawn=withdrawn,
        tasks_gone=gone,
        refused=tuple(refused),
        losses=notes_aside(annotation.results for annotation, _ in newest.values()),
    )


def _people(server: Server) -> dict[int, str]:
    with translating_errors(server.url):
        return {user.id: author_of({"email": user.email}) for user in server.client.users.list()}


def _annotations(
    server: Server, project_id: int, people: dict[int, str], refused: list[Refusal]
) -> Iterator[tuple[int, str, Annotation]]:
    """Every annotation of the tasks that we pushed, from the server's export."""
    named: Callable[[Any], str] = lambda payload: people.get(payload) or author_of(payload)  # noqa: E731
    for task in _exported(server, project_id):
        image_id = (task.get("data") or {}).get("clinic_id")
        if not isinstance(image_id, str):
            refused.append(
                Refusal(f"task {task.get('id')}", "has no clinic_id; it was not pushed by Artifact Clinic")
            )
            continue
        for payload in task.get("annotations") or []:
            try:
                annotation = read_annotation(payload, named)
            except InputRefused as error:
                refused.append(Refusal(f"task {task.get('id')}", str(error)))
            else:
                if annotation is not None:
                    yield int(task["id"]), image_id, annotation


def _exported(server: Server, project_id: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="clinic-pull-") as folder:
        path = Path(folder) / "export.json"
        with translating_errors(server.url), path.open("wb") as file:
            for part in server.client.projects.exports.download_sync(project_id, export_type="JSON"):
                file.write(part)
        payload = read_json(path)
    if not isinstance(payload, list):
        raise InputRefused(
            f"the export of {server.url} is not a list of tasks; is the server's version newer?"
        )
    return [task for task in payload if isinstance(task, dict)]


def _labels_of(workspace: Workspace, authors: set[str], place: dict[str, Any]) -> list[Label]:
    """The newest label of each image and author that came from this project."""
    found: dict[tuple[str, str], Label] = {}
    with workspace.catalog(read_only=True) as catalog:
        for author in sorted(authors):
            for label in catalog.labels.by(author):
                known = found.get((label.image_id, author))
                if known is None or known.revision < label.revision:
                    found[label.image_id, author] = label
    return [label for label in found.values() if place.items() <= annotation_reference(label).items()]


def annotation_reference(label: Label) -> dict[str, Any]:
    """The annotation that a label came from, as stored in its note; empty for labels from elsewhere."""
    try:
        payload = json.loads(label.note).get("label_studio", {}) if label.note.startswith("{") else {}
    except (ValueError, AttributeError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _keep(
    workspace: Workspace,
    newest: dict[tuple[str, str], tuple[Annotation, int]],
    mine: list[Label],
    place: dict[str, Any],
    tasks: dict[int, dict[str, Any]],
    refused: list[Refusal],
    partial: bool,
    report: Report,
) -> int:
    """Store labels of new or changed annotations in batches; returns their number."""
    known = {(label.image_id, label.author): label.note for label in mine}
    notes = {key: note_of(annotation, task, **place) for key, (annotation, task) in newest.items()}
    changed = sorted(key for key in newest if known.get(key) != notes[key])
    with workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.get_many(sorted({key[0] for key in changed}))}
        options = ImportOptions(path=Path(), classes=catalog.classes.names())
        rounds = {row.id for row in catalog.rounds.list()} | catalog.queue.rounds()
        waiting: dict[str, list[str]] = {}
        for item in catalog.queue.waiting():
            waiting.setdefault(item.image_id, []).append(item.round_id)
    labels = 0
    for start in range(0, len(changed), BATCH):
        report(start, len(changed), "pulling")
        pairs: list[tuple[Image, PackedAnnotation]] = []
        for key in changed[start : start + BATCH]:
            annotation, task = newest[key]
            image = images.get(key[0])
            name = f"task {task}, annotation {annotation.id}"
            try:
                if image is None:
                    raise InputRefused(f"image {key[0]!r} is not in this workspace; was it erased?")
                asked = str(tasks.get(task, {}).get("data", {}).get("round", ""))
                drawing = draw(annotation.results, image.height, image.width, options)
                answer = ImportedAnnotation(
                    author=annotation.author,
                    label_map=drawing.label_map,
                    lead_seconds=annotation.lead_seconds,
                    note=notes[key],
                    created=annotation.updated or None,
                    round_id=_answered(asked, waiting.get(image.id, []), rounds),
                    refused=drawing.refused,
                    left_out=drawing.left_out,
                )
                marked = answer.label_map is not None
                if reasons := reasons_of(answer, marked, partial):
                    refused.append(Refusal(name, reasons))
                if answer.refused and not (marked and partial):
                    continue
                packed = pack(answer, image.height, image.width, len(options.classes))
            except InputRefused as error:
                refused.append(Refusal(name, str(error)))
                continue
            pairs.append((image, packed))
        labels += store_new_labels(workspace, pairs, source="person")
    report(len(changed), len(changed), "pulled")
    return labels


def _answered(asked: str, waiting: list[str], rounds: set[str]) -> str | None:
    """The round that an annotation answers: its task's, unless the image waits in others alone."""
    if waiting and asked not in waiting:
        return waiting[0]
    return asked if asked in rounds else None


def _withdraw(
    workspace: Workspace,
    mine: list[Label],
    newest: dict[tuple[str, str], tuple[Annotation, int]],
    tasks: dict[int, dict[str, Any]],
) -> tuple[int, int]:
    """Reject labels whose annotation was deleted; returns their number, and that of deleted tasks."""
    gone = {annotation_reference(label).get("task") for label in mine} - tasks.keys()
    deleted = [
        label
        for label in mine
        if (label.image_id, label.author) not in newest and annotation_reference(label).get("task") in tasks
    ]
    with workspace.catalog() as catalog:
        withdrawn = sum(
            catalog.reviews.add(
                Review(
                    image_id=label.image_id,
                    author=label.author,
                    revision=label.revision,
                    reviewer=REVIEWER,
                    verdict="rejected",
                    note="its annotation was deleted in Label Studio",
                )
            )
            for label in deleted
        )
        catalog.commit()
    return withdrawn, len(gone)
