"""Search over prompts: words, "phrases", -not and beginnings*, by the database's own index.

SQLite keeps the index in FTS5 tables beside `images`, PostgreSQL in one with a tsvector; triggers keep them
in step with the prompts. Words are compared as written, without regard to case. These objects are not part
of the tables' metadata: backups leave them out, and restoring the images fills them.
"""

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    false,
    literal,
    literal_column,
    not_,
    select,
)
from sqlalchemy import text as sql_text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

INDEX = "prompt_search"
"""The name of the index's tables, or what they begin with."""
LONGEST_TEXT = 100_000
"""Characters of a prompt that PostgreSQL indexes; a tsvector holds at most 1 MB."""
ARRIVAL: ColumnElement[int] = literal_column("prompt_search.rowid", Integer)
FOUND: ColumnElement[str] = literal_column("found.image_id", Text)
"""Number and id of an image found by `in_order_of_arrival`; newer images have higher numbers."""

_SQLITE = (
    "CREATE TABLE prompt_search_ids (id INTEGER PRIMARY KEY, image_id TEXT NOT NULL UNIQUE "
    "REFERENCES images (id) ON DELETE CASCADE)",
    "CREATE VIEW prompt_search_texts AS SELECT ids.id AS id, images.prompt AS prompt "
    "FROM prompt_search_ids AS ids JOIN images ON images.id = ids.image_id",
    "CREATE VIRTUAL TABLE prompt_search USING fts5 (prompt, content='prompt_search_texts', "
    "content_rowid='id', tokenize='unicode61 remove_diacritics 0')",
    "CREATE TRIGGER prompt_search_insert AFTER INSERT ON images BEGIN "
    "INSERT INTO prompt_search_ids (image_id) VALUES (new.id); "
    "INSERT INTO prompt_search (rowid, prompt) "
    "SELECT id, new.prompt FROM prompt_search_ids WHERE image_id = new.id; END",
    "CREATE TRIGGER prompt_search_update AFTER UPDATE OF prompt ON images "
    "WHEN old.prompt <> new.prompt BEGIN "
    "INSERT INTO prompt_search (prompt_search, rowid, prompt) "
    "SELECT 'delete', id, old.prompt FROM prompt_search_ids WHERE image_id = new.id; "
    "INSERT INTO prompt_search (rowid, prompt) "
    "SELECT id, new.prompt FROM prompt_search_ids WHERE image_id = new.id; END",
    "CREATE TRIGGER prompt_search_delete BEFORE DELETE ON images BEGIN "
    "INSERT INTO prompt_search (prompt_search, rowid, prompt) "
    "SELECT 'delete', id, old.prompt FROM prompt_search_ids WHERE image_id = old.id; END",
    "INSERT INTO prompt_search_ids (image_id) SELECT id FROM images ORDER BY created, id",
    "INSERT INTO prompt_search (prompt_search) VALUES ('rebuild')",
)
# An id of its own, because VACUUM renumbers the rows of a table without an integer key.
_POSTGRES = (
    f"CREATE TABLE {INDEX} (image_id TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE, "
    "words TSVECTOR NOT NULL)",
    # The parser takes "hand/made" for a path and "a-b" for a compound: punctuation becomes spaces first.
    f"CREATE FUNCTION {INDEX}_words (prompt TEXT) RETURNS TSVECTOR LANGUAGE sql IMMUTABLE AS $$ "
    f"SELECT to_tsvector('simple', regexp_replace(left(prompt, {LONGEST_TEXT}), "
    r"'[!-/\:-@\[-`\{-~\s]+', ' ', 'g')) $$",
    f"CREATE FUNCTION {INDEX}_keep () RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN "
    f"INSERT INTO {INDEX} (image_id, words) VALUES (new.id, {INDEX}_words(new.prompt)) "
    "ON CONFLICT (image_id) DO UPDATE SET words = excluded.words; RETURN NULL; END $$",
    f"CREATE TRIGGER {INDEX} AFTER INSERT OR UPDATE OF prompt ON images "
    f"FOR EACH ROW EXECUTE FUNCTION {INDEX}_keep()",
    f"INSERT INTO {INDEX} SELECT id, {INDEX}_words(prompt) FROM images",
    # Else every search would read the list of what was inserted since the last vacuum.
    f"CREATE INDEX {INDEX}_by_words ON {INDEX} USING gin (words) WITH (fastupdate = off)",
)


def create_index(connection: Connection) -> None:
    """Make the prompts of a catalog searchable."""
    for statement in _SQLITE if connection.dialect.name == "sqlite" else _POSTGRES:
        connection.exec_driver_sql(statement)


