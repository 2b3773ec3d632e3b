"""A plain, slow writer of the brush code as browsers write it: runs, and literals of several values."""

import numpy as np


def pack(values: np.ndarray, fields: tuple[int, ...] = (3, 4, 8, 16)) -> bytes:
    """The code of uint8 values; what repeats becomes a run, what does not is gathered into literals."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{field - 1:04b}" for field in fields)
    waiting: list[int] = []
    at, plain = 0, values.tolist()
    while at < len(plain):
        end = at + 1
        while end < len(plain) and plain[end] == plain[at] and end - at < 1 << max(fields):
            end += 1
        if end - at == 1 and len(waiting) < 1 << max(fields):
            waiting.append(plain[at])
        else:
            bits += _literal(waiting, fields)
            waiting = []
            bits += "1" + _length(end - at, fields) + f"{plain[at]:08b}"
        at = end
    bits += _literal(waiting, fields)
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")


def _literal(values: list[int], fields: tuple[int, ...]) -> str:
    return "0" + _length(len(values), fields) + "".join(f"{v:08b}" for v in values) if values else ""


def _length(count: int, fields: tuple[int, ...]) -> str:
    index = min((i for i, field in enumerate(fields) if count <= 1 << field), key=lambda i: fields[i])
    return f"{index:02b}{count - 1:0{fields[index]}b}"
