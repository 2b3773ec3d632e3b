"""Read Hugging Face datasets: Parquet (or Arrow stream) files of a folder or of the hub, in small batches.

Columns are found by their usual names, or mapped by `--column ours=theirs`. Ours are `image` (embedded bytes,
or a path inside the folder), `mask` (the same, of class numbers or 0 and 255), `author`, and the metadata
`prompt`, `seed`, `category`, `licence`, `generator`, `source`, `split`, `group`. Exports of our own snapshots
are read back completely.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.bounds import IMAGE_BYTES, allowance, check_bytes
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, Row
from pipelines.exchange.labels import ImportedAnnotation
from pipelines.exchange.metadata import NOTED, Note, Refusal, parse_note
from pipelines.exchange.readers.mask_images import read_mask
from pipelines.exchange.readers.parquet_bounds import (
    CONTAINER_LIMIT,
    check_rows,
    check_stream,
    check_types,
    rows_at_once,
)
from pipelines.exchange.safe_files import path_inside, read_inside

USUAL = {
    "image": ("image", "img", "picture"),
    "mask": ("label_map", "mask", "label", "segmentation"),
    "confidence": ("confidence_map",),
    "author": ("author", "annotator"),
    "prompt": ("prompt", "caption", "text"),
    "seed": ("seed",),
    "category": ("category",),
    "licence": ("licence", "license"),
    "generator": ("generator", "model"),
    "source": ("source",),
    "split": ("split",),
    "group": ("group",),
}
MOST_REFUSED = 10_000
LOSSES = ("weights, pseudo-labels' confidence maps and the snapshot's identity are not kept",)


def read_parquet(options: ImportOptions) -> Reading:
    """The rows of a local folder or file; `hf://OWNER/NAME` is downloaded from the hub first.

    Raises `InputRefused` if there is no such file, or a file has no image column.
    """
    root = _local(options.path)
    files = [root] if root.is_file() else sorted([*root.rglob("*.parquet"), *root.rglob("*.arrow")])
    if not files:
        raise InputRefused(f"{root} contains no .parquet or .arrow file; give the dataset's folder")
    refused: list[Refusal] = []
    total = 0
    for file in files:
        names, rows = _opened(file)
        columns = _columns(names, options.columns, file)
        if "image" not in columns:
            raise InputRefused(
                f"{file.name} has no image column among {_some(names)}; name it: --column image=…"
            )
        if options.clean and "mask" not in columns:
            raise InputRefused(
                f"{file.name} has no column of masks among {', '.join(names)}, so --clean would call every "
                "image free of artifacts; name the column: --column mask=…"
            )
        total += rows
    base = root.parent if root.is_file() else root
    return Reading(rows=_rows(files, base, options, refused), total=total, refused=refused, losses=LOSSES)


def _local(path: Path) -> Path:
    text = path.as_posix()
    if not text.startswith(("hf:/", "hf://")):
        if not path.exists():
            raise InputRefused(f"{path} does not exist; datasets on the hub are written hf://OWNER/NAME")
        return path
    from huggingface_hub import snapshot_download

    repository = text.removeprefix("hf:").lstrip("/")
    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=["*.parquet"]))
    except Exception as error:  # its exceptions share no base class
        raise InputRefused(f"the hub dataset {repository!r} cannot be downloaded: {error}") from None


def _opened(file: Path) -> tuple[list[str], int]:
    """Column names and number of rows (0 if it is not known in advance)."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        if file.suffix == ".parquet":
            with parquet.ParquetFile(file, thrift_container_size_limit=CONTAINER_LIMIT) as opened:
                return list(opened.schema_arrow.names), opened.metadata.num_rows
        with pyarrow.memory_map(str(file)) as source:
            return list(pyarrow.ipc.open_stream(source).schema.names), 0
    except (pyarrow.ArrowException, OSError) as error:
        raise InputRefused(f"{file.name} cannot be read: {reason_of(error)}") from None


def _some(names: list[str]) -> str:
    """Names for a sentence."""
    return ", ".join(name[:40] for name in names[:20]) + (", …" if len(names) > 20 else "")


def _columns(names: list[str], payload: Mapping[str, str], file: Path) -> dict[str, str]:
    """Our field → the dataset's column."""
    for ours, theirs in payload.items():
        if ours not in USUAL or theirs not in names:
            raise InputRefused(
                f"--column {ours}={theirs}: {file.name} has {_some(names)}; ours are {', '.join(USUAL)}"
            )
    found = {ours: next((n for n in usual if n in names), None) for ours, usual in USUAL.items()}
    return {ours: theirs for ours, theirs in (found | dict(payload)).items() if theirs is not None}


