"""Part `files`: hostile files for every reader, each read in a child whose memory is measured.

The files are the bombs of `tests.bombs`, and its sound files with seeded flips, cuts, lying lengths and
repeats. Each has to be used, or refused in one sentence, within 20 s and 1 GB. Control in the same run: all
sound files are taken; else there are no figures.
"""

import random
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

from tests.bench.harness import Figure, figure, quick
from tests.bombs import BOMBS, SOUND
from tests.hostile_reader import MEMORY, Child, Outcome
from tests.test_bombs import SLOW_TO_MAKE

SEED = 0
CHILDREN = 2
LENGTHS = (0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class Hostile(NamedTuple):
    """A file, its reader, and how it may end."""

    name: str
    kind: str
    words: tuple[str, ...]
    data: bytes


def figures() -> list[Figure]:
    """All of the part's figures. Raises `RuntimeError` unless every sound file is taken."""
    children: SimpleQueue[Child] = SimpleQueue()
    for _ in range(CHILDREN):
        children.put(Child())

    def read(file: Hostile) -> tuple[Hostile, Outcome]:
        child = children.get()
        try:
            return file._replace(data=b""), child.read(file.kind, file.data)
        finally:
            children.put(child)

    try:
        with ThreadPoolExecutor(CHILDREN) as pool:
            control = list(pool.map(read, sound()))
            if lost := [f"{file.name}: {found.said}" for file, found in control if found.word != "taken"]:
                raise RuntimeError(f"sound files were not taken, so the figures mean nothing: {lost}")
            outcomes = [one for part in portions(hostile()) for one in pool.map(read, part)]
    finally:
        for _ in range(CHILDREN):
            children.get().stop()
    wrong = [(file, found) for file, found in outcomes if is_wrong(file, found)]
    for file, found in wrong:
        print(f"  wrong: {file.kind}, {file.name}: {found.word}, {found.memory / 2**20:.0f} MB, {found.said}")
    taken = sum(found.word == "taken" for _, found in outcomes)
    heaviest, slowest = (max(outcomes, key=key) for key in (lambda o: o[1].memory, lambda o: o[1].seconds))
    note = (
        f"{len({file.kind for file, _ in outcomes})} readers, {taken} could still be used, the others were "
        f"refused in one sentence; most memory {heaviest[1].memory / 2**20:.0f} MiB ({heaviest[0].name}), "
        f"slowest {slowest[1].seconds:.1f} s ({slowest[0].name}); {len(control)} sound files taken"
    )
    return [
        figure("hostile_files", len(outcomes), n=len(outcomes), note=note),
        figure(
            "hostile_wrong",
            len(wrong),
            unit="files",
            n=len(outcomes),
            note="crashed, taken or refused against the table, over 20 s or over 1 GiB besides the process",
        ),
    ]


def is_wrong(file: Hostile, found: Outcome) -> bool:
    return found.word not in file.words or found.memory > MEMORY


def sound() -> Iterator[Hostile]:
    """The control."""
    for one in SOUND:
        yield Hostile(one.name, one.kind, ("taken",), one.make())


def hostile() -> Iterator[Hostile]:
    """The bombs, then the mutations."""
    for one in BOMBS:
        if not (quick() and one.name in SLOW_TO_MAKE):
            words = ("taken", "refused") if one.expected == "either" else (one.expected,)
            yield Hostile(one.name, one.kind, words, one.make())
    rng = random.Random(SEED)
    for one in SOUND:
        data = one.make()
        for number in range(3 if quick() else 24):
            name, changed = mutated(data, rng)
            yield Hostile(f"{one.name}, {name} ({number})", one.kind, ("taken", "refused"), changed)


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """The file with one seeded change, and what it is."""
    at = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            changed = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return "bits flipped", bytes(changed)
        case 1:
            return "cut", data[:at]
        case 2:
            order = rng.choice("<>")
            return "a length lies", data[:at] + struct.pack(f"{order}I", rng.choice(LENGTHS)) + data[at + 4 :]
        case 3:
            return "a part repeated", data[:at] + data[at : at + rng.randint(1, 64)] * 50 + data[at:]
        case 4:
            return "a part missing", data[:at] + data[at + rng.randint(1, 64) :]
        case _:
            return "a part of noise", data[:at] + rng.randbytes(32) + data[at + 32 :]


def portions(files: Iterable[Hostile]) -> Iterator[list[Hostile]]:
    """A few at a time: the pool would else hold all of them."""
    part: list[Hostile] = []
    for file in files:
        part.append(file)
        if len(part) == 4 * CHILDREN:
            yield part
            part = []
    yield part
