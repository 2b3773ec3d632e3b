"""Import a plain folder of pictures, generated or real, at their native size.

Prompts, seeds and settings come from a table (`metadata.csv` in the folder, or one that is named) or from
sidecars: `a.txt` (the prompt) or `a.json` (`prompt`, `seed`, `category`, `licence`, `generator`, `settings`)
beside `a.png`. Every file is added, known already, or refused by name, and the rest goes on. The same import
again adds nothing, and one that was stopped goes on where it was.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.records import Image, Report, Source, Split, image_id, prompt_group, silent, split_of
from pipelines.exchange.images import MAX_BYTES, Measured, measure
from pipelines.exchange.notes import SIDECARS, Note, Refusal, read_plain, read_table, readable, sidecar
from storage.workspace import Workspace

BATCH_FILES = 32
BATCH_BYTES = 64 * 1024 * 1024
LOOKS = "look:"
NEAR_DUPLICATE_BITS = 8
"""How many of 64 dHash bits may differ within a group: of recompressed, halved, brightened and slightly
cropped copies of 107 pictures 95 % differ in 8 or fewer, unrelated photographs in 14 or more.
"""

Good = TypeVar("Good")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """How many pictures were added, how many were known already, and what was refused, as (name, reason)."""

    added: int
    duplicates: int
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """What an import says of all its pictures; a table or sidecar says more of one."""

    source: Source = "generated"
    licence: str = ""
    generator_id: str | None = None
    round_id: str | None = None
    validation: float = 0.15
    benchmark: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file that may be a picture; `name` is its path below the imported folder, with forward slashes."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A file's bytes and what is said of it."""

    name: str
    data: bytes
    sha256: str
    note: Note


def import_folder(
    workspace: Workspace,
    path: str | Path,
    *,
    source: Source = "generated",
    licence: str = "",
    prompts: str | Path | None = None,
    generator_id: str | None = None,
    round_id: str | None = None,
    validation: float = 0.15,
    benchmark: float = 0.0,
    workers: int | None = None,
    report: Report = silent,
) -> ImportResult:
    """Import every picture under the folder `path`, or the one picture that `path` is.

    `prompts` is a CSV with a column `file_name` (or `file`) and any of `prompt, seed, category, licence,
    generator`. The split of a new group is drawn with the shares `validation` and `benchmark`; a known group
    keeps its own. `workers` threads decode (all cores by default). Links are never followed. Raises
    `InputRefused` if nothing lies at `path` or the table cannot be read, `WorkspaceUnusable` if the workspace
    is full or read-only.
    """
    root = Path(path)
    ingest = Ingest(
        source=source,
        licence=licence,
        generator_id=generator_id,
        round_id=round_id,
        validation=validation,
        benchmark=benchmark,
    )
    found, refused = find_pictures(root)
    table, unusable = read_table(root, Path(prompts) if prompts else None)
    absent = sorted(table.keys() - {each.name for each in found})
    refused += unusable
    refused += [Refusal(readable(name), "named in the table, but not in the folder") for name in absent]
    looks = Looks(workspace)
    added = duplicates = done = 0
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for batch in _batches(found):
            report(done, len(found), f"{added} added, {duplicates} known already, {len(refused)} refused")
            loaded = _usable(pool.map(lambda each: _load(each, table), batch), refused)
            fresh = _unknown(workspace, loaded)
            ready = _usable(pool.map(_measure, fresh), refused)
            new = _keep(workspace, ready, looks, ingest)
            added += new
            duplicates += len(loaded) - len(fresh) + len(ready) - new
            done += len(batch)
    report(done, len(found), f"{added} added, {duplicates} known already, {len(refused)} refused")
    return ImportResult(added=added, duplicates=duplicates, refused=tuple(refused))


# ---- which files -------------------------------------------------------------------------------------


def find_pictures(root: Path) -> tuple[list[Found], list[Refusal]]:
    """Every file at or below `root` that may be a picture, by name, and what cannot be one.

    Hidden files are passed over; links are refused, so nothing outside of `root` is ever read.
    """
    if root.is_file():
        return [Found(name=readable(root.name), path=root, size=root.stat().st_size)], []
    if not root.is_dir():
        raise InputRefused(f"there is no folder or picture at {root}; give the path of one")
    found: list[Found] = []
    notes: list[Path] = []
    refused: list[Refusal] = []
    for entry in _entries(root):
        path = Path(entry.path)
        name = readable(path.relative_to(root).as_posix())
        if entry.is_symlink():
            refused.append(Refusal(name, "a link; links are not followed, copy the file itself"))
        elif not entry.is_file(follow_symlinks=False):
            refused.append(Refusal(name, "not a plain file"))
        elif path.suffix in SIDECARS:
            notes.append(path)
        elif not (path.suffix == ".csv" and path.parent == root):
            found.append(Found(name=name, path=path, size=entry.stat(follow_symlinks=False).st_size))
    described = {each.path.with_suffix("") for each in found}
    refused += [
        Refusal(readable(path.relative_to(root).as_posix()), "no picture of that name lies beside it")
        for path in notes
        if path.with_suffix("") not in described
    ]
    return sorted(found, key=lambda each: each.name), sorted(refused)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))
            else:
                yield entry