def _rows(files: list[Path], base: Path, options: ImportOptions, refused: list[Refusal]) -> Iterator[Row]:
    for file in files:
        columns = _columns(_opened(file)[0], options.columns, file)
        name = file.relative_to(base).as_posix()
        allowed, refused_before = allowance(file.stat().st_size), len(refused)
        number = given = 0
        try:
            for batch in _batches(file, columns):
                for values in batch:
                    for row in _row(f"{name}#{number}", values, columns, base, options, refused):
                        given += row.size
                        check_bytes(given, allowed, "its rows so far", "it repeats its images too often")
                        yield row
                    if len(refused) - refused_before > MOST_REFUSED:
                        raise InputRefused(f"more than {MOST_REFUSED} of its rows were refused")
                    number += 1
        except InputRefused as error:
            refused.append(Refusal(f"{name}#{number}", f"{error}; the rest of this file was not read"))


def _batches(file: Path, columns: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet as parquet

    theirs = sorted(set(columns.values()))
    try:
        if file.suffix == ".parquet":
            with parquet.ParquetFile(
                file, memory_map=True, thrift_container_size_limit=CONTAINER_LIMIT
            ) as opened:
                check_types(opened.schema_arrow, theirs, file.name)
                rows = rows_at_once(file, opened.metadata, theirs)
                for batch in opened.iter_batches(batch_size=rows, columns=theirs):
                    yield batch.to_pylist()
            return
        with pyarrow.memory_map(str(file)) as source:
            check_stream(source, file.name)
            source.seek(0)
            for batch in pyarrow.ipc.open_stream(source):
                check_types(batch.schema, theirs, file.name)
                check_rows(batch.num_rows, source.size(), file.name)
                ours = batch.select(theirs)
                ours.validate(full=True)
                for start in range(batch.num_rows):
                    yield ours.slice(start, 1).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"cannot be read: {reason_of(error)}") from None


def _row(
    name: str,
    values: dict[str, Any],
    columns: dict[str, str],
    base: Path,
    options: ImportOptions,
    refused: list[Refusal],
) -> Iterator[Row]:
    ours = {mine: values.get(theirs) for mine, theirs in columns.items()}
    try:
        note = parse_note({key: ours.get(key) for key in NOTED})
        data, path = _embedded_or_path(ours["image"], base)
    except InputRefused as error:
        refused.append(Refusal(name, str(error)))
        return
    answers = None
    author = ours.get("author") if isinstance(ours.get("author"), str) else None
    author = author or options.author or "import:hf"
    if (mask := ours.get("mask")) is not None:
        answers = partial(_answer, mask, base, options, author)
    elif options.clean and ours.get("confidence") is None:
        answers = partial(_implied, author)
    yield Row(name=name, load=partial(_load, data, path, base, note), answers=answers, size=len(data))


def _embedded_or_path(value: Any, base: Path) -> tuple[bytes, str]:
    """Embedded bytes, or the path of a file in the folder."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        if len(value) > IMAGE_BYTES:
            raise InputRefused(f"its image has {len(value)} bytes, the limit is {IMAGE_BYTES}")
        return value, ""
    if not isinstance(value, str):
        raise InputRefused("contains no image: neither bytes nor a path")
    path_inside(base, value)
    return b"", value


def _load(data: bytes, path: str, base: Path, note: Note) -> tuple[bytes, Note]:
    return (data, note) if data else (read_inside(base, path)[0], note)


def _implied(author: str, height: int, width: int) -> list[ImportedAnnotation]:
    return [ImportedAnnotation(author=author, label_map=None, implied=True)]


def _answer(
    mask: Any, base: Path, options: ImportOptions, author: str, height: int, width: int
) -> list[ImportedAnnotation]:
    try:
        data, path = _embedded_or_path(mask, base)
        data = data or read_inside(base, path)[0]
        read = read_mask(data, options.one_class_value, (height, width))
    except InputRefused as error:
        return [ImportedAnnotation(author=author, label_map=None, refused=(str(error),))]
    label_map = read.label_map if read.label_map.any() else None
    return [ImportedAnnotation(author=author, label_map=label_map, remark=read.remark)]
