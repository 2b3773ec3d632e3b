"""Image metadata in tables and sidecars, read within limits; file names in it are never trusted as paths."""

import codecs
import csv
import json
import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO, cast, get_args

from dataengine.bounds import TABLE_BYTES, TABLE_ROWS, check_bytes
from dataengine.csv_files import unescape_row
from dataengine.errors import InputRefused
from dataengine.images import texts_in
from dataengine.records import Source, Split
from pipelines.exchange.prompts import parse_graph, parse_parameters

SIDECARS = (".txt", ".json")
TABLE = "metadata.csv"
TABLES = (TABLE, "metadata.jsonl")
DELIMITERS = ",;\t"
PROMPT_COLUMNS = ("prompt", "text", "caption")
NOTED = ("prompt", "seed", "category", "licence", "generator", "source", "split", "group")
"""What a dataset's columns say of an image, besides its settings."""
NAME_COLUMNS = ("file_name", "file")
MAX_SIDECAR_BYTES = 1024 * 1024
MAX_PROMPT = 20_000
MAX_WORD = 500
MAX_LINE = 1_000_000
SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "benchmark",
    "test-dev": "benchmark",
    "testing": "benchmark",
    "benchmark": "benchmark",
}
"""What others call a split → ours; what they keep back for tests is never trained on."""
YEAR = re.compile(r"[\W_]*\d*$")
UNUSABLE_GROUP = re.compile(r"look:(?![0-9a-f]{16}$)")
"""Groups of near-duplicates bear the hash of their first member."""


class Refusal(NamedTuple):
    """The name of a refused row or file, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """The metadata of an image from a table or a sidecar."""

    prompt: str = ""
    seed: int | None = None
    category: str | None = None
    licence: str | None = None
    generator: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None
    split: Split | None = None
    group: str | None = None
    """Images of one group have one split; only together with a split."""
    problem: str = ""
    """What beside the image could not be read, so that it comes without."""


class Table(NamedTuple):
    """Metadata by file name, as `same_name` gives it, with refused rows and the columns passed over."""

    notes: dict[str, Note]
    refused: list[Refusal]
    unused: tuple[str, ...] = ()

    @property
    def losses(self) -> tuple[str, ...]:
        return (f"columns of the table that are not used: {', '.join(self.unused)}",) * bool(self.unused)


def read_table(root: Path, path: Path | None = None) -> Table:
    """Metadata from the table `path`, or from `metadata.csv` or `metadata.jsonl` in `root` if there is one.

    Raises `InputRefused` if the table itself cannot be read.
    """
    own = (root / name for name in TABLES)
    path = path or next((each for each in own if each.is_file()), None)
    if path is None:
        return Table({}, [])
    notes: dict[str, Note] = {}
    refused: list[Refusal] = []
    columns: dict[str, None] = {}
    try:
        for line, row in read_lines(path) if path.suffix == ".jsonl" else read_rows(path, NAME_COLUMNS):
            columns |= dict.fromkeys(row)
            name = next((row[name] for name in NAME_COLUMNS if row.get(name)), "")
            try:
                note = parse_note(with_prompt(row))
            except InputRefused as error:
                refused.append(Refusal(f"{path.name}, line {line}", str(error)))
            else:
                # Tables of Windows separate folders by backslashes.
                notes[same_name(str(PurePosixPath(str(name).replace("\\", "/"))))] = note
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputRefused(f"the table {path} cannot be read: {error}") from None
    known = {*NAME_COLUMNS, *NOTED, *PROMPT_COLUMNS, "settings"}
    return Table(notes, refused, tuple(name for name in columns if name and name not in known))


def with_prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its prompt under this name, where another tool calls it text or caption."""
    name = next((name for name in PROMPT_COLUMNS if row.get(name)), "prompt")
    return {**row, "prompt": row.get(name)}


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with their line numbers. Raises as `read_rows`."""
    for number, line in read_text_lines(path):
        yield number, parse_object(line)


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers. Raises as `read_rows`."""
    check_bytes(path.stat().st_size, TABLE_BYTES, f"the table {path}", "split it with its folder")
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(_lines(file, path), 1):
            if number > TABLE_ROWS:
                raise InputRefused(
                    f"the table {path} has more than {TABLE_ROWS} rows; split it with its folder"
                )
            if line.strip():
                yield number, line