def _batches(found: Sequence[Found]) -> Iterator[list[Found]]:
    """Consecutive files, few and small enough to be held in memory together."""
    batch: list[Found] = []
    for each in found:
        if batch and (len(batch) == BATCH_FILES or each.size + sum(one.size for one in batch) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


# ---- one batch ---------------------------------------------------------------------------------------


def _load(found: Found, table: dict[str, Note]) -> Loaded | Refusal:
    try:
        data = read_plain(found.path, MAX_BYTES)
        note = table.get(found.name) or sidecar(found.path) or Note()
    except InputRefused as error:
        return Refusal(found.name, str(error))
    return Loaded(name=found.name, data=data, sha256=hashlib.sha256(data).hexdigest(), note=note)


def _measure(loaded: Loaded) -> tuple[Loaded, Measured] | Refusal:
    try:
        return loaded, measure(loaded.data)
    except InputRefused as error:
        return Refusal(loaded.name, str(error))


def _usable(outcomes: Iterable[Good | Refusal], refused: list[Refusal]) -> list[Good]:
    """The outcomes that are not refusals; those are added to `refused`."""
    good = []
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            refused.append(outcome)
        else:
            good.append(outcome)
    return good


def _unknown(workspace: Workspace, loaded: Sequence[Loaded]) -> list[Loaded]:
    """Those whose bytes the catalog does not hold, each once."""
    first = {each.sha256: each for each in reversed(loaded)}
    with workspace.catalog(read_only=True) as catalog:
        known = {image.sha256 for image in catalog.images.find(sha256=list(first))}
    return [each for each in loaded if first[each.sha256] is each and each.sha256 not in known]


def _keep(
    workspace: Workspace, ready: Sequence[tuple[Loaded, Measured]], looks: "Looks", ingest: Ingest
) -> int:
    """Keep one batch, the bytes before the rows that name them; how many images were new."""
    if not ready:
        return 0
    originals = [loaded.data for loaded, _ in ready]
    thumbnails = workspace.blobs.put_many([m.thumbnail for _, m in ready] + originals)[: len(ready)]
    groups = [_group(loaded.note, measured, looks) for loaded, measured in ready]
    with workspace.catalog() as catalog:
        known = {image.group: image.split for image in catalog.images.find(group=sorted(set(groups)))}
        new = catalog.images.add_many(
            _image(loaded, measured, thumbnail, group, known.get(group), ingest)
            for (loaded, measured), thumbnail, group in zip(ready, thumbnails, groups, strict=True)
        )
        catalog.commit()
    return new


def _group(note: Note, measured: Measured, looks: "Looks") -> str:
    if note.prompt and note.seed is not None:
        return prompt_group(note.prompt, note.seed)
    return looks.group(measured.fingerprint)


def _image(
    loaded: Loaded, measured: Measured, thumbnail: str, group: str, split: Split | None, ingest: Ingest
) -> Image:
    note = loaded.note
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
        origin=loaded.name,
        licence=note.licence or ingest.licence,
        split=split or split_of(group, ingest.validation, ingest.benchmark),
        group=group,
        round_id=ingest.round_id,
        thumbnail=thumbnail,
    )


class Looks:
    """Groups of pictures that look alike, each named after the dHash of its first member."""

    def __init__(self, workspace: Workspace) -> None:
        with workspace.catalog(read_only=True) as catalog:
            names = sorted(catalog.images.groups(LOOKS))
        self._count = len(names)
        self._firsts: NDArray[np.uint64] = np.zeros(max(1024, 2 * len(names)), dtype=np.uint64)
        self._firsts[: self._count] = [int(name.removeprefix(LOOKS), 16) for name in names]

    def group(self, fingerprint: int) -> str:
        """The group of the nearest first member within `NEAR_DUPLICATE_BITS`, or a new one."""
        firsts = self._firsts[: self._count]
        distances = np.bitwise_count(firsts ^ np.uint64(fingerprint))
        if self._count and distances.min() <= NEAR_DUPLICATE_BITS:
            return f"{LOOKS}{int(firsts[distances.argmin()]):016x}"
        self._add(fingerprint)
        return f"{LOOKS}{fingerprint:016x}"

    def _add(self, fingerprint: int) -> None:
        if self._count == len(self._firsts):
            self._firsts = np.concatenate([self._firsts, np.zeros_like(self._firsts)])
        self._firsts[self._count] = fingerprint
        self._count += 1