def forget_erased(connection: Connection) -> None:
    """Remove the words of deleted prompts from SQLite's index, which otherwise keeps them until it merges."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("INSERT INTO prompt_search (prompt_search) VALUES ('optimize')")


@dataclass(frozen=True, slots=True)
class Term:
    """Words that follow each other; the last one may be a beginning."""

    words: tuple[str, ...]
    beginning: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What a prompt has to contain, and what it must not."""

    wanted: tuple[Term, ...] = ()
    unwanted: tuple[Term, ...] = ()


_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))(\*?)')
_WORD = re.compile(r"[^\W_]+")


def parse_search(text: str) -> Search:
    """The search that a text asks for: `hand "five fingers" -glove paint*`. Any text is one.

    A part without a letter or digit is ignored; a minus counts only before a word or phrase.
    """
    wanted: list[Term] = []
    unwanted: list[Term] = []
    for minus, phrase, word, star in _TERM.findall(text.replace("\x00", " ")):
        said = phrase or word
        words = tuple(_WORD.findall(said))
        if words:
            (unwanted if minus else wanted).append(Term(words, bool(star) or said.endswith("*")))
    return Search(tuple(wanted), tuple(unwanted))


def prompt_matches(text: str) -> ColumnElement[bool]:
    """The condition on `images` that the prompt matches; false for a text without any word."""
    search = parse_search(text)
    if search.wanted:
        return _Within(literal(to_fts5(search)), literal(to_tsquery(search)))
    if search.unwanted:
        excluded = Search(search.unwanted)
        return not_(_Contains(literal(to_fts5(excluded, "OR")), literal(to_tsquery(excluded, "|"))))
    return false()


def to_fts5(search: Search, between: str = "AND") -> str:
    """The search in FTS5's language; it has to want something."""
    wanted = f" {between} ".join(map(_fts5_term, search.wanted))
    return " NOT ".join([f"({wanted})", *map(_fts5_term, search.unwanted)])


def to_tsquery(search: Search, between: str = "&") -> str:
    """The search in the language of PostgreSQL's `to_tsquery`."""
    wanted = f" {between} ".join(map(_tsquery_term, search.wanted))
    return " & !".join([f"({wanted})", *map(_tsquery_term, search.unwanted)])


def _fts5_term(term: Term) -> str:
    return f'"{" ".join(term.words)}"' + " *" * term.beginning


def _tsquery_term(term: Term) -> str:
    return "(" + " <-> ".join(f"'{word}'" for word in term.words) + ":*" * term.beginning + ")"


class _Within(FunctionElement[Any]):
    """Whether an image is among those whose prompt the index finds."""

    type = NullType()  # a boolean would be written as "… = 1" on SQLite, which then uses no index
    inherit_cache = True


class _Contains(FunctionElement[Any]):
    """The same, asked of one image after the other: for words that most prompts may contain."""

    type = NullType()
    inherit_cache = True


@compiles(_Within, "sqlite")
def _within_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    fts5, _ = element.clauses
    return (
        "images.id IN (SELECT ids.image_id FROM prompt_search JOIN prompt_search_ids AS ids "
        f"ON ids.id = prompt_search.rowid WHERE prompt_search MATCH {compiler.process(fts5, **options)})"
    )


@compiles(_Contains, "sqlite")
def _contains_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    fts5, _ = element.clauses
    return (
        "EXISTS (SELECT 1 FROM prompt_search_ids AS ids CROSS JOIN prompt_search "
        "ON prompt_search.rowid = ids.id WHERE ids.image_id = images.id "
        f"AND prompt_search MATCH {compiler.process(fts5, **options)})"
    )


@compiles(_Within, "postgresql")
@compiles(_Contains, "postgresql")
def _postgres(element: Any, compiler: Any, **options: Any) -> str:
    _, tsquery = element.clauses
    return (
        "EXISTS (SELECT 1 FROM prompt_search WHERE prompt_search.image_id = images.id "
        f"AND prompt_search.words @@ to_tsquery('simple', {compiler.process(tsquery, **options)}))"
    )


def in_order_of_arrival(text: str) -> Select[Any] | None:
    """`key` and `image_id` of the prompts that match, from SQLite's index, which gives them in the order of
    `key` without sorting; None for a text that wants no word."""
    search = parse_search(text)
    if not search.wanted:
        return None
    source = sql_text("prompt_search CROSS JOIN prompt_search_ids AS found ON found.id = prompt_search.rowid")
    matches = sql_text("prompt_search MATCH :fts5").bindparams(fts5=to_fts5(search))
    columns: list[Any] = [ARRIVAL.label("key"), FOUND.label("image_id")]
    return select(*columns).select_from(source).where(matches)
