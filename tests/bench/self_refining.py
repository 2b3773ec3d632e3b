"""Flaw activation maps and self-refining training, for `bench-trainingfree`; what is trained is kept.

All rows of one length share their base phase, which is the same for all of them: it is trained once.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import HighlighterConfig
from dataengine.diagnosis.flaw_activation import FlawHighlighter, train_highlighter
from dataengine.errors import Cancelled
from dataengine.quality.distances import compute_features, frechet_distance
from dataengine.treatment.config import SamplingConfig, UNetConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.unconditional import UnconditionalFamily, new_unet_family
from dataengine.treatment.refining import trainer
from dataengine.treatment.refining.config import RefiningConfig
from dataengine.treatment.refining.trainer import RESULT, identity_of, refine
from dataengine.treatment.sampling.sampler import as_tensor, as_uint8, generate
from dataengine.treatment.tuning import progress as keeping
from tests.bench.guided_sampling import KEEPER, SIZES, ImageRow, kid_by_fold
from tests.bench.harness import Figure, bootstrap, curve, device, figure, quick
from tests.bench.reader_highlighter import READER, from_reader, opened
from tests.bench.treatment_rows import FLAWED, ClinicModels

HOT = 0.5
EXACT = 200
LEARNED_FROM = 300
"""Images of either kind."""
HELD_OUT = 1_000_000
"""Where drawings of the generator's stream begin that nothing is trained on."""
WORKSPACE = "CLINIC_WORKSPACE"
"""Names a workspace in which people have labelled generated images."""


@dataclass(frozen=True)
class Training:
    """How long and on what a row is trained."""

    steps: int
    batch: int
    lr: float
    ema: float
    drawings: int
    categories: Sequence[str] | None
    """Of what is drawn; None: all."""
    highlighted: int
    epochs: int
    network: UNetConfig


SMALL = Training(
    2000, 16, 5e-4, 0.995, 4000, ["hand"], 200, 5, UNetConfig(channels=(24, 48, 64), attention=2)
)
"""A few minutes a row on one core: hands alone, since of everything it learns noise in that time."""
LARGE = Training(8000, 64, 2e-4, 0.999, 6000, None, 300, 6, UNetConfig(channels=(32, 64, 96), attention=1))
TINY = Training(4, 2, 2e-4, 0.999, 16, None, 12, 1, UNetConfig(channels=(8, 16), attention=1))
TRAINING = TINY if quick() else SMALL if device() == "cpu" else LARGE
SECONDS = "seconds.npy"


@dataclass(frozen=True)
class Row:
    """One training: what it changes of the ordinary settings, and what chance it had."""

    name: str
    change: Mapping[str, Any]
    seed: int = 0
    flat: bool = False
    """Whether its maps say nothing about where."""
    reader: bool = False
    """Whether its highlighter starts from the reader's features, instead of random ones."""

    @property
    def folder(self) -> str:
        """Where it is kept."""
        ends = ("-flat" if self.flat else "", "-reader" if self.reader else "")
        return self.name + "".join(ends) + (f"-seed-{self.seed}" if self.seed else "")


ROWS: dict[str, dict[str, Any]] = {
    "base": {"refinement": 0.0},
    "forward": {"reverse": 0.0},
    "reverse": {"forward": 0.0},
    "both": {},
}
SWEEPS: dict[str, tuple[str, dict[float, dict[str, Any]]]] = {
    "strength": (
        "λ of noise and of keys and values alike",
        {value: {"forward": value, "reverse": value} for value in (0.005, 0.01, 0.025, 0.05, 0.1)},
    ),
    "cycle": ("updates between two maps", {value: {"cycle": value} for value in (10, 100, 1000)}),
    "refinement": (
        "share of refinement: base to refinement 4:1, 1:1, 1:4",
        {value: {"refinement": value} for value in (0.2, 0.5, 0.8)},
    ),
}
"""Sensitivity of training: by name, what is swept and the settings at each value."""
ANEW = 1_000_000
"""Where seeds of images and drawings begin by which a strength is chosen; figures stand on others."""
SEEDS = (0, 1) if quick() else (0, 1, 2)
"""Of trainings, where FULL asks how far a gain depends on chance."""


