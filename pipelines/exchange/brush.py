"""Label Studio's brush masks: its bit-packed run-length code, vectorised, bounded on bytes that lie.

The code (thi.ng's rle-pack, MSB first): 32-bit count of values (4·height·width, RGBA), 5-bit word size − 1,
four 4-bit sizes of length fields − 1, then records: 1 bit run or literal, 2-bit index of the length field's
size, length − 1, and one word (run) or `length` words (literal). What is written is what
`label_studio_sdk.converter.brush` writes, bit for bit, its spare zero byte included; what is read is anything
that format allows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import MaskRefused
from dataengine.masks import MAX_PIXELS, Mask

ALPHA_THRESHOLD = 128
"""The browser's brush is anti-aliased; from this alpha on a pixel counts as painted."""

CHANNELS = 4
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * 4
LONGEST = 1 << LENGTH_BITS[-1]
LITERAL_LIMIT_BITS = 1 + 2 + 16 + WORD_BITS
"""The most that any sane writer spends on one value: a record of its own with the longest length field."""
WINDOW = 1 << 18

Bytes = NDArray[np.uint8]


def encode_mask(mask: NDArray[Any]) -> bytes:
    """The code of `mask > 0` (`HW`, any dtype) as an opaque RGBA picture of 0 and 255."""
    plain = mask if mask.dtype == np.uint8 else np.asarray(mask, dtype=bool)
    flat = np.ascontiguousarray(plain).ravel().view(np.uint8)
    if flat.size == 0:
        raise MaskRefused("an empty mask has no brush code; a mask needs at least one pixel")
    ends = np.append(_changes(flat), flat.size)
    values = (flat[ends - 1] > 0).astype(np.uint8) * np.uint8(255)
    return _encode_runs(np.diff(ends, prepend=0) * CHANNELS, values)


