"""Small bodies stay small: every file of the table is used or refused in one sentence, within its bound."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bombs import FILES, SOUND, File
from tests.hostile_reader import READERS, Child, child

MEMORY = 200 * 2**20
"""Of a reading, besides what its process held."""
MEMORY_OF_LARGE = 900 * 2**20
"""The same for legal images of 64 million pixels."""
SMALL = [one for one in SOUND if not one.kind.endswith("8000²")]
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
    "a compressed tar",
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
    large = file.kind.endswith("8000²") or (file.kind == "image" and file.expected == "taken")
    assert found.memory < (MEMORY_OF_LARGE if large and file not in SMALL else MEMORY), found.memory / 2**20


def test_every_reader_has_a_sound_file_and_a_bomb() -> None:
    assert {one.kind for one in SOUND} == set(READERS)
    assert {one.kind for one in FILES if one.expected == "refused"} == set(READERS)
    assert len({one.name for one in FILES}) == len(FILES) and {one.name for one in FILES} >= SLOW_TO_MAKE


def test_a_reader_that_dies_or_takes_too_much_is_seen(reader: Child) -> None:
    died = reader.read("no such reader", b"")
    assert died.word == "broken" and "KeyError" in died.said


HOMES = {
    "zlib.decompress": "",
    "zlib.decompressobj": "dataengine/masks.py storage/maintenance/",
    "gzip.decompress": "",
    "gzip.open": "storage/maintenance/",
    "tarfile.open": "pipelines/exchange/readers/tar_bounds.py storage/maintenance/",
    "zipfile.ZipFile": "pipelines/exchange/safe_files.py pipelines/services/model_card.py "
    "pipelines/jobs/export_images.py pipelines/services/studies/sheets.py",
    "zstandard.ZstdDecompressor": "storage/stores/maps.py",
    "PilImage.open": "dataengine/images.py",
    "np.load": "",
    "pickle.load": "",
    "pickle.loads": "",
    "parquet.ParquetFile": "pipelines/exchange/readers/parquet_bounds.py",
    "ipc.open_stream": "pipelines/exchange/readers/",
    "csv.reader": "",
    "csv.DictReader": "pipelines/exchange/metadata.py pipelines/services/standalone/uploads.py "
    "pipelines/services/studies/sheets.py",
    "json.load": "",
}
"""Where outside bytes may be decoded: the modules, or folders, that keep the bounds."""
JSON_IN_EXCHANGE = ("safe_files.py", "metadata.py", "prompts.py", "prompt_sets.py", "pull.py")
ROOT = Path(__file__).resolve().parents[1]


def called(path: Path) -> Iterator[tuple[str, int]]:
    """The last two names of each call, as in `zlib.decompress`, and its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            yield f"{name}.{node.func.attr}", node.lineno


def strays(path: Path, where: str) -> list[str]:
    """Calls of decoders outside of their home."""
    in_exchange = where.startswith("pipelines/exchange/") and path.name not in JSON_IN_EXCHANGE
    homes = HOMES | ({"json.loads": ""} if in_exchange else {})
    return [
        f"{where}:{line} calls {name}"
        for name, line in called(path)
        if name in homes and not any(where.startswith(home) for home in homes[name].split())
    ]


def test_outside_bytes_are_decoded_where_the_bounds_are_kept() -> None:
    layers = ("dataengine", "storage", "pipelines", "ui")
    modules = [path for layer in layers for path in (ROOT / layer).rglob("*.py")]
    bad = [stray for path in modules for stray in strays(path, path.relative_to(ROOT).as_posix())]
    assert not bad, "\n".join(bad)


def test_a_decoder_elsewhere_would_be_seen(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text("import zlib, json\nzlib.decompress(b'')\njson.loads('')\n")
    assert strays(probe, "ui/probe.py") == ["ui/probe.py:2 calls zlib.decompress"]
    assert len(strays(probe, "pipelines/exchange/probe.py")) == 2