def highlighter(
    name: str, generated: np.ndarray, real: np.ndarray, pretrained: bool = False
) -> tuple[FlawHighlighter, float]:
    """Trained from random weights, or from the reader's, to tell these images, uint8
    NHW3, apart; with the share that it does."""
    digest = hashlib.sha256(generated.tobytes()).hexdigest()
    folder = KEEPER.folder(f"highlighter-{name}", {"generated": digest, "real": len(real)})
    if not folder.is_dir():
        start = READER if pretrained else ""
        config = HighlighterConfig(lr=1e-4, batch=16, epochs=1 if quick() else 4, weights=start)
        with from_reader() if pretrained else contextlib.nullcontext():
            network, right = train_highlighter(config, real, generated, device=device())
        part = folder.with_name(f".{folder.name}.part")
        network.save(part)
        (part / "accuracy.json").write_text(json.dumps(right))
        part.rename(folder)
    return opened(folder, pretrained), json.loads((folder / "accuracy.json").read_text())


def fam_figures(
    name: str, made: ImageRow, categories: Sequence[str] | None = None, pretrained: bool = False
) -> list[Figure]:
    """Do the hot spots of a generator's flawed images lie inside the judge's regions, exact flaws, or
    human masks? The highlighter trains on its first images and clean ones; the last are held out."""
    count = 16 if quick() else LEARNED_FROM
    clean = render(stream("photos", categories=categories), range(count)).images.permute(0, 2, 3, 1).numpy()
    network, right = highlighter(name, made.images[:count], clean, pretrained)
    start = "the reader's features" if pretrained else "random weights"
    note = f"the highlighter, from {start}, tells {right:.2f} of held-out images apart; paper 0.87"
    rows = np.flatnonzero(made.flawed)[-SIZES.kind :]
    inside = made.judged[rows] >= round(255 * FLAWED)
    figures = [
        share_inside(f"fam_inside_share_{name}", network, made.images[rows], inside, f"by the judge; {note}")
    ]
    source = stream("generator", categories=categories)
    drawings = render(source, range(HELD_OUT, HELD_OUT + (16 if quick() else EXACT)))
    masks = drawings.masks.numpy()
    flawed = masks.any((1, 2))
    pictures = drawings.images.permute(0, 2, 3, 1).numpy()[flawed]
    figures.append(
        share_inside(f"fam_inside_exact_{name}", network, pictures, masks[flawed], "drawn flaws, exactly")
    )
    return [*figures, inside_people_masks(f"fam_inside_people_{name}", network)]


def hot_spots(network: FlawHighlighter, images: np.ndarray) -> np.ndarray:
    """Bool NHW of images uint8 NHW3: where a flaw map exceeds half its maximum."""
    parts = as_tensor(images).to(device()).split(16)
    return torch.cat([network.activation_maps(part) for part in parts]).cpu().numpy() >= HOT


def share_inside(
    id: str, network: FlawHighlighter, images: np.ndarray, inside: np.ndarray, note: str
) -> Figure:
    """Share of the hot pixels that lie inside masks, bool NHW, compared with chance."""
    if not len(images):
        return figure(id, "not measured", note="no flawed image is at hand")
    hot = hot_spots(network, images)
    pairs = np.stack([(hot & inside).sum((1, 2)), hot.sum((1, 2))], 1).astype(float)
    value = pairs[:, 0].sum() / max(pairs[:, 1].sum(), 1)
    spread = bootstrap(pairs, lambda drawn: float(drawn[:, 0].sum() / max(drawn[:, 1].sum(), 1)))
    return figure(id, float(value), spread, "share", len(images), f"chance {inside.mean():.3f}; {note}")


