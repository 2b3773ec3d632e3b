"""Label Studio's brush masks: its bit-packed run-length encoding, vectorised, with limits on untrusted bytes.

The code (thi.ng's rle-pack, MSB first): 32-bit count of values (4·height·width, RGBA), 5-bit word size − 1,
four 4-bit sizes of length fields − 1, then records: 1 bit run or literal, 2-bit index of the length field's
size, length − 1, and one word (run) or `length` words (literal). What is written is what
`label_studio_sdk.converter.brush` writes, bit for bit, its spare zero byte included; what is read is anything
that format allows.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.bounds import BRUSH_BYTES, MAX_PIXELS, check_bytes
from dataengine.errors import MaskRefused
from dataengine.masks import Mask

ALPHA_THRESHOLD = 128
"""The browser's brush is anti-aliased; pixels with at least this alpha count as painted."""

CHANNELS = 4
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * 4
LONGEST = 1 << LENGTH_BITS[-1]
LITERAL_LIMIT_BITS = 1 + 2 + 16 + WORD_BITS
"""Upper bound on bits per value: one record for each value, with the longest length field."""
WINDOW = 1 << 18

SINGLE = tuple(bytes([value]) for value in range(256))
EIGHT, EIGHT_ALIKE = np.dtype("<u8"), 0x0101010101010101

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


def encode_mask(mask: NDArray[Any]) -> bytes:
    """The code of `mask > 0` (`HW`, any dtype) as an opaque RGBA image of 0 and 255."""
    plain = mask if mask.dtype == np.uint8 else np.asarray(mask, dtype=bool)
    flat = np.ascontiguousarray(plain).ravel().view(np.uint8)
    if flat.size == 0:
        raise MaskRefused("an empty mask has no brush code; a mask needs at least one pixel")
    changes = _changes(flat)
    ends = np.concatenate((changes, (flat.size,)))
    values = np.zeros(ends.size, dtype=np.int64)
    values[int(flat[0] == 0) :: 2] = 255
    lengths = ends * CHANNELS
    lengths[1:] -= changes * CHANNELS
    return _encode_runs(lengths, values, flat.size * CHANNELS)


def _changes(flat: Bytes) -> Integers:
    """Where `flat > 0` differs from the pixel before.

    Eight pixels are compared at once: most eights are like the eight before, and those that are can hold a
    change only if they are not all alike, as in noise.
    """
    whole = flat.size - flat.size % 8
    eights = flat[:whole].view(EIGHT)
    begins = np.concatenate((np.arange(min(1, eights.size)), np.flatnonzero(eights[1:] != eights[:-1]) + 1))
    held = eights[begins]
    mixed = held != (held & 255) * EIGHT_ALIKE
    alone = np.concatenate((begins[1:] == begins[:-1] + 1, begins[-1:] == eights.size - 1))
    if (mixed & ~alone).any():
        begins = _spread(begins, np.where(mixed, np.diff(begins, append=eights.size), 1))
        held = eights[begins]
    # One byte a pixel, 0 or 1, the pixel before in the byte below.
    painted = (held.view(np.uint8) > 0).view(EIGHT)
    before = (flat[8 * begins - 1] > 0) if begins.size > 1 else np.zeros(begins.size, dtype=bool)
    before[:1] = flat[:1] > 0
    hits = np.flatnonzero((painted ^ (painted << 8 | before)).view(bool))
    found = (8 * begins)[hits >> 3] + (hits & 7)
    rest = flat[max(0, whole - 1) :] > 0
    return np.concatenate((found, np.flatnonzero(rest[1:] != rest[:-1]) + max(1, whole)))


def _spread(starts: Integers, counts: Integers) -> Integers:
    """`count` numbers from each start on."""
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def encode_values(values: Bytes) -> bytes:
    """The code of flat uint8 values, as the SDK's `encode_rle`."""
    if values.size == 0:
        raise MaskRefused("an empty mask has no brush code; a mask needs at least one pixel")
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, values.size)
    return _encode_runs(np.diff(ends, prepend=0), values[ends - 1].astype(np.int64), values.size)


