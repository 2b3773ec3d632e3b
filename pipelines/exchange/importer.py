"""The importer shared by all formats: stores images and labels in batches, and refuses bad rows by name.

A reader lists the rows of a dataset; this module adds their images (each once, in its group and split) and
their labels (each once, a changed one as a new revision). Repeating an import adds nothing, an interrupted
one
resumes, and with `trial` everything is read and counted but nothing is stored.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.images import ImageFile, measure
from dataengine.masks import LabelMap, PackedMap
from dataengine.records import (
    Image,
    Label,
    LabelSource,
    Report,
    Source,
    Split,
    image_id,
    no_report,
    now,
    prompt_group,
    split_of,
)
from pipelines.exchange.metadata import Note, Refusal
from storage.workspace import Workspace

BATCH_ROWS = 32
BATCH_BYTES = 64 * 1024 * 1024
LOOKS = "look:"
NEAR_DUPLICATE_BITS = 8
"""Number of the 64 dHash bits that may differ within a group. Of recompressed, halved, brightened and
slightly
cropped copies of 107 images, 95 % differ in 8 or fewer bits; unrelated photographs in 14 or more.
"""

Good = TypeVar("Good")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedAnnotation:
    """An annotation of an image: a label map, or None if nothing is broken."""

    author: str
    label_map: LabelMap | None
    lead_seconds: float = 0.0
    note: str = ""
    created: float | None = None
    round_id: str | None = None


Answers = Callable[[int, int], Iterable[ImportedAnnotation]]
"""(height, width) of the image -> its annotations, one by one; raises `InputRefused` if they do not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image of a dataset: its name there, how to load its bytes, and its annotations.

    `image` instead of `load` names an image that is already in the catalog. `load` raises `InputRefused`.
    """

    name: str
    load: Callable[[], tuple[bytes, Note]] | None = None
    answers: Answers | None = None
    image: str | None = None
    size: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A dataset as read: its rows, their approximate number, and refused rows."""

    rows: Iterable[Row]
    total: int
    refused: list[Refusal] = field(default_factory=list)
    losses: tuple[str, ...] = ()
    """Contents of the format that are not imported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """Metadata of all images of an import; a row's own metadata takes precedence."""

    source: Source = "generated"
    licence: str = ""
    generator_id: str | None = None
    round_id: str | None = None
    validation: float = 0.15
    benchmark: float = 0.0
    dataset: str = ""
    """Prefix of the row's name in `Image.origin`."""
    benchmarks_refused: bool = False
    """Refuse labels of benchmark images, because they are too coarse for evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """Counts of added images, duplicates and new labels; refused rows as (name, reason); near-duplicates as
    (name, group); contents of the format that were not imported.
    """

    added: int
    duplicates: int
    refused: tuple[Refusal, ...] = ()
    labels: int = 0
    alike: tuple[Refusal, ...] = ()
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRow:
    """A row with its bytes; empty for an image that is already in the catalog."""

    row: Row
    data: bytes
    sha256: str
    note: Note


def import_reading(
    workspace: Workspace,
    reading: Reading,
    ingest: Ingest,
    *,
    trial: bool = False,
    workers: int | None = None,
    report: Report = no_report,
) -> ImportResult:
    """Add the rows' images and labels; `trial` only counts. `workers` threads decode (default: all cores).

    Raises `WorkspaceUnusable` if the workspace is full or read-only; bad rows are refused, but not fatal.
    """
    intake = _Intake(workspace, ingest, trial, reading.refused)
    done = 0
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for batch in _batches(reading.rows):
            report(done, max(reading.total, done), intake.progress())
            intake.add(batch, pool)
            done += len(batch)
    report(done, done, intake.progress())
    return ImportResult(
        added=intake.added,
        duplicates=intake.duplicates,
        refused=tuple(intake.refused),
        labels=intake.labels,
        alike=tuple(intake.alike),
        losses=reading.losses,
    )


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Batches of consecutive rows that fit into memory."""
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) == BATCH_ROWS or row.size + sum(one.size for one in batch) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Intake:
    """One import: its settings and counts."""

    def __init__(self, workspace: Workspace, ingest: Ingest, trial: bool, refused: list[Refusal]) -> None:
        self.workspace, self.ingest, self.trial, self.refused = workspace, ingest, trial, refused
        self.looks = NearDuplicateGroups(workspace)
        self.added = self.duplicates = self.labels = 0
        self.alike: list[Refusal] = []
        self._tried: set[str] = set()
        with workspace.catalog(read_only=True) as catalog:
            self.classes = len(catalog.classes.names())

    def progress(self) -> str:
        return f"{self.added} added, {self.duplicates} duplicates, {len(self.refused)} refused"

    def add(self, batch: list[Row], pool: ThreadPoolExecutor) -> None:
        loaded = _usable(pool.map(_load, batch), self.refused)
        fresh = self._unknown([each for each in loaded if each.row.image is None])
        ready = _usable(pool.map(_measure, fresh), self.refused)
        new = self._keep(ready)
        self.added += new
        self.duplicates += sum(each.row.image is None for each in loaded) - len(fresh) + len(ready) - new
        if any(each.row.answers for each in loaded):
            self._answer(loaded, ready, pool)

    def _unknown(self, loaded: Sequence[LoadedRow]) -> list[LoadedRow]:
        """Rows whose bytes are not in the catalog yet, each once."""
        first = {each.sha256: each for each in reversed(loaded)}
        with self.workspace.catalog(read_only=True) as catalog:
            known = {image.sha256 for image in catalog.images.find(sha256=list(first))}
        known |= self._tried
        return [each for each in loaded if first[each.sha256] is each and each.sha256 not in known]

    def _keep(self, ready: Sequence[tuple[LoadedRow, ImageFile]]) -> int:
        """Store one batch, blobs before the rows that reference them; returns the number of new images."""
        if not ready:
            return 0
        groups = self._groups(ready)
        if self.trial:
            self._tried |= {loaded.sha256 for loaded, _ in ready}
            return len(ready)
        originals = [loaded.data for loaded, _ in ready]
        thumbnails = self.workspace.blobs.put_many([m.thumbnail for _, m in ready] + originals)[: len(ready)]
        with self.workspace.catalog() as catalog:
            known = {image.group: image.split for image in catalog.images.find(group=sorted(set(groups)))}
            new = catalog.images.add_many(
                self._image(loaded, measured, thumbnail, group, known.get(group))
                for (loaded, measured), thumbnail, group in zip(ready, thumbnails, groups, strict=True)
            )
            catalog.commit()
        return new

    def _groups(self, ready: Sequence[tuple[LoadedRow, ImageFile]]) -> list[str]:
        """The group of each row. An image made by `clinic inpaint` joins the group of its original, in this
        batch or in the catalog, so that a repaired validation image is not trained on."""
        inpainted = {loaded.sha256: loaded.note.settings.get("inpainted") for loaded, _ in ready}
        origins = {sha: str(how.get("of")) for sha, how in inpainted.items() if isinstance(how, dict)}
        groups: dict[str, str] = {}
        if origins:
            with self.workspace.catalog(read_only=True) as catalog:
                known = catalog.images.find(sha256=sorted(set(origins.values())))
            groups = {image.sha256: image.group for image in known}
        for loaded, measured in sorted(ready, key=lambda each: each[0].sha256 in origins):
            of = origins.get(loaded.sha256, "")
            groups[loaded.sha256] = groups.get(of) or self._group(loaded, measured)
        return [groups[loaded.sha256] for loaded, _ in ready]

    def _group(self, loaded: LoadedRow, measured: ImageFile) -> str:
        note = loaded.note
        if note.prompt and note.seed is not None:
            return prompt_group(note.prompt, note.seed)
        before = self.looks.count
        group = self.looks.group(measured.fingerprint)
        if self.looks.count == before:
            self.alike.append(Refusal(loaded.row.name, group))
        return group

    def _image(
        self, loaded: LoadedRow, measured: ImageFile, thumbnail: str, group: str, split: Split | None
    ) -> Image:
        note, ingest = loaded.note, self.ingest
        generator = note.generator or ingest.generator_id
        return Image(
            id=image_id(loaded.sha256, generator, note.prompt, note.seed),
            sha256=loaded.sha256,
            height=measured.height,
            width=measured.width,
            media_type=measured.media_type,
            prompt=note.prompt,
            category=note.category,
            generator_id=generator,
            seed=note.seed,
            settings=note.settings,
            source=ingest.source,
            origin=f"{ingest.dataset}:{loaded.row.name}" if ingest.dataset else loaded.row.name,
            licence=note.licence or ingest.licence,
            split=split or split_of(group, ingest.validation, ingest.benchmark),
            group=group,
            round_id=ingest.round_id,
            thumbnail=thumbnail,
        )

    # ---- labels --------------------------------------------------------------------------------------

    def _answer(
        self,
        loaded: Sequence[LoadedRow],
        ready: Sequence[tuple[LoadedRow, ImageFile]],
        pool: ThreadPoolExecutor,
    ) -> None:
        answered = [each for each in loaded if each.row.answers]
        images = self._images(answered)
        sizes = {each.sha256: (measured.height, measured.width) for each, measured in ready}

        def read(each: LoadedRow) -> tuple[Image | None, list[PackedAnnotation]] | Refusal:
            image = images.get(each.row.image or each.sha256)
            size = (image.height, image.width) if image else sizes.get(each.sha256)
            if size is None:
                return (
                    Refusal(each.row.name, "its label has no image in this workspace")
                    if each.row.image
                    else (None, [])
                )
            if image and image.split == "benchmark" and self.ingest.benchmarks_refused:
                return Refusal(
                    each.row.name, "its image is in the benchmark, which accepts no labels this coarse"
                )
            try:
                assert each.row.answers
                answers = [pack(answer, *size, self.classes) for answer in each.row.answers(*size)]
            except InputRefused as error:
                return Refusal(each.row.name, f"its label: {error}")
            return image, answers

        found = _usable(pool.map(read, answered), self.refused)
        if self.trial:
            self.labels += sum(len(answers) for _, answers in found)
            return
        pairs = [(image, answer) for image, answers in found if image for answer in answers]
        self.labels += store_new_labels(self.workspace, pairs)

    def _images(self, loaded: Sequence[LoadedRow]) -> dict[str, Image]:
        """The rows' images, by id if the row names one, else by hash."""
        named = [each.row.image for each in loaded if each.row.image]
        hashes = sorted({each.sha256 for each in loaded if not each.row.image})
        with self.workspace.catalog(read_only=True) as catalog:
            images = {image.id: image for image in catalog.images.get_many(named)}
            if hashes:
                images |= {image.sha256: image for image in reversed(catalog.images.find(sha256=hashes))}
        return images