def inside_people_masks(id: str, network: FlawHighlighter) -> Figure:
    """The same by the masks that people drew on generated images of a workspace, where one is named."""
    place = os.environ.get(WORKSPACE)
    if not place:
        return figure(id, "not measured", note=f"{WORKSPACE}=DIR names a workspace with people's masks")
    from dataengine.masks import unpack_label_map
    from pipelines.runtime.images import read_pixels
    from storage.opening import open_workspace

    workspace = open_workspace(Path(place))
    with workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.find(source="generated", status="active")}
        labels = [
            label
            for label in catalog.labels.of_images(list(images))
            if label.source == "person" and label.label_map is not None
        ]
    pairs = []
    for label in labels:
        packed = workspace.blobs.get(str(label.label_map))
        mask = unpack_label_map(packed, label.height, label.width) > 0
        hot = hot_spots(network, read_pixels(workspace, images[label.image_id])[None])[0]
        pairs.append(((hot & mask).sum(), hot.sum(), mask.mean()))
    if not pairs:
        return figure(id, "not measured", note=f"{place} holds no mask by a person on a generated image")
    found = np.array(pairs, dtype=float)
    value = found[:, 0].sum() / max(found[:, 1].sum(), 1)
    spread = bootstrap(found, lambda drawn: float(drawn[:, 0].sum() / max(drawn[:, 1].sum(), 1)))
    note = f"chance {found[:, 2].mean():.3f}; masks by people; paper 0.87"
    return figure(id, float(value), spread, "share", len(found), note)


def self_refining(clinic: ClinicModels) -> list[Figure]:
    """KID of every row against base at equal updates, on images of 32 × 32 pixels."""
    base = kid_of(clinic, Row("base", ROWS["base"]))
    shows = "all categories" if TRAINING.categories is None else " and ".join(TRAINING.categories) + " alone"
    told = f"KID, base's {base.mean():.4f}, {TRAINING.steps} updates of {TRAINING.batch}, {shows}"
    chosen, note = best_strength(clinic)
    rows = {"": chosen, "_flat": replace(chosen, flat=True)}
    rows |= {f"_{name}": Row(name, ROWS[name]) for name in ("forward", "reverse", "both")}
    notes = {
        "": f"{told}; {note}; goal ≥ 0.05",
        "_flat": f"{told}; every map flattened to its mean, a control",
    }
    figures = [
        gain(f"self_refining_gain{end}", base, kid_of(clinic, row), notes.get(end, f"{told}; the paper's λ"))
        for end, row in rows.items()
    ]
    return [*figures, overhead_of_maps()]


def best_strength(clinic: ClinicModels) -> tuple[Row, str]:
    """ "both" at the strength that is best on images and drawings of their own, and how it was chosen."""
    rows = [swept_row("strength", change, value) for value, change in SWEEPS["strength"][1].items()]
    rows = [Row("both", ROWS["both"]), *rows][: 2 if quick() else None]
    distances = {row.name: float(kid_of(clinic, row, ANEW).mean()) for row in rows}
    best = min(rows, key=lambda row: distances[row.name])
    told = ", ".join(f"{name} {value:.3f}" for name, value in distances.items())
    return best, f"λ chosen by KID on other images and drawings: {told}"


def gain_over_seeds(clinic: ClinicModels) -> list[Figure]:
    """The gain that has a goal and its control, at the strength chosen with the first seed, from other
    beginnings."""
    chosen, _ = best_strength(clinic)
    bases = [kid_of(clinic, Row("base", ROWS["base"], seed)).mean() for seed in SEEDS]
    figures = []
    for id, row in {"gain": chosen, "gain_flat": replace(chosen, flat=True)}.items():
        others = [kid_of(clinic, replace(row, seed=seed)).mean() for seed in SEEDS]
        gains = [float(1 - other / max(base, 1e-9)) for other, base in zip(others, bases, strict=True)]
        told = ", ".join(f"{each:.3f}" for each in gains)
        note = f"{chosen.name}, mean of trainings with seeds of their own: {told}; least and most as interval"
        spread = (min(gains), max(gains))
        figures.append(
            figure(f"self_refining_{id}_seeds", float(np.mean(gains)), spread, "share", len(gains), note)
        )
    return figures


def fid_figures(clinic: ClinicModels) -> list[Figure]:
    """The same rows by FID, on more images."""
    real = compute_features(doubled(drawings(SIZES.fid)[1]), clinic.features)
    rows = {f"_{name}": Row(name, ROWS[name]) for name in ("forward", "reverse", "both")}
    rows = {"": best_strength(clinic)[0], **rows, "base": Row("base", ROWS["base"])}
    fid = {
        end: frechet_distance(real, compute_features(doubled(images_of(row, SIZES.fid)), clinic.features))
        for end, row in rows.items()
    }
    figures = []
    for end in list(rows)[:-1]:
        better = 1 - fid[end] / max(fid["base"], 1e-9)
        told = f"FID, {fid[end]:.3f}, base's {fid['base']:.3f}"
        figures.append(figure(f"self_refining_gain{end}_fid", better, None, "share", SIZES.fid, told))
    return figures


