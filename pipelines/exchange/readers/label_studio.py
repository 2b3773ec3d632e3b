"""Read a Label Studio JSON export.

A task's picture is found as a file, or by its id in the workspace; nothing is fetched. Each author's newest
annotation counts, all those of unknown authors do. A region that cannot be read is refused alone, by name.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dataengine.bounds import check_drawn
from dataengine.errors import InputRefused
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.label_studio.file_names import Pictures, identity
from pipelines.exchange.label_studio.regions import draw, notes_aside, objects_of
from pipelines.exchange.label_studio.tasks import (
    UNKNOWN,
    Annotation,
    author_of,
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
from pipelines.exchange.safe_files import read_inside, read_json

LOSS = "predictions, drafts and skipped annotations are not kept"
WANTED = "export JSON from Label Studio"
MINIMAL = frozenset(("annotation_id", "annotator", "lead_time"))
"""Fields of JSON-MIN, of which a task of JSON has none."""


class _Task(NamedTuple):
    where: str
    task: dict[str, Any]
    annotations: list[Annotation]
    unreadable: list[str]
    file: str
    """The image's file; empty for an image that is known by its id."""
    note: Note


def read_label_studio(options: ImportOptions) -> Reading:
    """Read a JSON export, Label Studio's or ours. Images are found as files, or by their id in the
    workspace.

    Raises `InputRefused` for its other exports and what is none.
    """
    path = _file(options.path)
    tasks = _tasks(path)
    refused: list[Refusal] = []
    whole = options.path.is_dir() or (path.parent / "images").is_dir()
    root = options.images or (path.parent if whole else None)
    notes = _notes(root, refused) if root else {}
    found = list(_found(tasks, root, notes, refused))
    rows = list(_rows(found, root, options))
    aside = notes_aside(each.results for one in found for each in one.annotations)
    return Reading(rows=rows, total=len(rows), refused=refused, losses=(LOSS, *aside))


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / "tasks.json").is_file():
        return path / "tasks.json"
    found = sorted(path.glob("*.json"))
    if len(found) != 1:
        raise InputRefused(f"{path} contains {len(found)} JSON files; name Label Studio's JSON export itself")
    return found[0]


def _tasks(path: Path) -> list[Any]:
    """The list of tasks. Raises `InputRefused` that says which other file it is."""
    try:
        payload = read_json(path)
    except InputRefused as error:
        raise InputRefused(f"{error}; {WANTED}") from None
    if isinstance(payload, dict) and "images" in payload:
        raise InputRefused(f"{path.name} is a COCO file; import it with --format coco")
    if isinstance(payload, dict) and isinstance(payload.get("data"), dict):
        return [payload]
    if not isinstance(payload, list):
        raise InputRefused(f"{path.name} is not a Label Studio export: it must be a list of tasks; {WANTED}")
    if any(isinstance(one, dict) and "data" not in one and not MINIMAL.isdisjoint(one) for one in payload):
        raise InputRefused(
            f"{path.name} is Label Studio's JSON-MIN export, which leaves out skipped annotations, regions' "
            f"ids and whether the image was turned; {WANTED}"
        )
    return payload


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


def _found(
    tasks: list[Any], root: Path | None, notes: Mapping[str, Note], refused: list[Refusal]
) -> Iterator[_Task]:
    """The tasks whose image is known; of addresses that fit the same file, none is."""
    pictures = Pictures(root) if root else None
    found: list[_Task] = []
    addresses: dict[str, set[str]] = {}
    for position, task in enumerate(tasks):
        where = f"task {task.get('id', position)}" if isinstance(task, dict) else f"task {position}"
        try:
            if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                raise InputRefused("a task needs data")
            annotations, unreadable = _annotations(task)
            file, address = _place(task["data"], annotations, pictures)
            note = parse_note({name: task["data"].get(name) for name in NOTED})
            if note.split is None:
                note = notes.get(same_name(file), note)
        except InputRefused as error:
            refused.append(Refusal(where, str(error)))
            continue
        if file:
            addresses.setdefault(file, set()).add(identity(address))
        found.append(_Task(where, task, annotations, unreadable, file, note))
    for one in found:
        if len(addresses.get(one.file, ())) > 1:
            names = ", ".join(map(repr, sorted(addresses[one.file])[:2]))
            reason = f"{names} would all be the file {displayable_name(one.file)!r}; name the files as there"
            refused.append(Refusal(one.where, reason))
        else:
            yield one


