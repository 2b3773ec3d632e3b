"""Labels of an import: kept until every entry of each image is known, then one for each author.

A dataset may name an image more than once: joined files, two mask files, a byte-identical copy under another
name. All marks of an author count as one label, whatever the order of the entries. An image is free of
artifacts only if no entry of it is marked and none was refused.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from dataengine.defects import marked_regions, regions_of
from dataengine.masks import LabelMap, PackedMap
from dataengine.records import INJECTED, Image, Label, LabelSource, Region, now
from storage.workspace import Workspace

BATCH = 256
NAMED = 3
"""Number of reasons that one line names; the others are counted."""
EVERYBODY = ""
"""In place of an author: the whole entry was refused, whoever answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedAnnotation:
    """An annotation of an image: a label map, or None if nothing is broken."""

    author: str
    label_map: LabelMap | None
    lead_seconds: float = 0.0
    note: str = ""
    created: float | None = None
    round_id: str | None = None
    implied: bool = False
    """Clean because the dataset says nothing about the image, not because its author said so."""
    refused: tuple[str, ...] = ()
    """Why parts of it could not be used; without these parts it is no whole label."""
    left_out: tuple[str, ...] = ()
    """Shapes that mark nothing, such as polygons of two points; the label is whole without them."""
    remark: str = ""
    """How its mask was read, where that is not obvious."""
    regions: tuple[Region, ...] = ()
    """Reasons and importance of its regions."""


def with_regions(
    answer: ImportedAnnotation, payloads: Any, values: Mapping[int, int] | None = None
) -> ImportedAnnotation:
    """The annotation with what our own files say of its regions; what is wrong there costs itself alone.

    `values` translates classes of the file into ours.
    """
    if not payloads or answer.label_map is None:
        return answer
    height, width = answer.label_map.shape
    regions, wrong = regions_of(payloads, height, width, values)
    kept = marked_regions(regions, answer.label_map)
    wrong += [f"a region {one.box} marks nothing" for one in regions if one not in kept]
    return replace(answer, regions=kept, left_out=(*answer.left_out, *wrong))


PackedAnnotation = tuple[ImportedAnnotation, PackedMap | None]


def pack(answer: ImportedAnnotation, height: int, width: int, classes: int) -> PackedAnnotation:
    """An annotation with its label map checked and packed; the pixels are given up. Raises `MaskRefused`."""
    if answer.label_map is None:
        return answer, None
    packed = PackedMap.of(answer.label_map, (height, width), classes)
    return replace(answer, label_map=None), packed


def reasons_of(answer: ImportedAnnotation, marked: bool, partial: bool) -> str:
    """What could not be used of an annotation, in a line; "" if nothing. `marked`: something is left."""
    reasons = answer.refused + answer.left_out
    said = "; ".join(reasons[:NAMED]) + f"; and {len(reasons) - NAMED} more" * (len(reasons) > NAMED)
    if answer.refused and marked and not partial:
        said += "; half a label is not kept, --partial keeps the rest of it"
    return said


