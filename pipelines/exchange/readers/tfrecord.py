"""Read TFRecord files of `tf.train.Example` without TensorFlow and within size limits.

A record is a little-endian length, its masked CRC-32C, the data, and its CRC. The length's checksum is
verified, so that a damaged length is never trusted. Only the part of protocol buffers that an Example needs
is
implemented.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dataengine.bounds import RECORD_BYTES, RECORD_VALUES
from dataengine.errors import InputRefused

POLYNOMIAL = 0x82F63B78

Value = bytes | int | float
Example = dict[str, list[Value]]


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file. Raises `InputRefused` for a record that is damaged or exceeds `RECORD_BYTES`."""
    with path.open("rb") as file:
        size, number = os.fstat(file.fileno()).st_size, 0
        while (at := file.tell()) < size:
            yield _record(file, size - at, f"{path.name}, record {number}")
            number += 1


def _record(file: BinaryIO, left: int, where: str) -> bytes:
    head = file.read(12)
    if len(head) < 12:
        raise InputRefused(f"{where}: the file is truncated")
    length, checksum = struct.unpack("<QI", head)
    if masked_crc32c(head[:8]) != checksum:
        raise InputRefused(f"{where}: not a TFRecord, or damaged (wrong checksum of its length)")
    if length > min(RECORD_BYTES, left - 16):
        raise InputRefused(
            f"{where}: declares {length} bytes; {left - 16} are left, the limit is {RECORD_BYTES}"
        )
    data = file.read(length)
    file.seek(4, os.SEEK_CUR)
    return data


def masked_crc32c(data: bytes) -> int:
    """TensorFlow's masked CRC-32C (Castagnoli) of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(data: bytes) -> Example:
    """The features of a serialised `tf.train.Example` by name. Raises `InputRefused` for anything else."""
    found: Example = {}
    for _, features in _fields(data, {1: 2}):
        for _, entry in _fields(_bytes(features), {1: 2}):
            parts = dict(_fields(_bytes(entry), {1: 2, 2: 2}))
            name = _bytes(parts.get(1, b"")).decode("utf-8", "replace")
            if name in found:
                raise InputRefused(f"the feature {name!r} comes twice")
            found[name] = _values(_bytes(parts.get(2, b"")))
    return found


def _values(feature: bytes) -> list[Value]:
    """A BytesList, FloatList or Int64List."""
    values: list[Value] = []
    for kind, body in _fields(feature, {1: 2, 2: 2, 3: 2}):
        for _, value in _fields(_bytes(body), {1: None}):
            if kind == 2 and isinstance(value, bytes):
                if len(value) % 4:
                    raise InputRefused("a list of floats is truncated")
                _check_count(len(values) + len(value) // 4)
                values += struct.unpack(f"<{len(value) // 4}f", value)
            elif kind == 3 and isinstance(value, bytes):
                at = 0
                while at < len(value):
                    number, at = _varint(value, at)
                    values.append(number)
                    _check_count(len(values))
            else:
                values.append(value)
    return values


def _fields(data: bytes, wanted: dict[int, int | None]) -> Iterator[tuple[int, bytes | int]]:
    """The wanted fields, by number, with the required wire type (None: any)."""
    at = count = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        count += 1
        value: bytes | int
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            if length > len(data) - at:
                raise InputRefused("the record is not an Example: a field is longer than the record")
            value, at = data[at : at + length], at + length
        else:
            raise InputRefused(f"the record is not an Example: wire type {wire}")
        _check_count(count)
        if number in wanted:
            if wanted[number] not in (None, wire):
                raise InputRefused(f"the record is not an Example: field {number} has wire type {wire}")
            yield number, value


def _check_count(count: int) -> None:
    if count > RECORD_VALUES:
        raise InputRefused(f"the record has more than {RECORD_VALUES} values")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise InputRefused("the record is not an Example: a number does not end")


def _bytes(value: bytes | int) -> bytes:
    if not isinstance(value, bytes):
        raise InputRefused("the record is not an Example: bytes were expected")
    return value
