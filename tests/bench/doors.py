"""`make bench-doors`: what the commands that need no workspace cost beyond the work itself.

`PARTS` holds a function for each part, which returns its figures; `ONLY=PART,PART` measures those alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench.harness import ROOT, Figure, bootstrap, figure, quick, seconds, timing_ratio, write_in_parts

IMAGES = 4 if quick() else 32
PAIRS = 1 if quick() else 9
STARTS = 2 if quick() else 9
POLL_SECONDS = 0.002


def write_photographs(folder: Path, count: int, side: int) -> None:
    """Photograph-like PNG files: noise of all scales, so that they compress as photographs do."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = np.full((side, side, 3), 127.0)
        for scale in (4, 16, 64, side):
            noise = rng.normal(0, 20, (scale, scale, 3)) + 127
            grown = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((side, side))
            pixels += np.asarray(grown, dtype=np.float64) - 127
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")


def write_detector(folder: Path) -> Path:
    """A SegFormer-b0 at 512², with random weights."""
    from dataengine.diagnosis.config import DetectorConfig
    from dataengine.diagnosis.detector import NetworkDetector, save_detector

    config = DetectorConfig(name="b0", segformer="b0", size=512)  # type: ignore[arg-type]
    save_detector(NetworkDetector.fresh(config), folder)
    return folder


def diagnose_ratio(side: int) -> Iterable[Figure]:
    """Rate of `clinic diagnose FOLDER`, with all that it writes, over decoding and the forward pass with the
    same batches and threads, in turns."""
    from dataengine.devices import default_device
    from dataengine.images import decode
    from pipelines.jobs.diagnose_files import BATCH, BATCH_ON_CPU, BATCH_PIXELS, threads
    from pipelines.runtime.models import real_models
    from pipelines.runtime.prefetch import prefetch
    from pipelines.services.standalone.diagnosis import diagnose_files

    with tempfile.TemporaryDirectory() as place:
        photographs, results = Path(place) / "photographs", iter(range(10**6))
        write_photographs(photographs, IMAGES, side)
        detector = write_detector(Path(place) / "detector")
        models = real_models(default_device())
        opened = models.open_detector(detector)
        batch = min(BATCH_ON_CPU if models.device == "cpu" else BATCH, max(1, BATCH_PIXELS // side**2))

        def command() -> None:
            diagnose_files([photographs], Path(place) / f"out{next(results)}", str(detector))

        def bare() -> None:
            group: list[np.ndarray] = []
            files = sorted(photographs.iterdir())
            for pixels in prefetch(files, lambda path: decode(path.read_bytes()), threads()):
                group.append(pixels)
                if len(group) == batch:
                    models.artifact_maps(opened, group, batch)
                    group = []
            if group:
                models.artifact_maps(opened, group, batch)

        note = f"goal ≥ 0.9; {IMAGES} PNG images of {side}², SegFormer-b0 at 512² on {models.device}"
        yield timing_ratio(f"diagnose_ratio_{side}", bare, command, PAIRS, note)


def startup() -> Iterable[Figure]:
    """Seconds of `clinic --help`, and seconds to the first map beyond the imports that it needs."""
    helps = [seconds(partial(run, "-m", "app", "--help")) for _ in range(STARTS)]
    yield median("startup_s", helps, f"goal ≤ 0.5; `clinic --help`, median of {STARTS}")
    with tempfile.TemporaryDirectory() as place:
        write_photographs(Path(place) / "photographs", 1, 512)
        detector = write_detector(Path(place) / "detector")
        extra = []
        for number in range(STARTS):
            imports = seconds(partial(run, "-c", IMPORTS))
            out = Path(place) / f"out{number}"
            begun = time.perf_counter()
            words = ("diagnose", str(Path(place) / "photographs"), "--detector", str(detector))
            command = subprocess.Popen(
                [sys.executable, "-m", "app", *words, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL
            )
            while not (out / "maps/000.png").exists() and command.poll() is None:
                time.sleep(POLL_SECONDS)
            extra.append(time.perf_counter() - begun - imports)
            if command.wait():
                raise RuntimeError("clinic diagnose failed")
        note = "goal ≤ 1; `clinic diagnose` to the first map, less a process that imports transformers"
        yield median("first_map_extra_s", extra, note)


IMPORTS = "import torch, transformers; from transformers import SegformerForSemanticSegmentation"


def run(*words: str) -> None:
    """One Python process in the checkout."""
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def median(id: str, samples: list[float], note: str) -> Figure:
    """The median of seconds with its bootstrap interval."""
    interval = bootstrap(samples, lambda drawn: float(np.median(drawn)))
    return figure(id, statistics.median(samples), interval, "s", len(samples), note)


def exports() -> Iterable[Figure]:
    """Exported detectors against our own maps."""
    from tests.bench.exports import measure_exports

    found = measure_exports(quick())
    for format, goal in (("transformers", "1e-5"), ("onnx", "1e-4")):
        each = ", ".join(f"{name} {value:.2g}" for name, value in found[f"{format}_differences"].items())
        name = f"{format}_max_difference"
        yield figure(name, found[name], unit="of confidence", n=1, note=f"goal ≤ {goal}; {each}")


def under() -> Iterable[Figure]:
    """Whether a treatment holds under other conditions."""
    from tests.bench.under import under_figures

    return under_figures()


PARTS: dict[str, Callable[[], Iterable[Figure]]] = {
    "diagnose_512": partial(diagnose_ratio, 512),
    "diagnose_1024": partial(diagnose_ratio, 1024),
    "startup": startup,
    "exports": exports,
    "under": under,
}


def main() -> None:
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    if unknown := set(only) - PARTS.keys():
        raise SystemExit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    write_in_parts("doors", {name: part for name, part in PARTS.items() if not only or name in only}, [0])


if __name__ == "__main__":
    main()
