"""`make bench-labelstudio`: the brush code against the SDK's, push and pull against a real server, COCO out.

`rle_encode_speedup`, `rle_decode_speedup`: interleaved, 1024², ten blobs. `push_rate_ratio`: tasks with
predictions pushed per second over tasks a second of the server's bare import of the same tasks.
`pull_extra_s`: a whole pull beyond the server's own export. `export_masks_per_s`: label maps of 512² written
as COCO on one core, and how memory grows with them. Without `build/labelstudio-venv` the two figures of the
server are left out.
"""

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import brush as sdk

from dataengine.images import encode_png
from dataengine.masks import pack_label_map
from dataengine.records import (
    THRESHOLD,
    DetectorVersion,
    Image,
    Label,
    LabelClass,
    Prediction,
    QueueItem,
    Round,
)
from pipelines.exchange.label_studio.brush_rle import decode_alpha, encode_mask
from pipelines.exchange.label_studio.pull import pull
from pipelines.exchange.label_studio.push import BATCH, push
from pipelines.exchange.label_studio.server import Server, translating_errors
from pipelines.exchange.label_studio.tasks import brush_prediction, brush_results, task_data
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.harness import RESULTS, Figure, bootstrap, figure, missed, quick, timing_ratio, write
from tests.bench.storage import one_core
from tests.labelstudio.server import PROGRAM, running

SEED = 0
GOALS = {
    "rle_encode_speedup": 20,
    "rle_decode_speedup": 15,
    "push_rate_ratio": 0.9,
    "export_masks_per_s": 2000,
}
PULL_GOAL_S = 15
CALLS = 5
"""In a row: one call of ours is too short to be timed beside what the SDK leaves in the caches."""
CLASSES = ("shape distortion", "unreasonable content", "watermark")
OFFERED = [LabelClass(value=value, name=name) for value, name in enumerate(CLASSES, 1)]


