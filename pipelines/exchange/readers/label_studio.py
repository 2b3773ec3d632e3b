"""Read a Label Studio JSON export."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.bounds import check_drawn
from dataengine.errors import InputRefused
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.label_studio.tasks import (
    Annotation,
    author_of,
    label_map_of,
    note_of,
    read_annotation,
)
from pipelines.exchange.labels import EVERYBODY, ImportedAnnotation
from pipelines.exchange.metadata import (
    NOTED,
    TABLE,
    Note,
    Refusal,
    displayable_name,
    parse_note,
    read_table,
    same_name,
)
from pipelines.exchange.safe_files import path_inside, read_inside, read_json


def read_label_studio(options: ImportOptions) -> Reading:
    """Read a JSON export, Label Studio's or ours. Images are found as files, or by their id in the
    workspace."""
    path = options.path if options.path.is_file() else options.path / "tasks.json"
    if not path.is_file():
        raise InputRefused(f"{options.path} contains no tasks.json; give Label Studio's JSON export")
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise InputRefused(f"{path.name} is not a Label Studio export: it must be a list of tasks")
    refused: list[Refusal] = []
    root = options.images or (path.parent if (path.parent / "images").is_dir() else None)
    losses = ("predictions, drafts and skipped annotations are not kept",)
    notes = _notes(root, refused) if root else {}
    rows = list(_rows(tasks, root, notes, options, refused))
    return Reading(rows=rows, total=len(rows), refused=refused, losses=losses)


def _notes(root: Path, refused: list[Refusal]) -> dict[str, Note]:
    """The table that our export writes beside the images; splits of older exports stand there alone."""
    notes: dict[str, Note] = {}
    for place in ("", "images/"):
        try:
            table = read_table(root / place).notes
        except InputRefused as error:
            refused.append(Refusal(TABLE, str(error)))
            continue
        notes |= {place + name: note for name, note in table.items()}
    return notes


def _rows(
    tasks: list[Any],
    root: Path | None,
    notes: Mapping[str, Note],
    options: ImportOptions,
    refused: list[Refusal],
) -> Iterator[Row]:
    for position, task in enumerate(tasks):
        where = f"task {task.get('id', position)}" if isinstance(task, dict) else f"task {position}"
        try:
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise InputRefused("a task needs data")
            place = _place(task["data"], root, notes)
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        annotations, unreadable = _annotations(task.get("annotations") or [])
        answers = None
        if annotations or unreadable or (options.clean and _is_unanswered(task)):
            answers = partial(_answers, annotations, unreadable, task.get("id"), options)
        yield Row(name=where, answers=answers, **place)


def _annotations(payload: Any) -> tuple[list[Annotation], list[str]]:
    """The annotations of a task, and why others cannot be read."""
    if not isinstance(payload, list):
        return [], ["annotations must be a list"]
    annotations, unreadable = [], []
    for one in payload:
        try:
            if one and (annotation := read_annotation(one, author_of)):
                annotations.append(annotation)
        except InputRefused as error:
            unreadable.append(str(error))
    return annotations, unreadable


def _is_unanswered(task: dict[str, Any]) -> bool:
    """Whether nobody has said anything about the task: no annotation, no draft, and it was not skipped."""
    counts = ("total_annotations", "cancelled_annotations", "drafts")
    return task.get("annotations") == [] and not any(task.get(name) for name in counts)


def _place(data: Mapping[str, Any], root: Path | None, notes: Mapping[str, Note]) -> dict[str, Any]:
    """The image's file below `root`, or else its id."""
    payload = data.get("file_name") or str(data.get("image") or "").partition("?d=")[2]
    name = str(payload or data.get("image") or "").rpartition("://")[2]
    if root is not None and name:
        for candidate in dict.fromkeys((name.lstrip("/"), name.rpartition("/")[2])):
            if candidate and path_inside(root, candidate).is_file():
                note = parse_note({name: data.get(name) for name in NOTED})
                if note.split is None:
                    note = notes.get(same_name(candidate), note)
                return {"load": partial(_load, root, candidate, note)}
    if isinstance(data.get("clinic_id"), str):
        return {"image": data["clinic_id"]}
    raise InputRefused(
        f"no file {displayable_name(name)!r} and no clinic_id; give the folder of the images with --images"
    )


def _load(root: Path, name: str, note: Note) -> tuple[bytes, Note]:
    return read_inside(root, name)[0], note


def _answers(
    annotations: list[Annotation],
    unreadable: list[str],
    task: Any,
    options: ImportOptions,
    height: int,
    width: int,
) -> Iterator[ImportedAnnotation]:
    if not annotations and not unreadable:
        author = options.author or "import:label-studio"
        yield ImportedAnnotation(author=author, label_map=None, implied=True)
    check_drawn(sum(len(each.results) for each in annotations), height, width)
    newest = {each.author: each for each in sorted(annotations, key=lambda each: each.updated)}
    for each in newest.values():
        yield _answer(each, task, options, height, width)
    if unreadable:
        yield ImportedAnnotation(author=EVERYBODY, label_map=None, refused=tuple(unreadable))


def _answer(
    annotation: Annotation, task: Any, options: ImportOptions, height: int, width: int
) -> ImportedAnnotation:
    label_map, refused = None, tuple[str, ...]()
    try:
        label_map = label_map_of(annotation.results, height, width, options.class_value)
    except InputRefused as error:
        refused = (f"annotation {annotation.id}: {error}",)
    return ImportedAnnotation(
        author=options.author or annotation.author,
        label_map=label_map,
        lead_seconds=annotation.lead_seconds,
        note=note_of(annotation, task),
        created=annotation.updated or None,
        refused=refused,
    )