PackedAnnotation = tuple[ImportedAnnotation, PackedMap | None]


def pack(answer: ImportedAnnotation, height: int, width: int, classes: int) -> PackedAnnotation:
    """An annotation with its label map checked and packed; the pixels are given up. Raises `MaskRefused`."""
    if answer.label_map is None:
        return answer, None
    packed = PackedMap.of(answer.label_map, (height, width), classes)
    return replace(answer, label_map=None), packed


def store_new_labels(
    workspace: Workspace, pairs: Sequence[tuple[Image, PackedAnnotation]], source: LabelSource = "import"
) -> int:
    """Store each annotation unless it equals its author's newest one for that image; returns the number of
    new labels."""
    packed = [label_map for _, (_, label_map) in pairs if label_map is not None]
    stored = workspace.blobs.put_many([label_map.data for label_map in packed])
    blobs = iter(stored)
    new = 0
    with workspace.catalog() as catalog:
        newest = {
            (label.image_id, label.author): label
            for label in catalog.labels.of_images(sorted({image.id for image, _ in pairs}))
        }
        catalog.label_map_statistics.add_many(zip(stored, packed, strict=True))
        for image, (answer, label_map) in pairs:
            blob = None if label_map is None else next(blobs)
            known = newest.get((image.id, answer.author))
            if known and (known.label_map, known.clean, known.note) == (blob, blob is None, answer.note):
                continue
            label = Label(
                image_id=image.id,
                author=answer.author,
                height=image.height,
                width=image.width,
                label_map=blob,
                clean=blob is None,
                source=source,
                round_id=answer.round_id,
                lead_seconds=answer.lead_seconds,
                note=answer.note,
                created=now() if answer.created is None else answer.created,
            )
            newest[image.id, answer.author] = catalog.labels.submit(label)
            new += 1
        catalog.commit()
    return new


