"""Reads one file with one of the product's readers, and says how it ended; in children that may die.

A reading is `taken` if everything in the file was used, `refused` if the product said in one sentence why
not, and `broken` if anything else came out of it.
"""

import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from dataengine import images
from dataengine.errors import ClinicError
from dataengine.masks import PackedMap, decode_coco
from dataengine.safetensors_header import tensor_shapes
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.importer import Reading, pack
from pipelines.exchange.readers.coco import read_coco
from pipelines.exchange.readers.folders import read_folder
from pipelines.exchange.readers.hadm import read_hadm
from pipelines.exchange.readers.hugging_face import read_hugging_face
from pipelines.exchange.readers.label_studio import read_label_studio
from pipelines.exchange.readers.mask_folders import read_mask, read_masks
from pipelines.exchange.readers.richhf import read_richhf
from pipelines.exchange.safe_files import open_safely, read_json
from pipelines.generators.files import read_pipeline_class
from storage.stores.maps import Maps

SECONDS = 20.0
"""Of computation: on a busy machine the clock counts what others do."""
PATIENCE = 240.0
"""Seconds of the clock until a reading counts as hung."""
MEMORY = 2**30
"""What a reading may take besides what its process held before."""
LONGEST_SENTENCE = 1000
SIDE = 64
"""Height and width of the sound images."""


class Outcome(NamedTuple):
    """How a reading ended, what was said, the memory that it took in bytes, its seconds."""

    word: str
    said: str
    memory: int
    seconds: float


def read_through(reading: Reading) -> None:
    """Load, measure and pack every row, as an import does. Raises the first refusal."""
    rows = 0
    refused: list[str] = []
    for row in reading.rows:
        size = (SIDE, SIDE)
        if row.load is not None:
            data, note = row.load()
            file = images.measure(data)
            refused += [f"{row.name}: {note.problem}"] if note.problem else []
            size = file.height, file.width
        if row.answers is not None:
            for answer in row.answers(*size):
                pack(answer, *size, classes=127)
                refused += [f"{row.name}: {reason}" for reason in answer.refused]
        rows += 1
    refused += [f"{one.name}: {one.reason}" for one in reading.refused]
    if refused:
        raise ClinicError(refused[0])
    if not rows:
        raise ClinicError("nothing in it")


def image(path: Path) -> None:
    data = path.read_bytes()
    images.measure(data)
    images.decode(data)


def label_map(path: Path) -> None:
    """The first eight bytes are height and width."""
    data = path.read_bytes()
    height, width = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    PackedMap.from_bytes(data[8:], height, width).unpack()


def map_pack(path: Path) -> None:
    """As a label map, but a map in a pack."""
    data = path.read_bytes()
    height, width = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")

    class OnePack:
        @staticmethod
        def get_range(pack: str, offset: int, length: int) -> bytes:
            return data[8:]

    Maps(OnePack()).get(f"{'0' * 64}:0:{len(data)}:{height % 10**6}x{width % 10**6}")  # type: ignore[arg-type]


def beside_image(
    name: str, read: Callable[[ImportOptions], Reading], at: str = "", side: int = SIDE
) -> Callable[[Path], None]:
    """A reader of a dataset that is `name` beside an image `images/a.png` of `side`²."""

    def reader(path: Path) -> None:
        from tests.bombs import even_png, sound_png

        (path.parent / "images" / at).mkdir(parents=True, exist_ok=True)
        image = sound_png() if side == SIDE else even_png(side, 1, 0)
        (path.parent / "images" / at / "a.png").write_bytes(image)
        target = path.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        read_through(read(ImportOptions(path=path.parent, images=path.parent / "images" / at)))

    return reader


def dataset(name: str, read: Callable[[ImportOptions], Reading]) -> Callable[[Path], None]:
    """A reader of a dataset that is one file called `name`."""

    def reader(path: Path) -> None:
        read_through(read(ImportOptions(path=path.rename(path.parent / name))))

    return reader