def _changes(flat: Bytes) -> NDArray[np.int64]:
    """Where `flat > 0` differs from the one before. Looked for eight at a time: most eights are all alike."""
    differs = np.empty(-(-flat.size // 8) * 8, dtype=bool)
    differs[flat.size - 1 :] = False
    np.not_equal(flat[1:], flat[:-1], out=differs[: flat.size - 1])
    at = (np.flatnonzero(differs.view(np.uint64))[:, None] * 8 + np.arange(1, 9)).ravel()
    at = at[differs[at - 1]]
    return at[(flat[at] > 0) != (flat[at - 1] > 0)]


def encode_values(values: Bytes) -> bytes:
    """The code of flat uint8 values, as the SDK's `encode_rle`."""
    ends, kept = _runs(values)
    return _encode_runs(np.diff(ends, prepend=0), kept)


def _runs(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where each run of equal values ends, and its value."""
    if values.size == 0:
        raise MaskRefused("an empty mask has no brush code; a mask needs at least one pixel")
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, values.size)
    return ends, values[ends - 1]


def _encode_runs(lengths: NDArray[np.int64], values: Bytes) -> bytes:
    lengths, values = _split_long(lengths, values)
    count = int(lengths.sum())
    if count >= 1 << 32:
        raise MaskRefused(f"{count} values; the brush code counts up to 2^32 - 1")
    sizes = np.searchsorted([1 << bits for bits in LENGTH_BITS], lengths)
    bits = np.array(LENGTH_BITS)[sizes]
    run = (lengths > 1).astype(np.int64)
    codes = (((run << 2 | sizes) << bits) | (lengths - 1)) << WORD_BITS | values
    widths = 3 + bits + WORD_BITS
    starts = HEADER_BITS + np.cumsum(widths) - widths
    end = int(starts[-1] + widths[-1])
    out = np.zeros(end // 8 + 1 + 8, dtype=np.uint8)
    out[:7] = np.frombuffer(_header(count), dtype=np.uint8)
    aligned = (codes << (40 - widths - starts % 8)).astype(np.uint64)
    first = starts // 8
    for byte in range(5):
        # A record has 14 bits or more, so no two records start in one byte and this adds each index once.
        out[first + byte] |= (aligned >> np.uint64(32 - 8 * byte)).astype(np.uint8)
    return out[: end // 8 + 1].tobytes()


def _split_long(lengths: NDArray[np.int64], values: Bytes) -> tuple[NDArray[np.int64], Bytes]:
    parts = (lengths - 1) // LONGEST + 1
    if (parts == 1).all():
        return lengths, values
    split = np.full(int(parts.sum()), LONGEST, dtype=np.int64)
    split[np.cumsum(parts) - 1] = lengths - (parts - 1) * LONGEST
    return split, np.repeat(values, parts)


def _header(count: int) -> bytes:
    head = count << 5 | WORD_BITS - 1
    for bits in LENGTH_BITS:
        head = head << 4 | bits - 1
    return (head << 56 - HEADER_BITS).to_bytes(7, "big")


# ---- reading -----------------------------------------------------------------------------------------


def decode_mask(code: bytes | Sequence[int], height: int, width: int) -> Mask:
    """Bool `HW`: where alpha is at least `ALPHA_THRESHOLD`. Raises `MaskRefused` as `decode_alpha`."""
    return decode_alpha(code, height, width) >= ALPHA_THRESHOLD


def decode_alpha(code: bytes | Sequence[int], height: int, width: int) -> Bytes:
    """Uint8 `HW` alpha of a brush code (bytes, or the list of bytes that Label Studio's JSON holds).

    Nothing of the code is trusted: it must say exactly 4·height·width values and hold them all; raises
    `MaskRefused` otherwise, before memory beyond a few times the code and the mask is taken.
    """
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise MaskRefused(f"a brush mask of {height}×{width} is outside 1…{MAX_PIXELS} pixels")
    ends, values, literal = _decode_records(code, CHANNELS * height * width)
    if literal is not None:
        return literal.reshape(height, width, CHANNELS)[..., CHANNELS - 1].copy()
    # Alpha is every fourth value: of the values before position `end`, `end // 4` are alphas.
    alpha = np.zeros(height * width, dtype=np.uint8)
    stops = ends // CHANNELS
    starts = np.append(0, stops[:-1])
    shown = np.flatnonzero((values > 0) & (stops > starts))
    for start, stop, value in zip(
        starts[shown].tolist(), stops[shown].tolist(), values[shown].tolist(), strict=True
    ):
        alpha[start:stop] = value
    return alpha.reshape(height, width)


def decode_values(code: bytes | Sequence[int], count: int) -> Bytes:
    """All `count` uint8 values, as the SDK's `decode_rle`. Raises `MaskRefused` as `decode_alpha`."""
    if not 0 < count <= CHANNELS * MAX_PIXELS:
        raise MaskRefused(f"{count} values are outside 1…{CHANNELS * MAX_PIXELS}")
    ends, values, literal = _decode_records(code, count)
    return np.repeat(values, np.diff(ends, prepend=0)) if literal is None else literal


def _decode_records(code: bytes | Sequence[int], count: int) -> tuple[NDArray[np.int64], Bytes, Bytes | None]:
    """Where each record ends, its first value, and all values where some record is a longer literal."""
    data = _checked_bytes(code, count)
    word, lengths_bits = _read_header(data, count)
    padded = np.frombuffer(data + bytes(16), dtype=np.uint8)
    at = _walk(data, padded, word, lengths_bits)
    kinds = _bits(padded, at, 3)
    bits = np.array(lengths_bits)[kinds & 3]
    lengths = _bits(padded, at + 3, bits) + 1
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, count))
    if last == len(ends):
        raise MaskRefused(f"the brush code ends after {int(ends[-1]) if len(ends) else 0} of {count} values")
    at, kinds, bits, lengths, ends = (each[: last + 1] for each in (at, kinds, bits, lengths, ends))
    literal = kinds < 4
    words = np.where(literal, lengths, 1)
    if int(at[-1] + 3 + bits[-1] + word * words[-1]) > 8 * len(data):
        raise MaskRefused(f"the brush code ends within its last record, before {count} values")
    ends[-1] = min(int(ends[-1]), count)
    values = _bits(padded, at + 3 + bits, word).astype(np.uint8)
    if not (literal & (lengths > 1)).any():
        return ends, values, None
    total = int(words.sum())
    within = np.arange(total) - np.repeat(np.cumsum(words) - words, words)
    each = _bits(padded, np.repeat(at + 3 + bits, words) + word * within, word).astype(np.uint8)
    return ends, values, np.repeat(each, np.repeat(np.where(literal, 1, lengths), words))[:count]


def _checked_bytes(code: bytes | Sequence[int], count: int) -> bytes:
    if len(code) > 64 + LITERAL_LIMIT_BITS * count // 8:
        raise MaskRefused(f"a brush code of {len(code)} bytes is longer than {count} values can need")
    try:
        data = code if isinstance(code, bytes) else bytes(code)
    except (TypeError, ValueError):
        raise MaskRefused("a brush code is a list of whole numbers from 0 to 255") from None
    if len(data) < HEADER_BITS // 8 + 1:
        raise MaskRefused("the brush code ends within its header")
    return data


def _read_header(data: bytes, count: int) -> tuple[int, tuple[int, ...]]:
    head = int.from_bytes(data[:7], "big") >> 56 - HEADER_BITS
    said, word = head >> 21, (head >> 16 & 31) + 1
    if said != count:
        raise MaskRefused(f"the brush code says {said} values, its mask has {count}")
    if word > WORD_BITS:
        raise MaskRefused(f"the brush code has words of {word} bits; masks have at most {WORD_BITS}")
    return word, tuple((head >> shift & 15) + 1 for shift in (12, 8, 4, 0))


def _walk(data: bytes, padded: Bytes, word: int, length_bits: tuple[int, ...]) -> NDArray[np.int64]:
    """The bit at which each record starts, up to the end of the data.

    A record's width follows from its first three bits, literals aside, so the widths of records at every bit
    of a window are looked up at once and only the steps from record to record remain.
    """
    table = np.array([0] * 4 + [3 + bits + word for bits in length_bits], dtype=np.uint8)
    limit, at = 8 * len(data), HEADER_BITS
    found: list[NDArray[np.int64]] = []
    while at < limit:
        window = at // 8
        stop = min(limit, 8 * (window + WINDOW))
        part = padded[window : window + WINDOW + 1].astype(np.uint16)
        pairs = part[:-1] << 8 | part[1:]
        kinds = np.empty((len(pairs), 8), dtype=np.uint8)
        for bit in range(8):
            kinds[:, bit] = table[pairs >> 13 - bit & 7]
        widths, base = kinds.tobytes(), 8 * window
        here: list[int] = []
        at, stop = at - base, stop - base
        append = here.append
        while at < stop:
            append(at)
            width = widths[at]
            at += width or _literal_width(data, base + at, word, length_bits)
        found.append(np.array(here, dtype=np.int64) + base)
        at += base
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _literal_width(data: bytes, at: int, word: int, length_bits: tuple[int, ...]) -> int:
    head = int.from_bytes(data[at >> 3 : (at >> 3) + 4].ljust(4, b"\0"), "big") << (at & 7) & 0xFFFFFFFF
    bits = length_bits[head >> 29 & 3]
    return 3 + bits + word * ((head >> 29 - bits & (1 << bits) - 1) + 1)


def _bits(padded: Bytes, at: NDArray[np.int64], count: Any) -> NDArray[np.int64]:
    """The `count` (up to 17) bits from each bit position on; zeros beyond the end."""
    byte = np.minimum(at >> 3, len(padded) - 4)
    word = padded[byte].astype(np.int64) << 16 | padded[byte + 1].astype(np.int64) << 8 | padded[byte + 2]
    return word >> (24 - count - (at & 7)) & (1 << count) - 1