def gain(id: str, base: np.ndarray, other: np.ndarray, note: str) -> Figure:
    """By how much of base's KID the other's is lower, fold by fold."""
    pairs = np.stack([other, base], 1)
    spread = bootstrap(pairs, lambda drawn: float(1 - drawn[:, 0].mean() / max(drawn[:, 1].mean(), 1e-9)))
    value = float(1 - other.mean() / max(base.mean(), 1e-9))
    return figure(id, value, spread, "share", SIZES.kid, note)


def sensitivity_of_training(clinic: ClinicModels) -> list[Figure]:
    """Gain of "both" at other strengths, cycles and shares of refinement, as curves."""
    base = kid_of(clinic, Row("base", ROWS["base"]))
    figures = []
    for name, (what, changes) in SWEEPS.items():
        gains = {}
        for value, change in list(changes.items())[: 1 if quick() else None]:
            other = kid_of(clinic, swept_row(name, change, value))
            gains[value] = float(1 - other.mean() / max(base.mean(), 1e-9))
        kept = curve(f"trainingfree-{name}", {name: list(gains), "gain": list(gains.values())})
        best = max(gains, key=lambda value: gains[value])
        note = f"{what}; the best, at {best:g}; curve in {kept}"
        figures.append(figure(f"sensitivity_{name}", gains[best], None, "share", SIZES.kid, note))
    return figures


def swept_row(name: str, change: Mapping[str, Any], value: float) -> Row:
    """The row of one value of a sweep, which may be the row that all others are compared with."""
    usual = configured(Row("", change)) == configured(Row("", {}))
    return Row("both", ROWS["both"]) if usual else Row(f"{name}-{value:g}", change)


def overhead_of_maps() -> Figure:
    """Time that mean flaw maps add to refinement, at the cycle of the row "both"."""
    config = configured(Row("both", ROWS["both"]))
    seconds = np.load(work_of(Row("both", ROWS["both"])) / SECONDS, allow_pickle=False)
    base = config.steps - round(config.steps * config.refinement)
    if len(seconds) < config.steps - base:
        return figure("mfam_overhead", "not measured", note="the training was resumed, and not timed whole")
    later = seconds[-(config.steps - base) :]
    # The first map comes with the highlighter's training, which is paid once.
    maps = np.arange(len(later)) % config.cycle == 0
    plain, refreshed = float(np.median(later[~maps])), later[maps][1:]
    if not len(refreshed):
        return figure("mfam_overhead", "not measured", note="one map in all, and it trains the highlighter")
    value = (float(np.median(refreshed)) - plain) / (config.cycle * plain)
    note = f"every {config.cycle} updates, {config.batch} images of {config.sample_steps} steps each"
    return figure("mfam_overhead", value, None, "share", len(refreshed), note)


