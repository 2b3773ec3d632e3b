"""Prompt sets: a file of prompts with its columns, such as category and challenge, or a published set.

Read are plain lines (.txt), tables (.csv, .tsv) with a column of prompts, JSON (a list of texts or objects,
or lists by category) and JSON lines. Published sets are looked for in the folder that `CLINIC_PROMPTS` names,
then on the hub; none is shipped.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from dataengine.bounds import CONFIG_BYTES, allowance, check_bytes, check_json
from dataengine.errors import InputRefused, reason_of
from pipelines.exchange.metadata import MAX_PROMPT, MAX_WORD, displayable_name, read_lines, read_rows

FOLDER = "CLINIC_PROMPTS"
"""Environment variable: a folder of prompt files, where published sets are looked for first."""
PROMPT_NAMES = ("prompt", "prompts", "text", "caption")
CATEGORY = "category"
SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")
MOST = 100_000
QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A published set: its repository on the hub, the commit where known, and its files."""

    repository: str
    files: tuple[str, ...]
    revision: str | None = None
    by_file: bool = False
    """Whether each file is a category of its own, named by the file."""


PUBLISHED = {
    "partiprompts": PublishedSet(repository="nateraw/parti-prompts", files=("PartiPrompts.tsv",)),
    "hpdv2": PublishedSet(
        repository="zhwang/HPDv2",
        files=tuple(f"benchmark/{name}.json" for name in ("anime", "concept-art", "paintings", "photo")),
        by_file=True,
    ),
    "drawbench": PublishedSet(
        repository="sayakpaul/drawbench",
        files=("DrawBench Prompts - Sheet1.csv",),
        revision="ad794cba698c253ffdb6d18eff3fc87b004c1135",
    ),
}
"""PartiPrompts (Yu et al. 2022), HPDv2 (Wu et al. 2023), DrawBench (Saharia et al. 2022)."""


@dataclass(frozen=True)
class PromptRow:
    """One prompt with what its file says of it, by column in lower case."""

    text: str
    columns: Mapping[str, str] = field(default_factory=dict)


def find_prompts(named: str) -> list[PromptRow]:
    """The prompts of a file, or of a published set by name.

    Raises `InputRefused` for what is neither, for a file without prompts, and for one that cannot be read.
    """
    path = Path(named).expanduser()
    if named in PUBLISHED and not path.exists():
        return _published(named, PUBLISHED[named])
    if not path.is_file():
        raise InputRefused(
            f"there are no prompts at {named!r}: expected a file ({', '.join(SUFFIXES)}), or one of "
            f"{', '.join(PUBLISHED)}"
        )
    return read_prompts(path)


