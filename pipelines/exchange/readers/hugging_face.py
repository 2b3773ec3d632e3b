"""Read Hugging Face datasets through the package `datasets`: folders, files, and `hf://OWNER/NAME`.

Tables (Parquet, Arrow), WebDataset tars and folders of images (also zipped) are read as streams, so that
nothing is copied into a cache; each file is checked against its bounds before `datasets` opens it. Columns
are found by their usual names, or mapped by `--column ours=theirs`. Ours are `image` (embedded bytes, or a
path inside the folder), `mask` (the same, of class numbers or 0 and 255), `author`, and the metadata
`prompt`, `seed`, `category`, `licence`, `generator`, `source`, `split`, `group`; numbers of classes are read
as their names. Exports of our own snapshots are read back completely.
"""

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.bounds import IMAGE_BYTES, TABLE_BYTES, allowance, check_bytes
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import (
    NOTED,
    Note,
    Refusal,
    displayable_name,
    parse_note,
    read_plain,
    split_named,
)
from pipelines.exchange.readers.dataset_files import METADATA, DatasetFiles, find_dataset, library
from pipelines.exchange.readers.folders import MASKS_BESIDE
from pipelines.exchange.readers.mask_images import read_mask
from pipelines.exchange.readers.parquet_bounds import (
    CONTAINER_LIMIT,
    check_arrow,
    check_types,
    open_parquet,
    rows_at_once,
)
from pipelines.exchange.readers.tar_bounds import check_tar
from pipelines.exchange.safe_files import open_safely, path_inside, read_inside

USUAL = {
    "image": ("image", "img", "picture", "jpg", "jpeg", "png", "webp"),
    "mask": ("label_map", "mask", "label", "segmentation", "mask.png", "seg.png"),
    "confidence": ("confidence_map",),
    "author": ("author", "annotator"),
    "prompt": ("prompt", "caption", "text", "txt"),
    "seed": ("seed",),
    "category": ("category",),
    "licence": ("licence", "license"),
    "generator": ("generator", "model"),
    "source": ("source",),
    "split": ("split",),
    "group": ("group",),
}
CLASSES = ("label", "class", "cls")
"""Columns that are categories if they hold numbers of classes."""
INSIDE = ("json", "jsn")
"""Columns of WebDataset whose values are columns themselves."""
FILES = frozenset({"image", "mask"})
"""Our columns that may be paths."""
MOST_REFUSED = 10_000
LOSSES = ("weights, pseudo-labels' confidence maps and the snapshot's identity are not kept",)


def read_hugging_face(options: ImportOptions) -> Reading:
    """The rows of a dataset. Raises `InputRefused` if it cannot be read at all, or has no image column."""
    found = find_dataset(options.path, options.config)
    reader = _Reader(found, options)
    total = sum(reader.check(file) for _, file in found.each()) if found.kind == "table" else 0
    if found.kind == "images":
        _check_images(found)
        rows = reader.image_rows(found)
    else:
        rows = reader.file_rows()
    return Reading(rows=rows, total=total, refused=reader.refused, losses=_remarks(found))


def _remarks(found: DatasetFiles) -> tuple[str, ...]:
    remarks = list(LOSSES)
    if found.passed_over:
        remarks.append(f"not read, of no split or of another configuration: {_some(found.passed_over)}")
    if splits := [f"{name} as {split_named(name)}" for name in found.splits if split_named(name)]:
        remarks.append(f"splits as the dataset names them: {_some(splits)}")
    return tuple(remarks)


def _check_images(found: DatasetFiles) -> None:
    """Raise `InputRefused` where masks would be taken for images, and for tables beyond their bounds."""
    if all((found.root / name).is_dir() for name in MASKS_BESIDE):
        raise InputRefused(f"{found.root} holds masks/ beside images/; import it with --format masks")
    for _, file in found.each():
        if file.name in METADATA:
            check_bytes(file.stat().st_size, TABLE_BYTES, f"the table {file.name}", "split it")
            if file.suffix == ".parquet":
                with open_parquet(file) as opened:
                    rows_at_once(file, opened.metadata, opened.schema_arrow.names)


def _some(names: Iterable[str]) -> str:
    """Names for a sentence."""
    first = list(names)
    return ", ".join(name[:40] for name in first[:20]) + (", …" if len(first) > 20 else "")


