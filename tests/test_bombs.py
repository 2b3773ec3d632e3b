"""Small bodies stay small: every file of the table is used or refused in one sentence, within its bound."""

from collections.abc import Iterator

import pytest

from tests.bombs import FILES, SOUND, File
from tests.hostile_reader import READERS, Child, child

MEMORY = 200 * 2**20
"""Of a reading, besides what its process held; legal images of 64 million pixels are the exception."""
SLOW_TO_MAKE = {
    "8000² with transparency",
    "8000² of 16 bits",
    "8000² of alternating runs",
    "a table of 600,000 rows",
    "labels of 600,000 rows",
    "100 MB in a dictionary, 1000 rows",
    "100 MB of text beside the image",
    "200 MB in one page",
    "200 MB in one page, snappy",
    "300 MB of zeros",
    "an archive of lies",
    "an archive packed by LZMA",
    "510,000 members",
    "a header of a million tensors",
    "a mask of 8000² with colours",
    "ten million runs as a code",
    "compressed batches",
    "20,000 columns",
}
"""Left to `make bench-hold PART=files`: they take more than a second."""
QUICK = [one for one in FILES if one.name not in SLOW_TO_MAKE]


@pytest.fixture(scope="module")
def reader() -> Iterator[Child]:
    with child() as made:
        yield made


@pytest.mark.parametrize("file", QUICK, ids=lambda file: f"{file.kind}: {file.name}")
def test_a_file_is_used_or_refused_within_its_bound(reader: Child, file: File) -> None:
    found = reader.read(file.kind, file.make())
    assert found.word in (("taken", "refused") if file.expected == "either" else (file.expected,)), found.said
    legal_and_large = file.kind == "image" and file.expected == "taken" and file not in SOUND
    assert legal_and_large or found.memory < MEMORY, f"{found.memory / 2**20:.0f} MB"


def test_every_reader_has_a_sound_file_and_a_bomb() -> None:
    assert {one.kind for one in SOUND} == set(READERS)
    assert {one.kind for one in FILES if one.expected == "refused"} == set(READERS)
    assert len({one.name for one in FILES}) == len(FILES) and {one.name for one in FILES} >= SLOW_TO_MAKE


def test_a_reader_that_dies_or_takes_too_much_is_seen(reader: Child) -> None:
    died = reader.read("no such reader", b"")
    assert died.word == "broken" and "KeyError" in died.said