def _rows(found: Iterable[_Task], root: Path | None, options: ImportOptions) -> Iterator[Row]:
    for where, task, annotations, unreadable, file, note in found:
        answers = None
        if annotations or unreadable or (options.clean and _is_unanswered(task)):
            answers = partial(_answers, annotations, unreadable, task.get("id"), options)
        if root and file:
            yield Row(name=where, answers=answers, load=partial(_load, root, file, note))
        else:
            yield Row(name=where, answers=answers, image=task["data"]["clinic_id"])


def _annotations(task: dict[str, Any]) -> tuple[list[Annotation], list[str]]:
    """The annotations of a task, and why others cannot be read."""
    payload = task.get("annotations", task.get("completions")) or []  # as versions before 1.0 called them
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


def _place(
    data: Mapping[str, Any], annotations: list[Annotation], pictures: Pictures | None
) -> tuple[str, str]:
    """The image's file and its address in the task; both empty if the image is known by its id.

    Raises `InputRefused` if there is neither, or several files of which the annotations do not say which one
    is marked.
    """
    addresses = {name: value for name, value in data.items() if isinstance(value, str) and value}
    found: dict[str, str] = {}
    if pictures:
        if file := pictures.find(addresses.get("file_name", "")):
            return file, addresses["file_name"]
        found = {name: file for name, value in addresses.items() if (file := pictures.find(value))}
        marked = set[str]().union(*(objects_of(each.results) for each in annotations))
        # By convention an Image tag has the name of the field that it shows.
        wanted = marked or {"image"}
        meant = wanted if len(set(found.values())) > 1 and wanted <= found.keys() else found.keys()
        if len({found[name] for name in meant}) == 1:
            name = next(iter(meant))
            return found[name], addresses[name]
    if "clinic_id" in addresses:
        return "", ""
    if found:
        names = ", ".join(sorted(found))
        raise InputRefused(f"its data names several pictures ({names}), and which is marked is not said")
    name = identity(addresses.get("image") or next(iter(addresses.values()), ""))
    if pictures:
        raise InputRefused(f"{pictures.name}/ has no file {name[-100:]!r}, or several of its name")
    raise InputRefused(
        f"no file {name[-100:]!r} and no clinic_id; give the folder of the images with --images"
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
    # Those without an author may be several people's, so none of them replaces another.
    newest = {
        (each.author, number if each.author == UNKNOWN else 0): each
        for number, each in enumerate(sorted(annotations, key=lambda each: each.updated))
    }
    for each in newest.values():
        yield _answer(each, task, options, height, width)
    if unreadable:
        yield ImportedAnnotation(author=EVERYBODY, label_map=None, refused=tuple(unreadable))


def _answer(
    annotation: Annotation, task: Any, options: ImportOptions, height: int, width: int
) -> ImportedAnnotation:
    drawing = draw(annotation.results, height, width, options)
    named = annotation.author != UNKNOWN or not options.author
    where = f"annotation {annotation.id}"
    return ImportedAnnotation(
        author=annotation.author if named else options.author,
        label_map=drawing.label_map,
        lead_seconds=annotation.lead_seconds,
        note="" if annotation.ours else note_of(annotation, task),
        created=annotation.updated or None,
        refused=tuple(f"{where}, {reason}" for reason in drawing.refused),
        left_out=tuple(f"{where}, {reason}" for reason in drawing.left_out),
    )
