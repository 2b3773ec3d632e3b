"""Sound files of every kind that the product reads, and small files that would become large: one table.

Shared by `tests/test_bombs.py` and `tests/bench/hold_files.py`; everything is made from constants.
"""

import base64
import io
import json
import stat
import struct
import tarfile
import zipfile
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as Picture

from pipelines.exchange.label_studio.brush_rle import encode_mask
from pipelines.exchange.readers.tfrecord import masked_crc32c
from tests.bombs_of_pixels import (
    IMAGES,
    LABEL_MAPS,
    MEGABYTE,
    SIDE,
    File,
    even_png,
    patched,
    pixels,
    sound_png,
    written,
)

__all__ = ["BOMBS", "FILES", "SOUND", "File", "even_png", "sound_png"]

CLASS = "shape distortion"

# ---- JSON --------------------------------------------------------------------------------------------------


def coco(annotations: list[dict[str, Any]], height: int = SIDE, width: int = SIDE) -> bytes:
    about = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    whole = {
        "images": [about],
        "categories": [{"id": 1, "name": CLASS}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, **one} for n, one in enumerate(annotations)
        ],
    }
    return json.dumps(whole).encode()


def polygon(points: list[float]) -> bytes:
    return coco([{"segmentation": [points]}])


def brush(code: list[int], height: int = SIDE, width: int = SIDE) -> bytes:
    value = {"format": "rle", "rle": code, "brushlabels": [CLASS]}
    region = {"type": "brushlabels", "original_height": height, "original_width": width, "value": value}
    task = {"id": 1, "data": {"file_name": "a.png"}, "annotations": [{"id": 1, "result": [region]}]}
    return json.dumps([task]).encode()


def sound_code() -> list[int]:
    return list(encode_mask(pixels()[..., 0] > 90))


def hadm(boxes: list[Any]) -> bytes:
    boxed = [{"bbox": box, "body_parts": ["hand"]} for box in boxes]
    return json.dumps({"image": {"file_name": "a.png"}, "annotation": boxed}).encode()


def dense(before: bytes, item: bytes, count: int, after: bytes) -> bytes:
    return before + item * count + after


JSONS = [
    File("a COCO file", "coco", "taken",
         lambda: coco([{"segmentation": [[5, 5, 40, 5, 40, 40]]}, {"bbox": [1, 2, 9, 9]},
                       {"segmentation": {"size": [SIDE, SIDE], "counts": [100, 50, SIDE * SIDE - 150]}}])),
    File("an export of Label Studio", "label studio", "taken", lambda: brush(sound_code())),
    File("a file of HADM", "hadm", "taken", lambda: hadm([[5, 5, 20, 20]])),
    File("a sidecar", "sidecar", "taken", lambda: json.dumps({"prompt": "a hand", "seed": 1}).encode()),
    File("10 million empty lists", "coco", "refused", partial(dense, b'{"images":[', b"[],", 10**7, b"[]]}")),
    File("5 million objects", "coco", "refused",
         partial(dense, b'{"images":[', b'{"":0},', 5 * 10**6, b"0]}")),
    File("a million brackets", "coco", "refused", lambda: b"[" * 10**6),
    File("nested objects", "sidecar", "refused", lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    File("a number of a million digits", "coco", "refused", lambda: b'{"images": [' + b"9" * 10**6 + b"]}"),
    File("a file that is not text", "coco", "refused", lambda: bytes(range(256))),
    File("a polygon beyond all bounds", "coco", "either", partial(polygon, [-1e300, 0, 1e300, 5, 3, 1e300])),
    File("a polygon of 200,000 corners", "coco", "refused", lambda: polygon([1.5, 2.5] * 200_000)),
    File("infinite corners", "coco", "refused",
         lambda: polygon([1, 2, 3, 4, 5, 6]).replace(b"[1, 2, 3", b"[1e999, NaN, 3")),
    File("a box beyond all bounds", "coco", "either", lambda: coco([{"bbox": [-1e30, -1e30, 1e300, 1e300]}])),
    File("a code for another size", "coco", "refused",
         lambda: coco([{"segmentation": {"size": [8000, 8000], "counts": [64_000_000]}}])),
    File("a size that lies", "coco", "refused", lambda: coco([{"bbox": [1, 2, 3, 4]}], 10**9, 10**9)),
    File("20,000 annotations of one image", "coco", "taken",
         lambda: coco([{"bbox": [0, 0, SIDE, SIDE]}] * 20_000)),
    File("a COCO file of a large image", "coco of 8000²", "taken",
         lambda: coco([{"bbox": [1, 2, 9, 9]}], 8000, 8000)),
    File("400 boxes of 8000²", "coco of 8000²", "refused",
         lambda: coco([{"bbox": [0, 0, 8000, 8000]}] * 400, 8000, 8000)),
    File("twenty authors of 8000²", "coco of 8000²", "taken",
         lambda: coco([{"bbox": [0, 0, 9, 9], "author": f"a{n}"} for n in range(20)], 8000, 8000)),
    File("a brush code that claims 4 billion values", "label studio", "refused",
         lambda: brush([255, 255, 255, 255, *sound_code()[4:]])),
    File("a brush code of 6 MB", "label studio", "refused",
         lambda: brush([*sound_code(), *[0] * 6_000_000], 4096, 4096)),
    File("a brush code of another size", "label studio", "refused", lambda: brush(sound_code(), 8000, 8000)),
    File("a brush code of texts", "label studio", "refused",
         lambda: brush(sound_code()).replace(b'"rle": [', b'"rle": ["a", ')),
    File("boxes of HADM beyond all bounds", "hadm", "either",
         lambda: hadm([[-1e300, 1e300, 5, 1e300]] * 100)),
    File("a HADM file of 2 MB", "hadm", "refused", lambda: hadm([[1, 2, 3, 4]] * 60_000)),
    File("a sidecar of 2 MB", "sidecar", "refused",
         lambda: json.dumps({"prompt": "x" * 2 * MEGABYTE}).encode()),
    File("a sidecar of lists", "sidecar", "refused", partial(dense, b"[", b"[],", 300_000, b"[]]")),
]  # fmt: skip

# ---- tables ------------------------------------------------------------------------------------------------


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    body = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), body, **options)
    return body.getvalue()