@contextmanager
def _refusing(what: str = "") -> Iterator[None]:
    """Whatever goes wrong in the block is an `InputRefused`."""
    try:
        yield
    except InputRefused:
        raise
    except Exception as error:  # exceptions of `datasets` and of what it reads with share no base class
        raise InputRefused(f"{what}cannot be read: {reason_of(error)}") from None


def _guarded(examples: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The examples, errors while they are read being refusals."""
    with _refusing():
        yield from examples()


class _Reader:
    """One dataset: its files, how it is to be read, and what was refused."""

    def __init__(self, found: DatasetFiles, options: ImportOptions) -> None:
        self.found, self.options = found, options
        self.refused: list[Refusal] = []

    def check(self, file: Path) -> int:
        """The number of rows of a table, 0 if it is not known. Raises `InputRefused` as `_columns`."""
        schema, rows = _header(file)
        self._columns(schema.names, _classes(self._features(schema, file)), file)
        return rows

    def file_rows(self) -> Iterator[Row]:
        """The rows of tables and tars, file by file."""
        for split, file in self.found.each():
            name = file.relative_to(self.found.root).as_posix()
            allowed, refused_before = allowance(file.stat().st_size), len(self.refused)
            number = given = 0
            try:
                columns, classes, examples = self._opened(file)
                for values in _guarded(examples):
                    for row in self._row(f"{name}#{number}", _named(values, classes), columns, split):
                        given += row.size
                        check_bytes(given, allowed, "its rows so far", "it repeats its images too often")
                        yield row
                    if len(self.refused) - refused_before > MOST_REFUSED:
                        raise InputRefused(f"more than {MOST_REFUSED} of its rows were refused")
                    number += 1
            except InputRefused as error:
                reason = f"{error}; the rest of this file was not read"
                self.refused.append(Refusal(f"{name}#{number}", reason))

    def _opened(
        self, file: Path
    ) -> tuple[dict[str, str], dict[str, list[str]], Callable[[], Iterable[dict[str, Any]]]]:
        """Our columns of a file, the names of its classes by column, and what reads its examples."""
        if self.found.kind == "webdataset":
            check_tar(file)
            with _refusing():
                stream = _stream("webdataset", file)
            classes = _classes(stream.features)
            columns = self._columns([*stream.features, *_names_inside(stream.features)], classes, file)
            return columns, classes, lambda: ({**_inner(one), **one} for one in stream)
        schema, _ = _header(file)
        features = self._features(schema, file)
        classes = _classes(features)
        columns = self._columns(schema.names, classes, file)
        return columns, classes, partial(self._table, file, features, sorted(set(columns.values())))

    def _table(self, file: Path, features: Any, theirs: list[str]) -> Iterator[dict[str, Any]]:
        """The examples of a table's columns `theirs`, once it is checked against its bounds."""
        import pyarrow.dataset

        if file.suffix == ".arrow":
            check_arrow(file, theirs)
            yield from _stream("arrow", file, features=features).select_columns(theirs)
            return
        with open_parquet(file) as opened:
            check_types(opened.schema_arrow, theirs, file.name)
            rows = rows_at_once(file, opened.metadata, theirs)
        yield from _stream(
            "parquet",
            file,
            columns=theirs,
            features=type(features)({name: features[name] for name in theirs}),
            batch_size=rows,
            fragment_scan_options=pyarrow.dataset.ParquetFragmentScanOptions(
                use_buffered_stream=True, pre_buffer=False, thrift_container_size_limit=CONTAINER_LIMIT
            ),
        )

    def _features(self, schema: Any, file: Path) -> Any:
        """The features of a table: the card's where it states them of these columns, else the file's own."""
        with _refusing(f"{file.name} "):
            features = library().Features.from_arrow_schema(schema)
        declared = self.found.features or {}
        return type(features)({name: declared.get(name, own) for name, own in features.items()})

    def _columns(self, names: list[str], classes: Mapping[str, Any], file: Path) -> dict[str, str]:
        """Our field → the dataset's column. Raises `InputRefused` if there is none of images, or of masks
        although images without any shall be clean."""
        for ours, theirs in self.options.columns.items():
            if ours not in USUAL or theirs not in names:
                raise InputRefused(
                    f"--column {ours}={theirs}: {file.name} has {_some(names)}; ours are {', '.join(USUAL)}"
                )
        found = {
            ours: next((n for n in usual if n in names and (ours == "category" or n not in classes)), None)
            for ours, usual in USUAL.items()
        }
        found["category"] = found["category"] or next((n for n in CLASSES if n in classes), None)
        columns = {k: v for k, v in (found | dict(self.options.columns)).items() if v is not None}
        if "image" not in columns:
            raise InputRefused(
                f"{file.name} has no image column among {_some(names)}; name it: --column image=…"
            )
        if self.options.clean and "mask" not in columns:
            raise InputRefused(
                f"{file.name} has no column of masks among {', '.join(names)}, so --clean would call every "
                "image free of artifacts; name the column: --column mask=…"
            )
        return columns

    # ---- folders of images ---------------------------------------------------------------------------

    def image_rows(self, found: DatasetFiles, prefix: str = "") -> Iterator[Row]:
        """The rows of a folder of images, then those of the zip archives in it."""
        if any(found.splits.values()):
            yield from self._folder_rows(found, prefix)
        for split, file in found.archives:
            name = prefix + file.relative_to(found.root).as_posix()
            try:
                with open_safely(file.resolve() if found.linked else file) as folder:
                    unpacked = find_dataset(folder)
                    if unpacked.kind != "images" or unpacked.archives:
                        raise InputRefused("it does not hold images alone; unpack it and import the folder")
                    _check_images(unpacked)
                    yield from self._folder_rows(unpacked, f"{name}/", split, at_once=True)
            except InputRefused as error:
                self.refused.append(Refusal(name, str(error)))

    def _folder_rows(
        self, found: DatasetFiles, prefix: str, outer: str = "", at_once: bool = False
    ) -> Iterator[Row]:
        """`outer` is the split of the archive that the folder comes from; with `at_once` files are read here,
        because the folder is gone when the rows are used."""
        named: set[str] = set()
        try:
            with _refusing():
                streams = found.builder.as_streaming_dataset()
            for split, stream in streams.items():
                classes = _classes(stream.features)
                columns = self._columns(list(stream.features), classes, found.root)
                for values in _guarded(partial(iter, stream.decode(False))):
                    ours = {name: _below(found.root, one) for name, one in _named(values, classes).items()}
                    name = _path_of(ours.get(columns["image"]))
                    named.add(name)
                    stated = outer or (split if split in found.splits else "")
                    if at_once:
                        ours |= {
                            columns[key]: _embedded(ours.get(columns[key]), found)
                            for key in FILES & {*columns}
                        }
                    yield from self._row(prefix + name, ours, columns, stated, found)
        except InputRefused as error:
            self.refused.append(Refusal(prefix or found.root.name, f"{error}; the rest of it was not read"))
            return
        for _, file in found.each():
            name = file.relative_to(found.root).as_posix()
            if name not in named and file.name not in METADATA:
                self.refused.append(
                    Refusal(displayable_name(prefix + name), "no row of the metadata names it")
                )

    def _row(
        self,
        name: str,
        values: dict[str, Any],
        columns: dict[str, str],
        split: str,
        found: DatasetFiles | None = None,
    ) -> Iterator[Row]:
        found, options = found or self.found, self.options
        ours = {mine: values.get(theirs) for mine, theirs in columns.items()}
        try:
            note = parse_note({key: ours.get(key) for key in NOTED})
            data, path = _embedded_or_path(ours["image"], found)
        except InputRefused as error:
            self.refused.append(Refusal(displayable_name(name), str(error)))
            return
        note = replace(note, split=note.split or split_named(split))
        author = ours.get("author") if isinstance(ours.get("author"), str) else None
        author = author or options.author or "import:hf"
        answers = None
        if (mask := ours.get("mask")) is not None:
            answers = partial(_answer, mask, found, options, author)
        elif options.clean and ours.get("confidence") is None:
            answers = partial(_implied, author)
        load = partial(_load, data, path, found, note)
        yield Row(name=displayable_name(name), load=load, answers=answers, size=len(data))


def _header(file: Path) -> tuple[Any, int]:
    """The schema of a table and its number of rows, 0 if it is not known in advance."""
    import pyarrow

    try:
        if file.suffix == ".parquet":
            with open_parquet(file) as opened:
                return opened.schema_arrow, opened.metadata.num_rows
        with pyarrow.memory_map(str(file)) as source:
            return pyarrow.ipc.open_stream(source).schema, 0
    except (pyarrow.ArrowException, OSError) as error:
        raise InputRefused(f"{file.name} cannot be read: {reason_of(error)}") from None


def _stream(module: str, file: Path, **options: Any) -> Any:
    """The examples of one file, images as their bytes, as a `datasets.IterableDataset`."""
    with tempfile.TemporaryDirectory() as cache:
        stream = library().load_dataset(
            module,
            data_files=[glob.escape(str(file.absolute()))],
            split="train",
            streaming=True,
            cache_dir=cache,
            **options,
        )
    return stream.decode(False)


def _classes(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of classes by column, for columns that hold their numbers."""
    kind = library().ClassLabel
    return {name: list(one.names or ()) for name, one in features.items() if isinstance(one, kind)}


def _named(values: dict[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """The values, with the names of classes for their numbers."""
    found = dict(values)
    for column, names in classes.items():
        number = values.get(column)
        found[column] = names[number] if isinstance(number, int) and 0 <= number < len(names) else None
    return found


def _inner(example: dict[str, Any]) -> dict[str, Any]:
    """What the JSON of a WebDataset example says."""
    return {
        name: value
        for column in INSIDE
        if isinstance(inner := example.get(column), dict)
        for name, value in inner.items()
    }


def _names_inside(features: Mapping[str, Any]) -> list[str]:
    return [name for c in INSIDE if isinstance(inner := features.get(c), dict) for name in inner]


def _below(root: Path, value: Any) -> Any:
    """An image as the name of its file below `root`, if it is one."""
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else None
    if isinstance(path, str) and Path(path).is_relative_to(root):
        return Path(path).relative_to(root).as_posix()
    return value


def _path_of(value: Any) -> str:
    return value if isinstance(value, str) else "an image without a path"


def _embedded_or_path(value: Any, found: DatasetFiles) -> tuple[bytes, str]:
    """Embedded bytes, or the path of a file in the folder."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        if len(value) > IMAGE_BYTES:
            raise InputRefused(f"its image has {len(value)} bytes, the limit is {IMAGE_BYTES}")
        return value, ""
    if not isinstance(value, str):
        raise InputRefused("contains no image: neither bytes nor a path")
    if not found.linked:
        path_inside(found.root, value)
    return b"", value


def _read(found: DatasetFiles, name: str) -> bytes:
    """The bytes of an image of the dataset's folder."""
    if not found.linked:
        return read_inside(found.root, name)[0]
    # The hub's cache holds a link for each file, to a blob beside the folder of the revision.
    cache = found.root.parents[1]
    path = path_inside(cache, (found.root / name).relative_to(cache).as_posix())
    return read_plain(path.resolve(), IMAGE_BYTES)


def _load(data: bytes, path: str, found: DatasetFiles, note: Note) -> tuple[bytes, Note]:
    return data or _read(found, path), note


def _embedded(value: Any, found: DatasetFiles) -> Any:
    """An image or mask with its bytes; as it is if they cannot be read, to be refused where it is used."""
    try:
        data, path = _embedded_or_path(value, found)
        return {"bytes": data or _read(found, path)}
    except InputRefused:
        return value


def _implied(author: str, height: int, width: int) -> list[ImportedAnnotation]:
    return [ImportedAnnotation(author=author, label_map=None, implied=True)]


def _answer(
    mask: Any, found: DatasetFiles, options: ImportOptions, author: str, height: int, width: int
) -> list[ImportedAnnotation]:
    try:
        data, path = _embedded_or_path(mask, found)
        read = read_mask(data or _read(found, path), options.one_class_value, (height, width))
    except InputRefused as error:
        return [ImportedAnnotation(author=author, label_map=None, refused=(str(error),))]
    label_map = read.label_map if read.label_map.any() else None
    return [ImportedAnnotation(author=author, label_map=label_map, remark=read.remark)]