def _encode_runs(lengths: Integers, values: Integers, count: int) -> bytes:
    if count >= 1 << 32:
        raise MaskRefused(f"{count} values; the brush code counts up to 2^32 - 1")
    if int(lengths.max()) > LONGEST:
        lengths, values = _split_long(lengths, values)
    sizes = (lengths > 8).view(np.uint8) + (lengths > 16) + (lengths > 256)
    bits = np.array(LENGTH_BITS)[sizes]
    codes = (((4 | sizes) << bits) + lengths - 1) << WORD_BITS | values
    if int(lengths.min()) == 1:
        codes -= (lengths == 1) * (4 << bits << WORD_BITS)  # a single value is encoded as a literal
    widths = bits + (3 + WORD_BITS)
    ends = np.cumsum(widths) + HEADER_BITS
    end = int(ends[-1])
    # A record fits into the 64 bits from the 32-bit word on in which it starts; those of one word are joined.
    at = (ends - widths) >> 5
    placed = codes << 64 + (at << 5) - ends
    first = np.concatenate(((0,), np.flatnonzero(at[1:] != at[:-1]) + 1))
    joined, at = np.bitwise_or.reduceat(placed, first).view(np.uint64), at[first]
    words = np.zeros(end // 32 + 2, dtype=np.uint32)
    words[:2] = _header(count) >> 32, _header(count) & 0xFFFFFFFF
    words[at] |= (joined >> 32).astype(np.uint32)
    words[at + 1] |= joined.astype(np.uint32)
    return words.astype(">u4").tobytes()[: end // 8 + 1]


def _split_long(lengths: Integers, values: Integers) -> tuple[Integers, Integers]:
    parts = (lengths - 1) // LONGEST + 1
    split = np.full(int(parts.sum()), LONGEST, dtype=np.int64)
    split[np.cumsum(parts) - 1] = lengths - (parts - 1) * LONGEST
    return split, np.repeat(values, parts)


def _header(count: int) -> int:
    """The header in the upper bits of the first 64."""
    head = count << 5 | WORD_BITS - 1
    for bits in LENGTH_BITS:
        head = head << 4 | bits - 1
    return head << 64 - HEADER_BITS


def decode_mask(code: bytes | Sequence[int], height: int, width: int) -> Mask:
    """Bool `HW`: where alpha is at least `ALPHA_THRESHOLD`. Raises `MaskRefused` as `decode_alpha`."""
    return decode_alpha(code, height, width) >= ALPHA_THRESHOLD


def decode_alpha(code: bytes | Sequence[int], height: int, width: int) -> Bytes:
    """Uint8 `HW` alpha of a brush code (bytes, or the list of bytes that Label Studio's JSON holds).

    The code is not trusted: it must declare and contain exactly 4·height·width values. Raises `MaskRefused`
    otherwise, before allocating more than a few times the size of code and mask.
    """
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise MaskRefused(f"a brush mask of {height}×{width} is outside 1…{MAX_PIXELS} pixels")
    ends, values, literal = _decode_records(code, CHANNELS * height * width)
    if literal is not None:
        return literal.reshape(height, width, CHANNELS)[..., CHANNELS - 1].copy()
    # Alpha is every fourth value: of the values before position `end`, `end // 4` are alphas.
    stops = ends // CHANNELS
    starts = np.concatenate(((0,), stops[:-1]))
    shown = np.flatnonzero((values > 0) & (stops > starts))
    alpha = bytearray(height * width)
    counts = (stops - starts)[shown]
    for start, stop, count, value in zip(
        starts[shown].tolist(), stops[shown].tolist(), counts.tolist(), values[shown].tolist(), strict=True
    ):
        alpha[start:stop] = SINGLE[value] * count
    return np.frombuffer(alpha, dtype=np.uint8).reshape(height, width)


def decode_values(code: bytes | Sequence[int], count: int) -> Bytes:
    """All `count` uint8 values, as the SDK's `decode_rle`. Raises `MaskRefused` as `decode_alpha`."""
    if not 0 < count <= CHANNELS * MAX_PIXELS:
        raise MaskRefused(f"{count} values are outside 1…{CHANNELS * MAX_PIXELS}")
    ends, values, literal = _decode_records(code, count)
    return np.repeat(values, np.diff(ends, prepend=0)) if literal is None else literal


def _decode_records(code: bytes | Sequence[int], count: int) -> tuple[Integers, Bytes, Bytes | None]:
    """Where each record ends, its first value, and all values where some record is a longer literal."""
    data = _checked_bytes(code, count)
    word, length_bits = _read_header(data, count)
    # The 64 bits from every byte on, beyond the end too.
    windows: NDArray[np.uint64] = np.ndarray(
        (len(data) + 8,), dtype=">u8", buffer=data + bytes(16), strides=(1,)
    )
    at = _walk(data, windows, word, length_bits)
    head = _from_bit(windows, at)
    kinds = (head >> 61).astype(np.intp)
    bits = np.array(length_bits, dtype=np.uint64)[kinds & 3]
    lengths = ((head << 3) >> (64 - bits)).astype(np.int64) + 1
    values = ((head << (3 + bits)) >> (64 - word)).astype(np.uint8)
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, count))
    if last == len(ends):
        raise MaskRefused(f"the brush code ends after {int(ends[-1]) if len(ends) else 0} of {count} values")
    if last + 1 < len(ends):
        at, kinds, bits, lengths, ends, values = (
            each[: last + 1] for each in (at, kinds, bits, lengths, ends, values)
        )
    words = int(lengths[-1]) if kinds[-1] < 4 else 1
    if int(at[-1]) + 3 + int(bits[-1]) + word * words > 8 * len(data):
        raise MaskRefused(f"the brush code ends within its last record, before {count} values")
    ends[-1] = min(int(ends[-1]), count)
    literal = kinds < 4
    if not (literal & (lengths > 1)).any():
        return ends, values, None
    words_of = np.where(literal, lengths, 1)
    first = at + 3 + bits.astype(np.int64)
    within = np.arange(words_of.sum()) - np.repeat(np.cumsum(words_of) - words_of, words_of)
    each = (_from_bit(windows, np.repeat(first, words_of) + word * within) >> (64 - word)).astype(np.uint8)
    return ends, values, np.repeat(each, np.repeat(np.where(literal, 1, lengths), words_of))[:count]