def table(path: Path) -> None:
    from tests.bombs import sound_png

    path.rename(path.parent / "metadata.csv")
    (path.parent / "a.png").write_bytes(sound_png())
    read_through(read_folder(path.parent))


def sidecar(path: Path) -> None:
    from tests.bombs import sound_png

    path.rename(path.parent / "a.json")
    (path.parent / "a.png").write_bytes(sound_png())
    read_through(read_folder(path.parent))


def archive(path: Path) -> None:
    with open_safely(path.rename(path.parent / "set.zip")) as folder:
        read_through(read_folder(folder))


def pipeline_index(path: Path) -> None:
    path.rename(path.parent / "model_index.json")
    read_pipeline_class(path.parent)


READERS: dict[str, Callable[[Path], object]] = {
    "image": image,
    "mask image": lambda path: read_mask(path.read_bytes(), None, (SIDE, SIDE)),
    "label map": label_map,
    "map pack": map_pack,
    "coco code": lambda path: decode_coco(read_json(path)),
    "coco": beside_image("coco.json", read_coco),
    "coco of 8000²": beside_image("coco.json", read_coco, side=8000),
    "hadm": beside_image("annotations/train/a.json", read_hadm, "train"),
    "label studio": beside_image("tasks.json", read_label_studio),
    "labels table": beside_image("labels.csv", read_masks),
    "tfrecord": beside_image("train.tfrecord", read_richhf),
    "parquet": dataset("train.parquet", read_hugging_face),
    "arrow": dataset("train.arrow", read_hugging_face),
    "tar": dataset("train.tar", read_hugging_face),
    "table": table,
    "sidecar": sidecar,
    "archive": archive,
    "tensors": tensor_shapes,
    "pipeline index": pipeline_index,
}


def outcome(kind: str, data: bytes) -> Outcome:
    """Read `data` with the reader of its kind, in this process."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    path = folder / "file"
    path.write_bytes(data)
    del data
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory("VmRSS"), time.process_time()
    word, said = "taken", ""
    try:
        READERS[kind](path)
    except ClinicError as error:
        said = str(error)
        one_sentence = said.strip() and "\n" not in said.strip() and len(said) < LONGEST_SENTENCE
        word = "refused" if one_sentence and "MemoryError" not in said else "broken"
    except BaseException as error:
        word, said = "broken", f"{type(error).__name__}: {error}"[:300]
    took = time.process_time() - began
    peak = memory("VmHWM") - before
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(word, said, max(0, peak), took)


def memory(name: str) -> int:
    """A figure of this process in bytes: VmRSS now, VmHWM at most since it was reset, VmSize mapped."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return 1024 * int(line.split()[1])


def serve(connection: Connection) -> None:
    """Answer (kind, data) until None comes."""
    warm_up()
    limit = memory("VmSize") + 4 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (asked := connection.recv()) is not None:
        connection.send(outcome(*asked))


def warm_up() -> None:
    """Read every sound file once, so that no library is loaded while memory is measured."""
    from tests.bombs import SOUND

    for one in SOUND:
        outcome(one.kind, one.make())


class Child:
    """A process that reads files; one that dies or hangs is replaced."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def read(self, kind: str, data: bytes) -> Outcome:
        """How the reading ended; `broken` too if it killed the process or took longer than `SECONDS`."""
        began = time.perf_counter()
        try:
            self._here.send((kind, data))
            if self._here.poll(PATIENCE):
                found: Outcome = self._here.recv()
                return (
                    found._replace(word="broken", said="took too long") if found.seconds > SECONDS else found
                )
            said = "hung"
        except (EOFError, OSError):
            self._process.join(5)
            said = f"died with {self._process.exitcode}"
        self.stop()
        self._start()
        return Outcome("broken", said, 0, time.perf_counter() - began)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._here.close()


@contextmanager
def child() -> Iterator[Child]:
    """A process to read files in."""
    made = Child()
    try:
        yield made
    finally:
        made.stop()
