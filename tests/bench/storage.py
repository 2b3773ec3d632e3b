"""`make bench-storage`: a page of the curator's desk among a million images, and imports on one core.

`catalog_page_ms`: 95th percentile over random pages of 48 with category and confidence filter, most uncertain
first, from anywhere in the order, each in a unit of work of its own. `import_per_s`: `import_folder` of 512²
JPEG files pinned to one core: hash, thumbnail, near-duplicate group, durable blobs, catalog rows. With
`BASE=COMMIT` also today's times over that commit's (see `base`).
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from pipelines.exchange.readers.folders import import_folder
from storage.opening import create_workspace
from storage.queries.images import PAGE, Cursor, ImageFilter, page_of_images
from tests.bench.base import over_base
from tests.bench.harness import RESULTS, Figure, bootstrap, figure, missed, p95, quick, write
from tests.bench.large_catalog import CATEGORIES, fill_catalog

SEED = 0
PAGE_TARGET_MS = 50
IMPORT_TARGET = 200


def main() -> int:
    """Run both and write `build/bench/storage.json`; 1 if a figure misses its target entirely."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS) as scratch:
        pages = page_figures(
            Path(scratch), images=20_000 if quick() else 1_000_000, pages=60 if quick() else 400
        )
        imports = import_figures(Path(scratch), files=60 if quick() else 400, repeats=2 if quick() else 9)
    write("storage", [*pages, *imports, *over_base("storage")], seeds=[SEED])
    failed = missed(pages[0], at_most=PAGE_TARGET_MS) or missed(imports[0], at_least=IMPORT_TARGET)
    return int(failed and not quick())


def page_figures(scratch: Path, images: int, pages: int) -> list[Figure]:
    """Times of random filtered pages in a filled SQLite catalog."""
    workspace = create_workspace(scratch / "pages", database_url=f"sqlite:///{scratch / 'pages.sqlite'}")
    fill_catalog(workspace.engine, images, seed=SEED)
    rng = np.random.default_rng(SEED)
    times, shown = [], 0
    for _ in range(pages):
        wanted, after = random_page(rng)
        started = time.perf_counter()
        with workspace.catalog(read_only=True) as catalog:
            page = page_of_images(catalog, wanted, after)
        times.append(1000 * (time.perf_counter() - started))
        shown += len(page.cards)
    workspace.close()
    note = f"page of {PAGE}, category + confidence filter, by uncertainty, SQLite, {images:,} images"
    return [
        p95("catalog_page_ms", times, note=note),
        figure("catalog_page_median_ms", float(np.median(times)), unit="ms", n=pages, note="the same pages"),
        figure("catalog_page_cards", shown / pages, unit="images", n=pages, note="mean cards on a page"),
    ]


def random_page(rng: np.random.Generator) -> tuple[ImageFilter, Cursor | None]:
    """A category, bounds of confidence from narrow to wide, a place in the order (one in ten the start)."""
    lowest = float(rng.uniform(0, 0.9))
    highest = min(1.0, lowest + float(rng.uniform(0.05, 0.6)))
    after = None if rng.random() < 0.1 else Cursor(float(rng.uniform(0, 1)), "g")
    return ImageFilter(category=str(rng.choice(CATEGORIES)), lowest=lowest, highest=highest), after


def import_figures(scratch: Path, files: int, repeats: int) -> list[Figure]:
    """Imports of one folder into fresh workspaces, then once more into the last one."""
    folder = scratch / "pictures"
    folder.mkdir()
    for number in range(files):
        Picture.fromarray(picture(number)).save(folder / f"{number:05d}.jpg", quality=90)
    rates, processor = [], []
    with one_core():
        for repeat in range(repeats):
            workspace = create_workspace(scratch / f"import-{repeat}")
            started, busy = time.perf_counter(), time.process_time()
            result = import_folder(workspace, folder, source="real", workers=1)
            rates.append(files / (time.perf_counter() - started))
            processor.append(1000 * (time.process_time() - busy) / files)
            if result.added != files:
                raise AssertionError(f"{result.added} of {files} pictures were added: {result.refused[:3]}")
        started = time.perf_counter()
        again = import_folder(workspace, folder, source="real", workers=1)
        known = again.duplicates / (time.perf_counter() - started)
        workspace.close()
    size = sum(path.stat().st_size for path in folder.iterdir()) / files
    note = f"512² JPEG of {size / 1000:.0f} kB, pinned to one core, {files} a run"
    return [
        figure("import_per_s", float(np.median(rates)), spread(rates), "images/s", repeats, note),
        figure(
            "import_cpu_ms", float(np.median(processor)), spread(processor), "ms", repeats, "CPU per image"
        ),
        figure("import_known_per_s", known, unit="images/s", n=files, note="the same folder again"),
    ]


def spread(samples: list[float]) -> tuple[float, float]:
    """Bootstrap interval of the median."""
    return bootstrap(samples, lambda drawn: float(np.median(drawn)), seed=SEED)


def picture(number: int) -> np.ndarray:
    """Uint8 512×512×3: soft shapes under a fine grain, as large in a JPEG as a photograph is."""
    rng = np.random.default_rng([SEED, number])
    coarse = Picture.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    shapes = np.asarray(coarse.resize((512, 512), Picture.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(shapes + rng.normal(0, 6, (512, 512, 1)), 0, 255).astype(np.uint8)


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process, its threads and what they start on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    sys.exit(main())
