"""What reading a Parquet file or an Arrow stream may take, checked from its headers before a page is read.

pyarrow allocates what a page's header declares, and a dictionary or a run lets kilobytes stand for gigabytes;
so the headers of all wanted pages are read first. They are Thrift's compact protocol; those of an Arrow
stream are FlatBuffers.
"""

import mmap
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dataengine.bounds import ALWAYS, allowance, check_bytes
from dataengine.errors import InputRefused

ROWS_ALWAYS = 10_000
MOST_ROWS_AT_ONCE = 32
CONTAINER_LIMIT = 100_000
"""Entries of one list in a file's footer."""
SIZE, PACKED, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2, VALUES = 2, 3, 5, 7, 8, 1
"""Field numbers of a page's header, and of the number of values in the header of each kind of page."""
POINTER_BYTES = 16
NESTED = 8
INSTEAD = "write it again with smaller row groups"


def open_parquet(file: Path) -> Any:
    """An open `pyarrow.parquet.ParquetFile`, whose footer is bounded. Raises `pyarrow.ArrowException`."""
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(file, memory_map=True, thrift_container_size_limit=CONTAINER_LIMIT)


def check_arrow(file: Path, wanted: Collection[str]) -> None:
    """Raise `InputRefused` unless every batch of an Arrow stream holds what it claims, in plain columns."""
    import pyarrow

    with pyarrow.memory_map(str(file)) as source:
        check_stream(source, file.name)
        source.seek(0)
        for batch in pyarrow.ipc.open_stream(source):
            check_types(batch.schema, wanted, file.name)
            check_rows(batch.num_rows, source.size(), file.name)
            batch.select(sorted(wanted)).validate(full=True)


def check_rows(rows: int, size: int, what: str) -> None:
    """Raise `InputRefused` for more rows than a file of `size` bytes can honestly hold."""
    if rows > max(ROWS_ALWAYS, size):
        raise InputRefused(f"{what} declares {rows} rows in {size} bytes; it is damaged, write it again")


def check_types(schema: Any, wanted: Collection[str], what: str) -> None:
    """Raise `InputRefused` unless the wanted columns hold plain values, or structs of them."""
    for name in wanted:
        kind = schema.field(name).type
        if not _is_plain(kind) and not (_is_struct(kind) and all(_is_plain(one.type) for one in kind)):
            raise InputRefused(f"{what}: the column {name} is {kind}; expected text, bytes or numbers")


def _is_struct(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind))


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_binary,
            types.is_large_binary,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_null,
        )
    )


def rows_at_once(file: Path, metadata: Any, wanted: Collection[str]) -> int:
    """How many rows of the wanted columns of a Parquet file fit into memory together.

    Raises `InputRefused` if the pages of a row group take far more than their size in the file, or lie.
    """
    size = file.stat().st_size
    check_rows(metadata.num_rows, size, file.name)
    most = 0
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(place) for place in range(group.num_columns)]
            chunks = [one for one in chunks if one.path_in_schema.partition(".")[0] in wanted]
            needed = sum(_chunk_bytes(data, chunk, group.num_rows, file.name) for chunk in chunks)
            packed = sum(chunk.total_compressed_size for chunk in chunks)
            check_bytes(needed, allowance(min(packed, size)), f"row group {number} of {file.name}", INSTEAD)
            most = max(most, needed)
    return max(1, min(MOST_ROWS_AT_ONCE, ALWAYS // max(1, most)))


def _chunk_bytes(data: mmap.mmap, chunk: Any, rows: int, what: str) -> int:
    """Bytes that one column of a row group takes: its dictionary, twice, and its largest page."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end, seen, dictionary, largest = at + chunk.total_compressed_size, 0, 0, 0
    while at < end and seen < chunk.num_values:
        try:
            header, at = _fields(data, at)
            size, packed = int(header[SIZE]), int(header[PACKED])
            kind = next(one for one in (DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2) if one in header)
            values = int(header[kind][VALUES])
            at += packed
        except (IndexError, KeyError, TypeError, StopIteration, ValueError):
            raise InputRefused(f"{what}: a page's header is damaged; write the file again") from None
        if min(size, packed, values) < 0 or values > (size if kind == DICTIONARY_PAGE else rows):
            raise InputRefused(f"{what}: a page declares {values} values; it is damaged, write it again")
        if kind == DICTIONARY_PAGE:
            dictionary += 2 * size + POINTER_BYTES * values
        else:
            largest, seen = max(largest, size + POINTER_BYTES * values), seen + values
    return dictionary + largest


def _fields(data: mmap.mmap, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The numbers and structs of a struct by field number, and where it ends."""
    found: dict[int, Any] = {}
    number = 0
    if not at >= 0 or depth > NESTED:
        raise ValueError
    while kind := (head := data[at]) & 15:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _number(data, at)
        found[number], at = _value(data, at, kind, depth)
    return found, at + 1


def _value(data: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind in (9, 10):
        head, at = data[at], at + 1
        count, at = _varint(data, at) if head >> 4 == 15 else (head >> 4, at)
        for _ in range(count):
            _, at = (None, at + 1) if head & 15 in (1, 2) else _value(data, at, head & 15, depth + 1)
        return None, at
    if kind == 12:
        return _fields(data, at, depth + 1)
    raise ValueError


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError


HEADER_TYPE, HEADER, COMPRESSION, OF_DICTIONARY = 1, 2, 3, 1
DICTIONARY_BATCH, RECORD_BATCH = 2, 3


def check_stream(source: Any, what: str) -> None:
    """Raise `InputRefused` if the batches of an Arrow stream are compressed, which hides their size."""
    import pyarrow

    for message in _messages(pyarrow.ipc.MessageReader.open_stream(source)):
        data = message.metadata.to_pybytes()
        try:
            root = _target(data, 0)
            kind = data[place] if (place := _field(data, root, HEADER_TYPE)) else 0
            if kind not in (DICTIONARY_BATCH, RECORD_BATCH):
                continue
            batch = _target(data, _field(data, root, HEADER))
            if kind == DICTIONARY_BATCH:
                batch = _target(data, _field(data, batch, OF_DICTIONARY))
            compressed = _field(data, batch, COMPRESSION)
        except (IndexError, struct.error):
            raise InputRefused(f"{what}: a message's header is damaged; write the file again") from None
        if compressed:
            raise InputRefused(f"{what} holds compressed batches; write it uncompressed, or as Parquet")


def _messages(reader: Any) -> Iterator[Any]:
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _target(data: bytes, at: int) -> int:
    """Where the offset at `at` points to."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table lies; 0 if it is absent."""
    about = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, about)[0]:
        return 0
    offset = struct.unpack_from("<H", data, about + 4 + 2 * number)[0]
    return table + offset if offset else 0