def main() -> int:
    """Run all of it and write `build/bench/labelstudio.json`; 1 if a figure misses its goal entirely."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    figures = [*codec_figures()]
    with tempfile.TemporaryDirectory(dir=RESULTS) as scratch:
        figures += export_figures(Path(scratch), 2_000 if quick() else 100_000)
        if PROGRAM.is_file() and not quick():
            figures += server_figures(Path(scratch), tasks=2_000, annotations=5_000)
    write("labelstudio", figures, seeds=[SEED])
    failed = [one.id for one in figures if one.id in GOALS and missed(one, at_least=GOALS[one.id])]
    failed += [one.id for one in figures if one.id == "pull_extra_s" and missed(one, at_most=PULL_GOAL_S)]
    if failed:
        print(f"missed: {', '.join(failed)}")
    return int(bool(failed) and not quick())


def blobs(side: int, count: int, seed: int) -> np.ndarray:
    """Uint8 mask of filled ellipses, 0 and 255."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), dtype=np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for _ in range(count):
        (y, x), (a, b) = rng.integers(0, side, 2), rng.integers(side // 40, side // 8, 2)
        mask[((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1] = 255
    return mask


def codec_figures() -> list[Figure]:
    """Our codec compared with the SDK's on the same mask and the same bytes."""
    mask = blobs(1024, 10, SEED)
    code = sdk.mask2rle(mask)
    if bytes(code) != encode_mask(mask) or not np.array_equal(decode_alpha(code, 1024, 1024), mask):
        raise AssertionError("the codecs differ")
    pairs = 3 if quick() else 15

    def alpha_of_sdk() -> np.ndarray:
        return sdk.decode_rle(code).reshape(1024, 1024, 4)[..., 3]

    def several(action: Callable[[], object]) -> Callable[[], object]:
        return lambda: [action() for _ in range(CALLS)]

    note = f"1024², ten blobs; SDK over ours, {CALLS} calls a sample"
    encode = several(lambda: sdk.mask2rle(mask)), several(lambda: encode_mask(mask))
    decode = several(alpha_of_sdk), several(lambda: decode_alpha(code, 1024, 1024))
    return [
        timing_ratio("rle_encode_speedup", *encode, pairs, note),
        timing_ratio("rle_decode_speedup", *decode, pairs, f"{note}, to alpha"),
    ]


def export_figures(scratch: Path, images: int) -> list[Figure]:
    """Label maps of 512² as COCO, pinned to one core, in quarters so that memory's growth shows."""
    workspace = labelled_workspace(scratch / "export", images)
    rates, memory = [], []
    with one_core():
        for part in range(4):
            started = time.process_time()
            done = export_folder(
                workspace, scratch / f"coco-{part}", format="coco", pictures=False, category=f"c{part}"
            )
            rates.append(done.masks / (time.process_time() - started))
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    workspace.close()
    spread = bootstrap(rates, lambda drawn: float(np.median(drawn)), seed=SEED)
    note = f"512², 1 to 4 regions, {images:,} images in 4 exports, blobs verified on read, CPU time"
    return [
        figure("export_masks_per_s", float(np.median(rates)), spread, "masks/s", len(rates), note),
        figure(
            "export_memory_growth_mb",
            memory[-1] - memory[0],
            unit="MB",
            n=images,
            note="first to last export",
        ),
    ]


def labelled_workspace(path: Path, images: int) -> Workspace:
    """Rows of images (their files are never read) with a label each; 512 different label maps."""
    workspace = create_workspace(path)
    packed = []
    for number in range(512):
        label_map = (blobs(512, 1 + number % 4, number) > 0).astype(np.uint8) * (1 + number % 3)
        packed.append(pack_label_map(label_map.astype(np.uint8)))
    maps = workspace.blobs.put_many(packed)
    for start in range(0, images, 5000):
        numbers = range(start, min(images, start + 5000))
        with workspace.catalog() as catalog:
            catalog.images.add_many(
                Image(id=f"i{n:07d}", sha256=f"{n:064x}", height=512, width=512, category=f"c{n % 4}")
                for n in numbers
            )
            catalog.labels._insert(  # one statement for many, for filling only
                Label(image_id=f"i{n:07d}", author="ada", height=512, width=512, label_map=maps[n % 512])
                for n in numbers
            )
            catalog.commit()
    return workspace


def server_figures(scratch: Path, tasks: int, annotations: int) -> list[Figure]:
    """Push and pull compared with the server's own time."""
    with running(scratch / "label-studio") as label_studio:
        server = Server.connect(label_studio.url, label_studio.token)
        return [*push_figures(scratch, server, tasks), *pull_figures(scratch, server, annotations)]


def waiting_workspace(path: Path, count: int, side: int) -> Workspace:
    """Images that wait in a round, with a champion's maps."""
    workspace = create_workspace(path)
    rng = np.random.default_rng(SEED)
    picture = np.repeat(rng.integers(0, 256, (side, side, 1), dtype=np.uint8), 3, axis=2)
    shas = []
    for number in range(count):
        picture[0, :4] = np.frombuffer(number.to_bytes(4, "big") * 3, np.uint8).reshape(4, 3)
        shas.append(workspace.blobs.put(encode_png(picture[: side // 4])))
    drawn = artifact_maps(side, count)
    refs = workspace.maps.put_many([drawn[number % len(drawn)] for number in range(count)])
    ids = [f"t{number:06d}" for number in range(count)]
    with workspace.catalog() as catalog:
        catalog.rounds.add(Round(id="r", recipe={}, stage="wait_for_labels", state="waiting"))
        catalog.detectors.add(DetectorVersion(id="d", name="champion", checkpoint="0" * 64))
        catalog.detectors.promote("d", "bench", "the only one")
        catalog.images.add_many(
            Image(id=key, sha256=sha, height=side // 4, width=side, round_id="r")
            for key, sha in zip(ids, shas, strict=True)
        )
        catalog.predictions.add_many(
            Prediction(image_id=key, detector_id="d", max=0.9, mean=0.1, uncertainty=0.2, map_ref=ref)
            for key, ref in zip(ids, refs, strict=True)
        )
        catalog.queue.add_many(QueueItem(image_id=key, round_id="r") for key in ids)
        catalog.commit()
    return workspace


def artifact_maps(side: int, count: int) -> list[np.ndarray]:
    """As many different maps of side / 4 by side as images, up to 400."""
    return [blobs(side, 3, number)[: side // 4] for number in range(min(count, 400))]


def push_figures(scratch: Path, server: Server, count: int) -> list[Figure]:
    """Pushing with predictions (images in a shared storage) compared with importing the same tasks
    without."""
    workspace = waiting_workspace(scratch / "push", count, 512)
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
    maps = artifact_maps(512, count)
    bare = [
        {
            "data": task_data(image, f"http://x/{image.id}.png", round="r"),
            "predictions": [
                brush_prediction(
                    maps[number % len(maps)], (128, 512), 0.9, "champion (d)", CLASSES[0], THRESHOLD
                )
            ],
        }
        for number, image in enumerate(images)
    ]
    ratios, rates = [], []
    for repeat in range(5):
        project = server.ready_project(f"bare {repeat}", OFFERED)
        server.ready_project(f"push {repeat}", OFFERED)
        started = time.perf_counter()
        for start in range(0, count, BATCH):
            server.add_tasks(project.id, bare[start : start + BATCH])
        alone = time.perf_counter() - started
        started = time.perf_counter()
        push(workspace, server, f"push {repeat}", round_id="r", pixels="storage", prefix="http://x")
        ours = time.perf_counter() - started
        ratios.append(alone / ours)
        rates.append(count / ours)
    workspace.close()
    middle = lambda drawn: float(np.median(drawn))  # noqa: E731
    note = f"{count} tasks with predictions a run, 5 runs interleaved with the same tasks imported bare"
    return [
        figure("push_rate_ratio", middle(ratios), bootstrap(ratios, middle), "ratio", 5, note),
        figure("push_per_s", middle(rates), bootstrap(rates, middle), "tasks/s", 5, "the whole push"),
    ]


def pull_figures(scratch: Path, server: Server, count: int) -> list[Figure]:
    """A whole pull, beyond what the server's own export takes just before and after."""
    workspace = waiting_workspace(scratch / "pull", count, 512)
    project = server.ready_project("pull", OFFERED)
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
    results = [
        brush_results((blobs(512, 3, n)[:128] > 0).astype(np.uint8), CLASSES, str(n)) for n in range(64)
    ]
    tasks = [
        {
            "data": task_data(image, "http://x/y.png", round="r"),
            "annotations": [{"result": results[number % 64], "lead_time": 3.0}],
        }
        for number, image in enumerate(images)
    ]
    for start in range(0, count, 250):
        server.add_tasks(project.id, tasks[start : start + 250])

    def export() -> float:
        started = time.perf_counter()
        with translating_errors(server.url):
            for _ in server.client.projects.exports.download_sync(project.id, export_type="JSON"):
                pass
        return time.perf_counter() - started

    own = [export()]
    started = time.perf_counter()
    done = pull(workspace, server, "pull")
    whole = time.perf_counter() - started
    own.append(export())
    started = time.perf_counter()
    pull(workspace, server, "pull")
    again = time.perf_counter() - started
    workspace.close()
    if done.labels != count:
        raise AssertionError(f"{done.labels} of {count} labels: {done.refused[:3]}")
    extra, note = whole - float(np.mean(own)), f"{count} annotations of 128×512"
    return [
        figure(
            "pull_extra_s", extra, unit="s", n=1, note=f"{note}; its own export takes {np.mean(own):.1f} s"
        ),
        figure("pull_again_extra_s", again - float(np.mean(own)), unit="s", n=1, note="nothing changed"),
    ]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