def _from_bit(windows: NDArray[np.uint64], at: Integers) -> NDArray[np.uint64]:
    """The 57 bits or more from each bit on, in the upper bits of 64."""
    return windows[at >> 3].astype(np.uint64) << (at & 7).astype(np.uint64)


def _checked_bytes(code: bytes | Sequence[int], count: int) -> bytes:
    if len(code) > 64 + LITERAL_LIMIT_BITS * count // 8:
        raise MaskRefused(f"a brush code of {len(code)} bytes is longer than {count} values can need")
    check_bytes(len(code), BRUSH_BYTES, "the brush code", "draw the mask in larger strokes", MaskRefused)
    try:
        data = code if isinstance(code, bytes) else bytes(code)
    except (TypeError, ValueError):
        raise MaskRefused("a brush code is a list of whole numbers from 0 to 255") from None
    if len(data) < HEADER_BITS // 8 + 1:
        raise MaskRefused("the brush code ends within its header")
    return data


def _read_header(data: bytes, count: int) -> tuple[int, tuple[int, ...]]:
    head = int.from_bytes(data[:7], "big") >> 56 - HEADER_BITS
    declared, word = head >> 21, (head >> 16 & 31) + 1
    if declared != count:
        raise MaskRefused(f"the brush code declares {declared} values, its mask has {count}")
    if word > WORD_BITS:
        raise MaskRefused(f"the brush code has words of {word} bits; masks have at most {WORD_BITS}")
    return word, tuple((head >> shift & 15) + 1 for shift in (12, 8, 4, 0))


def _walk(data: bytes, windows: NDArray[np.uint64], word: int, length_bits: tuple[int, ...]) -> Integers:
    """The bit at which each record starts, up to the end of the data.

    A record's width follows from its first three bits, literals aside, so the widths of records at every bit
    of a part of the data are looked up at once and only the steps from record to record remain.
    """
    table = _widths(word, length_bits)
    limit, at = 8 * len(data), HEADER_BITS
    found: list[Integers] = []
    while at < limit:
        first = at // 8
        stop = min(limit, 8 * (first + WINDOW))
        widths = table[windows[first : first + WINDOW] >> 54].tobytes()
        base = 8 * first
        marks = bytearray(stop - base)
        at, stop = at - base, stop - base
        while at < stop:
            marks[at] = 1
            at += widths[at] or _literal_width(data, base + at, word, length_bits)
        found.append(np.flatnonzero(np.frombuffer(marks, dtype=bool)) + base)
        at += base
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


@lru_cache(maxsize=8)
def _widths(word: int, length_bits: tuple[int, ...]) -> Bytes:
    """For each value of ten bits, the width of a record that starts at its first, second, … eighth bit; 0
    for a literal's.
    """
    kinds = np.arange(1 << 10)[:, None] >> np.arange(7, -1, -1) & 7
    return np.array([0] * 4 + [3 + bits + word for bits in length_bits], dtype=np.uint8)[kinds]


def _literal_width(data: bytes, at: int, word: int, length_bits: tuple[int, ...]) -> int:
    head = int.from_bytes(data[at >> 3 : (at >> 3) + 4].ljust(4, b"\0"), "big") << (at & 7) & 0xFFFFFFFF
    bits = length_bits[head >> 29 & 3]
    return 3 + bits + word * ((head >> 29 - bits & (1 << bits) - 1) + 1)