def _load(row: Row) -> LoadedRow | Refusal:
    if row.load is None:
        return LoadedRow(row=row, data=b"", sha256="", note=Note())
    try:
        data, note = row.load()
    except InputRefused as error:
        return Refusal(row.name, str(error))
    return LoadedRow(row=row, data=data, sha256=hashlib.sha256(data).hexdigest(), note=note)


def _measure(loaded: LoadedRow) -> tuple[LoadedRow, ImageFile] | Refusal:
    try:
        return loaded, measure(loaded.data)
    except InputRefused as error:
        return Refusal(loaded.row.name, str(error))


def _usable(outcomes: Iterable[Good | Refusal], refused: list[Refusal]) -> list[Good]:
    """The outcomes that are not refusals; refusals are appended to `refused`."""
    good = []
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            refused.append(outcome)
        else:
            good.append(outcome)
    return good


class NearDuplicateGroups:
    """Groups of near-duplicate images, each named after the dHash of its first member."""

    def __init__(self, workspace: Workspace) -> None:
        with workspace.catalog(read_only=True) as catalog:
            names = sorted(catalog.images.groups(LOOKS))
        self.count = len(names)
        self._firsts: NDArray[np.uint64] = np.zeros(max(1024, 2 * len(names)), dtype=np.uint64)
        self._firsts[: self.count] = [int(name.removeprefix(LOOKS), 16) for name in names]

    def group(self, fingerprint: int) -> str:
        """The group of the nearest first member within `NEAR_DUPLICATE_BITS`, or a new one."""
        firsts = self._firsts[: self.count]
        distances = np.bitwise_count(firsts ^ np.uint64(fingerprint))
        if self.count and distances.min() <= NEAR_DUPLICATE_BITS:
            return f"{LOOKS}{int(firsts[distances.argmin()]):016x}"
        self._add(fingerprint)
        return f"{LOOKS}{fingerprint:016x}"

    def _add(self, fingerprint: int) -> None:
        if self.count == len(self._firsts):
            self._firsts = np.concatenate([self._firsts, np.zeros_like(self._firsts)])
        self._firsts[self.count] = fingerprint
        self.count += 1