def rows_of_images(count: int = 3) -> dict[str, Any]:
    return {"image": [{"bytes": sound_png(), "path": None}] * count, "prompt": ["a hand"] * count}


def repeated(size: int, rows: int) -> dict[str, Any]:
    """One large value, by its number in a dictionary, in every row."""
    import pyarrow

    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), [bytes(size)])
    return {"image": values}


def arrow(columns: dict[str, Any], compression: str | None = None) -> bytes:
    import pyarrow

    body, held = io.BytesIO(), pyarrow.table(columns)
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_stream(body, held.schema, options=options) as stream:
        stream.write_table(held)
    return body.getvalue()


def nulls(rows: int, plain: bool = True) -> dict[str, Any]:
    """Rows of nothing, as bytes or without a type, which takes no byte at all."""
    import pyarrow

    return {"image": pyarrow.nulls(rows, pyarrow.binary() if plain else None)}


def lists(rows: int, each: int) -> dict[str, Any]:
    import pyarrow

    offsets = np.arange(rows + 1, dtype=np.int32) * each
    return {"image": pyarrow.ListArray.from_arrays(offsets, pyarrow.nulls(rows * each))}


def lying_page() -> bytes:
    """A Parquet file whose first page claims 2 GB: the size in its header, a varint, is replaced."""
    data = parquet({"image": [bytes(200) + bytes(range(256))] * 3}, use_dictionary=False, compression="zstd")
    # Field 2 of the header follows type and its delta: 0x15 type 0x15 size; five bytes need a longer header,
    # which takes the place of the page's first bytes.
    return patched(data, 4 + 3, b"\xfe\xff\xff\xff\x0f")


def cut_out(data: bytes, start: int, end: int) -> bytes:
    return data[:start] + data[end:]


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return body.getvalue()


