"""The importer shared by all formats: stores images and labels in batches, and refuses bad rows by name.

A reader lists the rows of a dataset; this module adds their images (each once, in its group and split) and
their labels (each once, a changed one as a new revision) once all entries of an image are known. Repeating an
import adds nothing, an interrupted one resumes, and with `trial` everything is read and counted but nothing
is stored.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.images import ImageFile, measure
from dataengine.records import (
    REPAIRED,
    Image,
    Report,
    Source,
    Split,
    image_id,
    no_report,
    prompt_group,
    split_of,
)
from pipelines.exchange.labels import (
    ImportedAnnotation,
    PackedAnnotation,
    WaitingLabels,
    pack,
    reasons_of,
    store_new_labels,
)
from pipelines.exchange.metadata import Note, Refusal
from storage.queries.duplicates import LOOKS
from storage.workspace import Workspace

BATCH_ROWS = 32
BATCH_BYTES = 64 * 1024 * 1024
LOOK = re.compile(r"look:[0-9a-f]{16}")
NEAR_DUPLICATE_BITS = 8
"""Number of the 64 dHash bits that may differ within a group. Of recompressed, halved, brightened and
slightly
cropped copies of 107 images, 95 % differ in 8 or fewer bits; unrelated photographs in 14 or more.
"""

STRICTNESS: tuple[Split, ...] = ("train", "validation", "benchmark")
"""Of the splits that members of one group are said to have, the last one counts."""

DESCRIBING = ("prompt", "seed", "category", "licence")
"""What `--update` changes of a known image; its id, group and split stay."""

Good = TypeVar("Good")

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
    path: Path | None = None
    """The file that `load` reads, where the row is one; two names may look alike, paths do not."""


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
    """Metadata of all images of an import; a row's own metadata takes precedence over all but the source."""

    source: Source | None = None
    """None: as the row states, else "generated"."""
    licence: str = ""
    generator_id: str | None = None
    round_id: str | None = None
    validation: float = 0.15
    benchmark: float = 0.0
    dataset: str = ""
    """Prefix of the row's name in `Image.origin`."""
    benchmarks_refused: bool = False
    """Refuse labels of benchmark images, because they are too coarse for evaluation."""
    partial: bool = False
    """Keep what is left of a label of which a part was refused."""
    update: bool = False
    """Give images that are known already what the dataset says of prompt, seed, category and licence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """Counts of added images, duplicates and new labels; refused rows as (name, reason); near-duplicates as
    (name, group); contents of the format that were not imported.
    """

    added: int
    duplicates: int
    refused: tuple[Refusal, ...] = ()
    labels: int = 0
    updated: int = 0
    """Known images that got a prompt or the like."""
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
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for batch in _batches(reading.rows):
                report(done, max(reading.total, done), intake.progress())
                intake.add(batch, pool)
                done += len(batch)
        intake.store_labels(report)
    finally:
        intake.waiting.close()
    report(done, done, intake.progress())
    return ImportResult(
        added=intake.added,
        duplicates=intake.duplicates,
        refused=tuple(intake.refused),
        labels=intake.labels,
        updated=intake.updated,
        alike=tuple(intake.alike),
        losses=(*reading.losses, *intake.remarks()),
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
        self.added = self.duplicates = self.labels = self.updated = 0
        self.alike: list[Refusal] = []
        self._tried: dict[str, tuple[int, int]] = {}
        self._remarks: dict[str, list[str]] = {}
        with workspace.catalog(read_only=True) as catalog:
            self.classes = len(catalog.classes.names())
        self.waiting = WaitingLabels(self.classes, ingest.partial)

    def progress(self) -> str:
        return f"{self.added} added, {self.duplicates} duplicates, {len(self.refused)} refused"

    def remarks(self) -> tuple[str, ...]:
        """How masks were read where that is not obvious, with the number of masks and the first one."""
        return tuple(
            f"{remark} ({len(names)} of them, first {names[0]})" for remark, names in self._remarks.items()
        )

    def add(self, batch: list[Row], pool: ThreadPoolExecutor) -> None:
        loaded = _usable(pool.map(_load, batch), self.refused)
        self.refused += [Refusal(each.row.name, each.note.problem) for each in loaded if each.note.problem]
        fresh = self._unknown([each for each in loaded if each.row.image is None])
        measured = _usable(pool.map(_measure, fresh), self.refused)
        known = sum(each.row.image is None for each in loaded) - len(fresh)
        ready, groups, splits = self._placed(measured)
        new = self._keep(ready, groups, splits)
        self.added += new
        self.duplicates += known + len(ready) - new
        if any(each.row.answers for each in loaded):
            self._answer(loaded, pool)

    def _unknown(self, loaded: Sequence[LoadedRow]) -> list[LoadedRow]:
        """Rows whose bytes are not in the catalog yet, each once."""
        first = {each.sha256: each for each in reversed(loaded)}
        with self.workspace.catalog(read_only=True) as catalog:
            known = {image.sha256: image.split for image in catalog.images.find(sha256=list(first))}
        for each in loaded:
            split = known.get(each.sha256, "benchmark")
            if each.note.split == "benchmark" != split:
                reason = f"a benchmark image there, but its split is {split} in this workspace, and stays so"
                self.refused.append(Refusal(each.row.name, reason))
        if self.ingest.update:
            self._update([each for each in first.values() if each.sha256 in known])
        return [
            each
            for each in loaded
            if first[each.sha256] is each and each.sha256 not in known and each.sha256 not in self._tried
        ]

    def _update(self, loaded: Sequence[LoadedRow]) -> None:
        """Give known images what their rows say."""
        said = {
            each.sha256: {
                name: value for name in DESCRIBING if (value := getattr(each.note, name)) not in (None, "")
            }
            for each in loaded
        }
        with self.workspace.catalog() as catalog:
            for image in catalog.images.find(sha256=sorted(said)):
                changed = {k: v for k, v in said[image.sha256].items() if getattr(image, k) != v}
                if changed:
                    self.updated += 1
                    catalog.images.describe(image.id, **changed)
            if not self.trial:
                catalog.commit()

    def _placed(
        self, measured: Sequence[tuple[LoadedRow, ImageFile]]
    ) -> tuple[list[tuple[LoadedRow, ImageFile]], list[str], list[Split]]:
        """The rows with their groups and splits: a known group's, else what the dataset states, else drawn.

        A benchmark image that belongs to a group of another split here is refused: it would be trained on.
        """
        groups = self._groups(measured)
        with self.workspace.catalog(read_only=True) as catalog:
            splits = {image.group: image.split for image in catalog.images.find(group=sorted(set(groups)))}
        known = dict(splits)
        for (loaded, _), group in zip(measured, groups, strict=True):
            if loaded.note.split and group not in known:
                stated = (splits.get(group, "train"), loaded.note.split)
                splits[group] = max(stated, key=STRICTNESS.index)
        placed: list[tuple[tuple[LoadedRow, ImageFile], str, Split]] = []
        for each, group in zip(measured, groups, strict=True):
            split = splits.get(group) or split_of(group, self.ingest.validation, self.ingest.benchmark)
            if each[0].note.split == "benchmark" != split:
                reason = f"a benchmark image, but its group is of split {split} in this workspace"
                self.refused.append(Refusal(each[0].row.name, reason))
            else:
                placed.append((each, group, split))
        return [one for one, _, _ in placed], [one for _, one, _ in placed], [one for _, _, one in placed]

    def _keep(
        self, ready: Sequence[tuple[LoadedRow, ImageFile]], groups: list[str], splits: list[Split]
    ) -> int:
        """Store one batch, blobs before the rows that reference them; returns the number of new images."""
        if not ready:
            return 0
        if self.trial:
            self._tried |= {loaded.sha256: (measured.height, measured.width) for loaded, measured in ready}
            return len(ready)
        originals = [loaded.data for loaded, _ in ready]
        thumbnails = self.workspace.blobs.put_many([m.thumbnail for _, m in ready] + originals)[: len(ready)]
        with self.workspace.catalog() as catalog:
            new = catalog.images.add_many(
                self._image(loaded, measured, thumbnail, group, split)
                for (loaded, measured), thumbnail, group, split in zip(
                    ready, thumbnails, groups, splits, strict=True
                )
            )
            catalog.commit()
        return new

    def _groups(self, ready: Sequence[tuple[LoadedRow, ImageFile]]) -> list[str]:
        """The group of each row. An image made by `clinic inpaint` or `clinic repair` joins the group of its
        original, in this batch or in the catalog, so that a repaired validation image is not trained on."""
        made_of = {loaded.sha256: _how_made(loaded.note) for loaded, _ in ready}
        origins = {sha: str(how.get("of")) for sha, how in made_of.items() if isinstance(how, dict)}
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
        if note.group:
            self.looks.know(note.group)
            return note.group
        if note.prompt and note.seed is not None:
            return prompt_group(note.prompt, note.seed)
        before = self.looks.count
        group = self.looks.group(measured.fingerprint)
        if self.looks.count == before:
            self.alike.append(Refusal(loaded.row.name, group))
        return group

    def _image(
        self, loaded: LoadedRow, measured: ImageFile, thumbnail: str, group: str, split: Split
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
            source=ingest.source or note.source or "generated",
            origin=f"{ingest.dataset}:{loaded.row.name}" if ingest.dataset else loaded.row.name,
            licence=note.licence or ingest.licence,
            split=split,
            group=group,
            round_id=ingest.round_id,
            thumbnail=thumbnail,
        )

    # ---- labels --------------------------------------------------------------------------------------

    def _answer(self, loaded: Sequence[LoadedRow], pool: ThreadPoolExecutor) -> None:
        """Read the rows' annotations; they wait until all entries of their images are known."""
        answered = [each for each in loaded if each.row.answers]
        images = self._images(answered)
        places: list[tuple[Row, str, tuple[int, int]]] = []
        for each in answered:
            key = each.row.image or each.sha256
            image = images.get(key)
            if image and image.split == "benchmark" and self.ingest.benchmarks_refused:
                reason = "its image is in the benchmark, which accepts no labels this coarse"
                self.refused.append(Refusal(each.row.name, reason))
            elif image:
                places.append((each.row, image.id, (image.height, image.width)))
            elif key in self._tried:
                places.append((each.row, key, self._tried[key]))
            elif each.row.image:
                self.refused.append(Refusal(each.row.name, "its label has no image in this workspace"))

        for (row, key, size), answers in zip(places, pool.map(self._read, places), strict=True):
            if isinstance(answers, Refusal):
                self.refused.append(answers)
                self.waiting.refuse(key, size)
                continue
            self.waiting.add(key, size, answers)
            for answer, packed in answers:
                self._tell(row.name, answer, packed is not None)

    def _read(self, place: tuple[Row, str, tuple[int, int]]) -> list[PackedAnnotation] | Refusal:
        row, _, size = place
        try:
            assert row.answers
            return [pack(answer, *size, self.classes) for answer in row.answers(*size)]
        except InputRefused as error:
            return Refusal(row.name, f"its label: {error}")

    def _tell(self, name: str, answer: ImportedAnnotation, marked: bool) -> None:
        """List what was refused of an annotation, and how its mask was read."""
        if reasons := reasons_of(answer, marked, self.ingest.partial):
            self.refused.append(Refusal(name, f"its label: {reasons}"))
        if answer.remark:
            self._remarks.setdefault(answer.remark, []).append(name)

    def store_labels(self, report: Report) -> None:
        """Store the labels that waited, one for each image and author; with `trial` they are counted."""
        done = 0
        for batch in self.waiting.batches():
            report(done, len(self.waiting), f"storing labels, {self.progress()}")
            done += len(batch)
            if self.trial:
                self.labels += sum(map(len, batch.values()))
                continue
            with self.workspace.catalog(read_only=True) as catalog:
                images = {image.id: image for image in catalog.images.get_many(batch)}
            pairs = [(images[key], one) for key, answers in batch.items() if key in images for one in answers]
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


def _how_made(note: Note) -> Any:
    return next((note.settings[name] for name in ("inpainted", REPAIRED) if name in note.settings), None)


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

    def know(self, group: str) -> None:
        """Add a group that a dataset states, so that later near-duplicates of it join it."""
        if LOOK.fullmatch(group):
            fingerprint = int(group.removeprefix(LOOKS), 16)
            if fingerprint not in self._firsts[: self.count]:
                self._add(fingerprint)

    def _add(self, fingerprint: int) -> None:
        if self.count == len(self._firsts):
            self._firsts = np.concatenate([self._firsts, np.zeros_like(self._firsts)])
        self._firsts[self.count] = fingerprint
        self.count += 1