def read_prompts(path: Path) -> list[PromptRow]:
    """The prompts of a file, each once, in their order. Raises `InputRefused`."""
    readers = {".txt": _plain, ".tsv": _tabs, ".json": _json, ".jsonl": _json_lines}
    if path.suffix.lower() not in SUFFIXES:
        raise InputRefused(f"{path} is no file of prompts; expected {', '.join(SUFFIXES)}")
    try:
        found = list(readers.get(path.suffix.lower(), _table)(path))
    except UnicodeError:
        raise InputRefused(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise InputRefused(f"{path} cannot be read: {reason_of(error)}") from None
    first: dict[str, PromptRow] = {}
    for row in found:
        first.setdefault(row.text, row)
    once = [row for row in first.values() if row.text]
    if not once:
        raise InputRefused(f"{path} holds no prompt")
    if len(once) > MOST:
        raise InputRefused(f"{path} holds {len(once)} prompts; at most {MOST} are read")
    return once


def thinned(rows: Sequence[PromptRow], limit: int | None) -> list[PromptRow]:
    """At most `limit` of the prompts, evenly spaced, so that sets sorted by category keep all of them."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // limit] for index in range(limit)]


def _published(name: str, known: PublishedSet) -> list[PromptRow]:
    files = _beside(name, known) or _downloaded(name, known)
    rows: list[PromptRow] = []
    for file in files:
        category = {CATEGORY: file.stem} if known.by_file else {}
        rows += [PromptRow(row.text, category | dict(row.columns)) for row in read_prompts(file)]
    return rows


def _beside(name: str, known: PublishedSet) -> list[Path]:
    """The set's files in the folder that the environment names, under their own names or the set's."""
    root = os.environ.get(FOLDER)
    if not root:
        return []
    own = [Path(root) / name / Path(file).name for file in known.files]
    if all(file.is_file() for file in own):
        return own
    alike = (path for path in sorted(Path(root).glob("*")) if path.suffix.lower() in SUFFIXES)
    return [path for path in alike if re.sub(r"\W|_", "", path.stem.lower()).startswith(name)][:1]


def _downloaded(name: str, known: PublishedSet) -> list[Path]:
    from huggingface_hub import hf_hub_download

    try:
        return [
            Path(hf_hub_download(known.repository, file, repo_type="dataset", revision=known.revision))
            for file in known.files
        ]
    except Exception as error:  # its exceptions share no base class
        raise InputRefused(
            f"the prompts {name} cannot be downloaded from {known.repository}: "
            f"{reason_of(error).rstrip('.')}; put them into a folder and name it in {FOLDER}, or give their "
            "file"
        ) from None


def _plain(path: Path) -> Iterator[PromptRow]:
    for line in _text(path).splitlines():
        yield PromptRow(_prompt(line, path))


def _table(path: Path) -> Iterator[PromptRow]:
    for line, row in read_rows(path):
        if None in row:
            raise InputRefused(
                f"{path}, line {line}: more cells than the first line names; a prompt that holds the "
                "separator needs quotes"
            )
        yield _row(row, f"{path}, line {line}")


def _tabs(path: Path) -> Iterator[PromptRow]:
    """Cells between tabs. Only a cell that is quoted as a whole loses its quotes: in PartiPrompts, prompts
    begin with a quoted word."""
    header, *lines = _text(path).splitlines() or [""]
    names = [_unquoted(name) for name in header.split("\t")]
    for number, line in enumerate(lines, 2):
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if len(cells) > len(names):
            raise InputRefused(f"{path}, line {number}: more cells than the first line names")
        if line.strip():
            yield _row(dict(zip(names, cells, strict=False)), f"{path}, line {number}")


def _unquoted(cell: str) -> str:
    plain = cell.strip()
    return plain[1:-1].replace('""', '"') if QUOTED.fullmatch(plain) else plain


def _json_lines(path: Path) -> Iterator[PromptRow]:
    for line, row in read_lines(path):
        yield _row(row, f"{path}, line {line}")


def _json(path: Path) -> Iterator[PromptRow]:
    text = _text(path)
    check_json(text.encode(), allowance(len(text)), str(path))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise InputRefused(f"{path} is no JSON") from None
    lists = found if isinstance(found, dict) else {"": found}
    if not all(isinstance(each, list) for each in lists.values()):
        raise InputRefused(f"{path} holds no list of prompts, and no lists of them by category")
    pairs: Iterable[tuple[str, Any]] = chain.from_iterable(
        ((name, each) for each in rows) for name, rows in lists.items()
    )
    for number, (name, each) in enumerate(pairs, 1):
        where = f"{path}, prompt {number}"
        row = PromptRow(_prompt(each, where)) if isinstance(each, str) else _row(each, where)
        named = {CATEGORY: name} if name and len(lists) > 1 else {}
        yield PromptRow(row.text, named | dict(row.columns))


def _row(row: Any, where: str) -> PromptRow:
    """An object or a table's row: its prompt, and every other plain value as a text."""
    if not isinstance(row, dict):
        raise InputRefused(f"{where}: expected a text, or an object with a prompt")
    plain = {str(name).strip().lower(): value for name, value in row.items()}
    name = next((name for name in PROMPT_NAMES if name in plain), None)
    if name is None:
        raise InputRefused(f"{where}: no prompt; expected a column named {', '.join(PROMPT_NAMES)}")
    kept = {
        other: displayable_name(str(value).strip())[:MAX_WORD]
        for other, value in plain.items()
        if other and other != name and isinstance(value, str | int | float) and str(value).strip()
    }
    return PromptRow(_prompt(plain[name], where), kept)


def _prompt(value: Any, where: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_PROMPT or "\0" in value:
        raise InputRefused(f"{where}: a prompt must be text of at most {MAX_PROMPT} characters")
    return displayable_name(" ".join(value.split()))


def _text(path: Path) -> str:
    check_bytes(path.stat().st_size, CONFIG_BYTES, f"the prompts {path}", "split them")
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding)