def sparse_tar() -> bytes:
    """A tar with one image of 2⁴⁰ bytes, of which one is there."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.PAX_FORMAT) as archive:
        about = tarfile.TarInfo("a.png")
        about.size = 1
        about.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}
        archive.addfile(about, io.BytesIO(b"x"))
    return body.getvalue()


def record(example: bytes, claimed: int | None = None) -> bytes:
    head = struct.pack("<Q", len(example) if claimed is None else claimed)
    return head + struct.pack("<I", masked_crc32c(head)) + example + bytes(4)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, bytes]) -> bytes:
    entries = [field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()]
    return field(1, b"".join(entries))


def texts(*values: bytes) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def heat(values: np.ndarray) -> bytes:
    body = io.BytesIO()
    Picture.fromarray(values).save(body, "PNG")
    return example({"filename": texts(b"a.png"), "artifact_map": texts(body.getvalue())})


def sound_heat() -> np.ndarray:
    values = np.zeros((512, 512), np.uint8)
    values[100:150, 100:150] = 255
    return values


def dots() -> np.ndarray:
    values = np.zeros((2000, 2000), np.uint8)
    values[::2, ::2] = 255
    return values


def with_feature(value: bytes) -> bytes:
    return record(example({"filename": texts(b"a.png"), "scores": value}))


TABLES = [
    File("a Parquet file", "parquet", "taken", lambda: parquet(rows_of_images())),
    File("a compressed Parquet file", "parquet", "taken",
         lambda: parquet(rows_of_images(40), compression="zstd", row_group_size=7)),
    File("a Parquet file of plain bytes", "parquet", "taken",
         lambda: parquet({"image": [sound_png()] * 40}, data_page_version="2.0")),
    File("an Arrow stream", "arrow", "taken", lambda: arrow(rows_of_images())),
    File("a tar of WebDataset", "tar", "taken", lambda: tarred({"a.png": sound_png(), "a.txt": b"a hand"})),
    File("a TFRecord", "tfrecord", "taken", lambda: record(heat(sound_heat()))),
    File("a table", "table", "taken", lambda: b"file_name,prompt,seed\na.png,a hand,1\n"),
    File("a table of labels", "labels table", "taken", lambda: b"image,author,clean\na.png,ann,1\n"),
    File("100 MB in a dictionary, 1000 rows", "parquet", "refused",
         lambda: parquet(repeated(100_000_000, 1000), compression="zstd")),
    File("10 MB in a dictionary, 5000 rows", "parquet", "refused",
         lambda: parquet(repeated(10_000_000, 5000), compression="zstd")),
    File("200 MB in one page", "parquet", "refused",
         lambda: parquet({"image": [bytes(200_000_000)]}, compression="zstd", use_dictionary=False)),
    File("200 MB in one page, snappy", "parquet", "refused",
         lambda: parquet({"image": [bytes(200_000_000)]}, use_dictionary=False)),
    File("100 MB of text beside the image", "parquet", "refused",
         lambda: parquet({"image": [sound_png()] * 8, "prompt": ["x" * 10**8] * 8}, compression="zstd")),
    File("5 million rows of nothing", "parquet", "refused", lambda: parquet(nulls(5 * 10**6))),
    File("20,000 rows of nothing in a large file", "parquet", "refused",
         lambda: parquet({"image": [None] * 20_000, "more": [bytes([n % 256]) * 9 for n in range(20_000)]})),
    File("lists of a million", "parquet", "refused", lambda: parquet(lists(20, 10**6))),
    File("a page that claims 2 GB", "parquet", "refused", lying_page),
    File("a page whose size is a text", "parquet", "refused",
         lambda: patched(parquet(rows_of_images(), use_dictionary=False), 6, b"\x18")),
    File("a page that ends early", "parquet", "refused",
         lambda: cut_out(parquet({"image": [sound_png()] * 40}, data_page_version="2.0"), 4, 40)),
    File("20,000 columns", "parquet", "refused",
         lambda: parquet({f"c{n}": [1] for n in range(20_000)})),
    File("compressed batches", "arrow", "refused", lambda: arrow({"image": [bytes(300_000_000)]}, "zstd")),
    File("lists of nothing", "arrow", "refused", lambda: arrow(lists(2, 10**9))),
    File("a billion rows of nothing", "arrow", "refused",
         lambda: arrow(nulls(10**9, plain=False))),
    File("a compressed tar", "tar", "refused", lambda: tarred({"a.png": bytes(300_000_000)}, "w:gz")),
    File("a sparse tar", "tar", "refused", sparse_tar),
    File("a tar of a pickle", "tar", "refused", lambda: tarred({"a.png": sound_png(), "a.pth": b"\x80N."})),
    File("a tar of a long JSON", "tar", "refused", lambda: tarred({"a.json": b"[" * 2 * MEGABYTE})),
    File("a record that claims 2⁶³ bytes", "tfrecord", "refused", lambda: record(b"", 2**63)),
    File("a record of 8 million numbers", "tfrecord", "refused",
         lambda: with_feature(field(2, field(1, bytes(32_000_000 - 200))))),
    File("a record of 30 million varints", "tfrecord", "refused",
         lambda: with_feature(field(3, field(1, bytes(30_000_000))))),
    File("a record of a million texts", "tfrecord", "refused",
         lambda: with_feature(field(1, field(1, b"") * 10**6))),
    File("a heat map of a million dots", "tfrecord", "refused", lambda: record(heat(dots()))),
    File("a heat map of 8000²", "tfrecord", "refused", lambda: record(example(
        {"filename": texts(b"a.png"), "artifact_map": texts(even_png(8000, 1, 0))}))),
    File("a table with a field of 5 MB", "table", "refused",
         lambda: b'file_name,prompt\na.png,"' + b"x" * 5 * MEGABYTE + b'"\n'),
    File("a table with a line of 50 MB", "table", "refused",
         lambda: b"file_name,prompt\na.png," + b"," * 50 * MEGABYTE),
    File("a table of 600,000 rows", "table", "refused", lambda: b"file_name\n" + b"a\n" * 600_000),
    File("a table with NUL", "table", "refused", lambda: b"file_name,prompt\na.png,\0\n"),
    File("labels of 600,000 rows", "labels table", "refused",
         lambda: b"image,clean\n" + b"a,1\n" * 600_000),
    File("labels outside of the folder", "labels table", "refused",
         lambda: b"image,author,mask\na.png,ann,../../a.png\n"),
]  # fmt: skip

# ---- archives and models -----------------------------------------------------------------------------------


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return body.getvalue()


def link() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        about = zipfile.ZipInfo("a.png")
        about.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(about, "/etc/passwd")
    return body.getvalue()


def zip_of_lies() -> bytes:
    """An archive whose directory claims a size of 1000 for a member of 300 MB."""
    data = zipped({"a.bin": bytes(300 * MEGABYTE)})
    return data.replace(struct.pack("<I", 300 * MEGABYTE), struct.pack("<I", 1000))


def tensors(header: object, body: bytes = b"", claimed: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if claimed is None else claimed) + head + body


def tensor(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}


def index(**more: Any) -> bytes:
    return json.dumps({"_class_name": "FluxPipeline", **more}).encode()


ARCHIVES = [
    File("an archive", "archive", "taken",
         lambda: zipped({"a.png": sound_png(), "b.png": written("PNG", "L")})),
    File("a folder in an archive", "archive", "taken", lambda: zipped({"set/a.png": sound_png()})),
    File("tensors", "tensors", "taken", lambda: tensors(tensor([2, 3], 0, 24), bytes(24))),
    File("an index of a pipeline", "pipeline index", "taken", index),
    File("300 MB of zeros", "archive", "refused", lambda: zipped({"a.png": bytes(300 * MEGABYTE)})),
    File("an archive of lies", "archive", "refused", zip_of_lies),
    File("an archive in an archive", "archive", "refused",
         lambda: zipped({"a.zip": zipped({"b.zip": zipped({"c": bytes(200 * MEGABYTE)})})})),
    File("510,000 members", "archive", "refused", lambda: many_members(510_000)),
    File("the same member twice", "archive", "refused",
         lambda: zipped({"a.png": b"1", "b.png": b"2"}).replace(b"b.png", b"a.png")),
    File("a member outside of the folder", "archive", "refused", lambda: zipped({"../a.png": sound_png()})),
    File("an absolute member", "archive", "refused", lambda: zipped({"/tmp/a.png": sound_png()})),
    File("a link", "archive", "refused", link),
    File("an archive packed by LZMA", "archive", "refused",
         lambda: zipped({"a.png": bytes(300 * MEGABYTE)}, zipfile.ZIP_LZMA)),
    File("a member name of 60 kB", "archive", "refused", lambda: zipped({"a" * 60_000 + ".png": b""})),
    File("an archive without a directory", "archive", "refused",
         lambda: zipped({"a.png": sound_png()})[:-22]),
    File("a header of 2⁶³ bytes", "tensors", "refused", lambda: tensors(b"{}", claimed=2**63)),
    File("a header of 90 MB", "tensors", "refused", lambda: tensors(b"{" + b" " * 90_000_000 + b"}")),
    File("a header of a million tensors", "tensors", "refused", lambda: tensors(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(400_000)})),
    File("a shape of 2⁶⁰", "tensors", "refused", lambda: tensors(tensor([2**30, 2**30], 0, 4), bytes(4))),
    File("a shape that overflows", "tensors", "refused", lambda: tensors(tensor([2**32, 2**32], 0, 0))),
    File("offsets beyond the file", "tensors", "refused", lambda: tensors(tensor([2], 0, 8), bytes(4))),
    File("offsets that overlap", "tensors", "refused", lambda: tensors(
        {**tensor([2], 0, 8), "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12))),
    File("a nested header", "tensors", "refused", lambda: tensors(b'{"a":' * 100_000)),
    File("a nested index", "pipeline index", "refused", lambda: b"[" * 200_000 + b"]" * 200_000),
    File("an index of 20 MB", "pipeline index", "refused", lambda: index(more="x" * 20 * MEGABYTE)),
    File("an index of 15 MB of lists", "pipeline index", "refused",
         partial(dense, b"[", b"[],", 5 * 10**6, b"0]")),
    File("an index that is a list", "pipeline index", "refused", lambda: b"[1]"),
]  # fmt: skip


def many_members(count: int) -> bytes:
    """An archive of empty members that all lie in the same place."""
    local = b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entries = b"".join(
        b"PK\1\2"
        + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
        + name
        for name in (base64.b32encode(struct.pack(">I", number))[:7] for number in range(count))
    )
    end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(entries), len(local))
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(local) + len(entries), 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return local + entries + end64 + locator + end


FILES = [*IMAGES, *LABEL_MAPS, *JSONS, *TABLES, *ARCHIVES]
SOUND = [one for one in FILES if one.expected == "taken" and one.name.startswith(("a ", "an ", "tensors"))]
"""Small sound files, one or more for each reader."""
BOMBS = [one for one in FILES if one not in SOUND]