@dataclass(slots=True)
class _Entries:
    """What a dataset says about one image."""

    size: tuple[int, int]
    answers: list[tuple[ImportedAnnotation, int]] = field(default_factory=list)
    """Annotations without their maps, and the bytes of the map; 0 for a clean one."""
    places: list[int] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Authors of whose annotations a part was refused."""


class WaitingLabels:
    """The annotations of an import by image; packed maps wait in a temporary file, not in memory.

    With `partial`, what is left of an annotation is used even if parts of it were refused.
    """

    def __init__(self, classes: int, partial: bool = False) -> None:
        self.classes, self.partial = classes, partial
        self._images: dict[str, _Entries] = {}
        self._maps = tempfile.TemporaryFile()  # noqa: SIM115 (open until `close`)

    def __len__(self) -> int:
        return len(self._images)

    def close(self) -> None:
        """Delete the temporary file."""
        self._maps.close()

    def add(self, image: str, size: tuple[int, int], answers: Iterable[PackedAnnotation]) -> None:
        """Add one entry's annotations of an image of `size` (height, width), given by id or hash."""
        entries = self._images.setdefault(image, _Entries(size))
        for answer, packed in answers:
            if answer.refused:
                entries.refused.add(answer.author)
            data = packed.data if packed else b""
            entries.places.append(self._maps.seek(0, 2))
            self._maps.write(data)
            entries.answers.append((answer, len(data)))

    def refuse(self, image: str, size: tuple[int, int]) -> None:
        """Note that an entry of the image was refused as a whole."""
        self._images.setdefault(image, _Entries(size)).refused.add(EVERYBODY)

    def batches(self) -> Iterator[dict[str, list[PackedAnnotation]]]:
        """By image, one annotation for each author, a batch at a time."""
        waiting = iter(self._images.items())
        while batch := list(islice(waiting, BATCH)):
            yield {image: self._combined(entries) for image, entries in batch}

    def _combined(self, entries: _Entries) -> list[PackedAnnotation]:
        by_author: dict[str, list[PackedAnnotation]] = {}
        for (answer, length), place in zip(entries.answers, entries.places, strict=True):
            self._maps.seek(place)
            packed = (
                PackedMap.from_bytes(self._maps.read(length), *entries.size, self.classes) if length else None
            )
            by_author.setdefault(answer.author, []).append((answer, packed))
        joined = [_joined(answers, entries.size, self.classes) for answers in by_author.values()]
        marked = any(packed for _, packed in joined)
        return [one for one in joined if self._counts(one, marked, entries.refused)]

    def _counts(self, one: PackedAnnotation, marked: bool, refused: set[str]) -> bool:
        """Whether an annotation of an image is a label, given what else the dataset says about the image."""
        answer, packed = one
        whole = not refused & {answer.author, EVERYBODY}
        if packed:
            return whole or self.partial
        # What was refused may have been a mark, and any mark outweighs that nothing was said.
        return whole and not (answer.implied and (marked or refused))


def _joined(answers: list[PackedAnnotation], size: tuple[int, int], classes: int) -> PackedAnnotation:
    """One annotation of one author's: all marks, later ones over earlier ones; clean only without any."""
    marks = [(answer, packed) for answer, packed in answers if packed]
    if not marks:
        return min(answers, key=lambda each: each[0].implied)
    if len(marks) == 1:
        return marks[0]
    whole = np.zeros(size, dtype=np.uint8)
    for _, packed in marks:
        drawn = packed.unpack()
        np.copyto(whole, drawn, where=drawn > 0)
    newest = max((answer for answer, _ in marks), key=lambda answer: answer.created or 0.0)
    regions = dict.fromkeys(region for answer, _ in marks for region in answer.regions)
    newest = replace(newest, regions=marked_regions(regions, whole))
    return newest, PackedMap.of(whole, size, classes)


def store_new_labels(
    workspace: Workspace, pairs: Sequence[tuple[Image, PackedAnnotation]], source: LabelSource = "import"
) -> int:
    """Store each annotation unless it equals its author's newest one for that image; returns the number of
    new labels. An implied clean one is not stored for an image that anybody has marked, and labels of images
    with an injected artifact stay such."""
    packed = [label_map for _, (_, label_map) in pairs if label_map is not None]
    stored = workspace.blobs.put_many([label_map.data for label_map in packed])
    blobs = iter(stored)
    new = 0
    with workspace.catalog() as catalog:
        newest = {
            (label.image_id, label.author): label
            for label in catalog.labels.of_images(sorted({image.id for image, _ in pairs}))
        }
        marked = {image_id for (image_id, _), label in newest.items() if label.label_map}
        catalog.label_map_statistics.add_many(zip(stored, packed, strict=True))
        for image, (answer, label_map) in pairs:
            blob = None if label_map is None else next(blobs)
            known = newest.get((image.id, answer.author))
            content = (blob, blob is None, answer.note, answer.regions)
            if known and (known.label_map, known.clean, known.note, known.regions) == content:
                continue
            if answer.implied and image.id in marked:
                continue
            label = Label(
                image_id=image.id,
                author=answer.author,
                height=image.height,
                width=image.width,
                label_map=blob,
                clean=blob is None,
                source=INJECTED if image.source == INJECTED else source,
                round_id=answer.round_id,
                lead_seconds=answer.lead_seconds,
                note=answer.note,
                regions=answer.regions,
                created=now() if answer.created is None else answer.created,
            )
            newest[image.id, answer.author] = catalog.labels.submit(label)
            new += 1
        catalog.commit()
    return new