@cache
def drawings(held_out: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Training images, and held-out images of the same stream: at half size, uint8 NHW3."""
    source = stream("generator", categories=TRAINING.categories)
    learned = render(source, range(TRAINING.drawings)).images
    held = render(source, range(HELD_OUT + first, HELD_OUT + first + held_out)).images
    return halved(learned), halved(held)


def halved(images: torch.Tensor) -> np.ndarray:
    """Images uint8 N3HW at half their size, uint8 NHW3."""
    return as_uint8(torch.nn.functional.avg_pool2d(images.float() / 255, 2))


def doubled(images: np.ndarray) -> np.ndarray:
    """At the size that the feature network was made for."""
    scaled = torch.nn.functional.interpolate(as_tensor(images), scale_factor=2.0, mode="bilinear")
    return as_uint8(scaled)


def kid_of(clinic: ClinicModels, row: Row, first: int = 0) -> np.ndarray:
    """KID of each fold of a row's finished model to held-out images."""
    real, vectors = (
        compute_features(doubled(each), clinic.features)
        for each in (drawings(SIZES.kid, first)[1], images_of(row, SIZES.kid, first))
    )
    return kid_by_fold(real, vectors)


def configured(row: Row) -> RefiningConfig:
    """The training with a row's settings."""
    return RefiningConfig(
        steps=TRAINING.steps,
        batch=TRAINING.batch,
        lr=TRAINING.lr,
        ema=TRAINING.ema,
        highlighted=TRAINING.highlighted,
        sample_steps=20,
        highlighter=HighlighterConfig(
            lr=1e-4, batch=32, epochs=TRAINING.epochs, weights=READER if row.reader else ""
        ),
        checkpoint_every=max(1, TRAINING.steps // 20),
        seed=row.seed,
    ).model_copy(update=dict(row.change))


def images_of(row: Row, count: int, first: int = 0) -> np.ndarray:
    """Images of a row's finished model, uint8 NHW3; cached."""

    def make() -> dict[str, np.ndarray]:
        family = load_family(train_row(row), device=device())
        seeds = range(first, first + count)
        return {"images": generate(family, [""] * count, seeds, SamplingConfig(steps=25, batch=50))}

    settings = [configured(row), TRAINING, row.flat]
    return KEEPER.arrays(f"refined/{row.folder}-{count}-from-{first}", make, settings)["images"]


def work_of(row: Row) -> Path:
    """The folder of a row's training."""
    return KEEPER.folder(f"refined/{row.folder}", [configured(row), TRAINING, row.flat])


def train_row(row: Row) -> Path:
    """The pipeline that a row's training ends with, and the time of its updates; cached."""
    work = work_of(row)
    if not (work / SECONDS).is_file():
        config, images, watch = configured(row), drawings(SIZES.kid)[0], UpdateTimer()
        copy_base_phase(row, len(images), work)
        with (
            flat_maps() if row.flat else contextlib.nullcontext(),
            from_reader() if row.reader else contextlib.nullcontext(),
        ):
            refine(config, fresh_network(row.seed), images, work, report=watch)
        np.save(work / SECONDS, watch.seconds)
    return work / RESULT


def flat_maps() -> contextlib.AbstractContextManager[Any]:
    """While it lasts, every mean flaw map is as strong as ever and the same everywhere."""
    ordinary = trainer.mean_map

    def flat(maps: torch.Tensor) -> torch.Tensor:
        found = ordinary(maps)
        return found.mean().expand_as(found).clone()

    return patch.object(trainer, "mean_map", flat)


def fresh_network(seed: int) -> UnconditionalFamily:
    """A DDPM of random weights, the same for all rows of a seed."""
    return new_unet_family(TRAINING.network, seed).to(device())


def copy_base_phase(row: Row, pictures: int, work: Path) -> None:
    """Copy the checkpoint of the base phase to where the row continues from it; "base" itself has all of
    it."""
    if (work / keeping.FILE).is_file():
        return
    config = configured(row)
    whole = configured(
        replace(row, reader=False, change={"refinement": config.refinement} if config.refinement else {})
    )
    base = whole.steps - round(whole.steps * whole.refinement)
    shared = KEEPER.folder(f"refined/{Row(f'base-{base}', {}, row.seed).folder}", [whole, TRAINING])
    if not (shared / "done").is_file():
        with contextlib.suppress(Cancelled):
            refine(whole, fresh_network(row.seed), drawings(SIZES.kid)[0], shared, report=stop_at(base))
        (shared / "done").touch()
    names = [""] * pictures
    old, new = (identity_of(each, UnconditionalFamily.name, pictures, names) for each in (whole, config))
    keeping.fork(shared, work, old, new)


def stop_at(base: int) -> Callable[..., None]:
    """A `Report` that stops the training there, once its checkpoint is saved."""

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        if message in ("training", "refining") and done >= base:
            raise Cancelled("the base phase is over")

    return report


class UpdateTimer:
    """A `Report` that takes the time of every update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def __call__(self, done: float, total: int, message: str = "", **figures: float) -> None:
        if message in ("training", "refining"):
            now = time.perf_counter()
            self.seconds.append(now - self._last)
            self._last = now