def read_rows(path: Path, names: Collection[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, which must have one of the columns `names` if any, with their line numbers.

    Raises `OSError`, `UnicodeError`, `csv.Error`, and `InputRefused` for a missing column, above
    `TABLE_BYTES` or `TABLE_ROWS`, or for a line without end.
    """
    check_bytes(path.stat().st_size, TABLE_BYTES, f"the table {path}", "split it with its folder")
    with path.open("rb") as file:
        encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with path.open(newline="", encoding=encoding) as file:
        lines = _lines(file, path)
        header = next(lines, "")
        delimiter = max(DELIMITERS, key=header.count)
        rows = csv.DictReader(chain([header], lines), delimiter=delimiter, skipinitialspace=True)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        if names and not set(names) & set(rows.fieldnames or ()):
            raise InputRefused(f"{path} has no column file_name; its first line must name the columns")
        for number, row in enumerate(rows):
            if number == TABLE_ROWS:
                raise InputRefused(
                    f"the table {path} has more than {TABLE_ROWS} rows; split it with its folder"
                )
            yield rows.line_num, unescape_row(row)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise InputRefused(f"the table {path} has a line of more than {MAX_LINE} characters")
        yield line


def read_embedded(data: bytes) -> Note | None:
    """The prompt and seed that a generator wrote into an image file; None if there is none."""
    texts = texts_in(data)
    found = parse_parameters(texts["parameters"]) if texts.get("parameters") else {}
    if not found and texts.get("prompt"):
        found = parse_graph(texts["prompt"])
    try:
        return parse_note(found) if found else None
    except InputRefused:
        return None


def read_sidecar(image: Path) -> Note | None:
    """Metadata of `a.png` in `a.txt` or `a.json`; None if there is neither.

    A file that is none of ours, such as an annotation tool's JSON, is a note with its problem alone.
    """
    problem = ""
    for sidecar in map(image.with_suffix, SIDECARS):
        if not os.path.lexists(sidecar):
            continue
        name = displayable_name(sidecar.name)
        try:
            text = read_plain(sidecar, MAX_SIDECAR_BYTES).decode("utf-8-sig")
            return parse_note(parse_parameters(text) if sidecar.suffix == ".txt" else parse_object(text))
        except UnicodeDecodeError:
            problem = problem or f"its sidecar {name} is not UTF-8 text; the image comes without it"
        except InputRefused as error:
            problem = problem or f"its sidecar {name}: {error}; the image comes without it"
    return Note(problem=problem) if problem else None


def parse_note(payload: Mapping[str, Any]) -> Note:
    """Metadata from plain values; unknown keys are ignored. Raises `InputRefused` naming a bad value."""
    settings = payload.get("settings") or {}
    if not isinstance(settings, dict):
        raise InputRefused("settings must be an object of names and values")
    split, source = payload.get("split"), payload.get("source")
    return Note(
        prompt=_text(payload, "prompt", MAX_PROMPT) or "",
        seed=_seed(payload.get("seed")),
        category=_text(payload, "category", MAX_WORD),
        licence=_text(payload, "licence", MAX_WORD),
        generator=_text(payload, "generator", MAX_WORD),
        settings=settings,
        # Words of other tools in these columns, such as "test" or a web address, are not ours.
        source=cast(Source, source) if source in get_args(Source) else None,
        split=cast(Split, split) if split in get_args(Split) else None,
        group=_group(payload) if split in get_args(Split) else None,
    )


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises `InputRefused` for a link, a pipe, or more than `limit` bytes."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputRefused("not a plain file")
            data = file.read(limit + 1)
    except OSError as error:
        raise InputRefused(f"cannot be read ({error.strerror}); links are not followed") from None
    if len(data) > limit:
        raise InputRefused(f"larger than {limit} bytes")
    return data


def same_name(name: str) -> str:
    """The name as names are compared: é is é, whether a system writes it as one sign or as two."""
    return unicodedata.normalize("NFC", name)


def displayable_name(name: str) -> str:
    """The name with invalid UTF-8 replaced, so that it can be stored and displayed."""
    return name.encode("utf-8", "replace").decode()


def split_named(name: str) -> Split | None:
    """Our split of a subset's or folder's name, such as `val2017` or `Train`; None for other words."""
    return SPLITS.get(YEAR.sub("", name.casefold()))


def parse_object(text: str) -> dict[str, Any]:
    """The object that a JSON text is. Raises `InputRefused` for anything else."""

    def refuse(constant: str) -> None:
        raise InputRefused(f"contains {constant}, which is not valid JSON")

    try:
        payload = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"is not valid JSON: {error}") from None
    if not isinstance(payload, dict):
        raise InputRefused("must be a JSON object")
    return payload


def _group(payload: Mapping[str, Any]) -> str | None:
    try:
        group = _text(payload, "group", MAX_WORD)
    except InputRefused:
        return None
    return None if group and UNUSABLE_GROUP.match(group) else group


def _seed(value: object) -> int | None:
    """The seed, also written 7.0 as pandas does; None for what is none: -1, NaN, "random", 2^63 and above."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seed = int(value)  # not by way of a float, which holds no more than 53 bits
    except (ValueError, OverflowError):
        try:
            value = float(value)
            seed = int(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, float) and value != seed:
        return None
    return seed if 0 <= seed < 2**63 else None


def _text(payload: Mapping[str, Any], key: str, limit: int) -> str | None:
    value = payload.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > limit or "\0" in value:
        raise InputRefused(f"{key} must be text of at most {limit} characters")
    return displayable_name(value)
