"""`make bench-clinic`: is the embedded clinic fit to be judged by? Every figure of the data sheet.

The clean twin is not shipped; `inherited` is measured when a build left one in `build/clinic/twin`.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from dataengine.clinic import parts
from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.drawing import CANVAS, SIZE, shrink
from dataengine.clinic.flaws import PIXEL_KINDS, Spot, add_artifact
from dataengine.clinic.oracles import Oracle, load_judge, load_teacher
from dataengine.clinic.readers import Reader
from dataengine.clinic.training.data import Drawings, render, round_trip
from dataengine.clinic.world import CATEGORIES, EASY, HARD, Prompt, Stream, changed_pixels, prompts, stream
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.treatment.config import LoraSettings, SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.sampling.sampler import generate, sample
from pipelines.demo.data import choose_first_point
from tests.bench.contact_sheet import contact_sheet
from tests.bench.harness import RESULTS, ROOT, Figure, bootstrap, figure, mean, quick, share, write

TWIN = ROOT / "build" / "clinic" / "twin"
SETTINGS = SamplingConfig(steps=5, batch=16, precision="bfloat16")
FIRST_SEED = 1000
MEGABYTE = 1e6


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    drawings: int
    images_per_category: int
    pairs: int
    timings: int


SIZES = Sizes(210, 6, 12, 2) if quick() else Sizes(1400, 60, 600, 9)


@dataclass(frozen=True)
class Generated:
    """Images uint8 NHWC of a generator with what was asked for and the judge's confidence float32 NHW."""

    images: np.ndarray
    asked: list[Prompt]
    confidence: Tensor

    @property
    def flawed(self) -> np.ndarray:
        """Whether the judge's maximum reaches 0.5 (DESIGN: the true artifact frequency)."""
        return flagged(self.confidence)

    def among(self, categories: Sequence[str]) -> np.ndarray:
        """The rows whose prompt asks for one of the categories."""
        return np.asarray([prompt.category in categories for prompt in self.asked])


def main() -> None:
    """Measures everything and writes `build/bench/clinic.json`."""
    with tempfile.TemporaryDirectory() as folder:
        open_ = {name: parts.materialise(name, Path(folder) / name) for name in parts.model_names()}
        judge, teacher = load_judge(open_["judge"]), load_teacher(open_["teacher"])
        reader, doctor = Reader.load(open_["readers"]), load_detector(open_["first_doctor"])
        family = load_family(open_["flux"])
        exact = render(stream("benchmark"), range(SIZES.drawings))
        tripped = round_trip(parts.autoencoder(), exact.images)
        asked = prompts("evaluation", SIZES.images_per_category * len(CATEGORIES))
        drawn = draw(family, asked, judge)
        sheets(exact, tripped, drawn)
        figures = [
            vae_psnr(exact, tripped),
            *oracle_figures("judge", judge, exact, tripped),
            *oracle_figures("teacher", teacher, exact, tripped),
            *judge_on_generated(judge, drawn),
            *frequencies(drawn),
            *inherited(family, judge),
            *attribute_figures(reader, drawn, exact, tripped),
            *doctor_figures(doctor, tripped, exact),
            shipped_point(doctor),
            *stable_diffusion_figures(
                open_["stable_diffusion"], asked[: SIZES.drawings // 10], judge, reader
            ),
            sampling_time(family),
            treating_time(family, doctor),
            total_size(),
        ]
    write("clinic", figures, seeds=[FIRST_SEED])


def draw(
    family: GeneratorFamily, asked: list[Prompt], judge: Oracle, settings: SamplingConfig = SETTINGS
) -> Generated:
    """One image for each prompt, with its own seed, with the judge's predictions."""
    seeds = range(FIRST_SEED, FIRST_SEED + len(asked))
    images = generate(family, [prompt.text for prompt in asked], list(seeds), settings)
    return Generated(images, asked, look(judge, as_batch(images)))


def sheets(exact: Drawings, tripped: Tensor, drawn: Generated) -> None:
    """The data sheet's images: the world, its artifacts, round trips, and images with the judge's maps."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    clean, flawed = (stream("benchmark", flawed=rate) for rate in (0.0, 1.0))
    shown = [i for category in CATEGORIES for i in of_category(clean, category, 10)]
    spoilt = [flawed[i] for i in shown]
    pairs = [image for i in range(30) for image in (exact.images[i], tripped[i])]
    rows = [i for category in CATEGORIES for i in np.flatnonzero(drawn.among([category]))[:10]]
    made = {
        "world": contact_sheet([clean[i].image for i in shown], columns=10),
        "flaws": contact_sheet([d.image for d in spoilt], [d.label_map > 0 for d in spoilt], columns=10),
        "round-trips": contact_sheet([image.permute(1, 2, 0).numpy() for image in pairs], columns=10),
        "generated": contact_sheet(drawn.images[rows], drawn.confidence[rows].numpy(), columns=10),
    }
    for name, sheet in made.items():
        sheet.save(RESULTS / f"clinic-{name}.jpg", quality=88)


def of_category(drawings: Stream, category: str, count: int) -> list[int]:
    """The first indices of a stream that show the category."""
    return list(islice((i for i in itertools.count() if drawings.scene(i).category == category), count))


def as_batch(images: np.ndarray) -> Tensor:
    """uint8 NHWC to uint8 NCHW."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


@torch.no_grad()
def look(oracle: Oracle, images: Tensor) -> Tensor:
    """Confidence float32 NHW on uint8 NCHW images."""
    return torch.cat([oracle.confidence(chunk.float() / 255) for chunk in images.split(100)])


def flagged(confidence: Tensor) -> np.ndarray:
    """Images whose highest confidence reaches 0.5."""
    return (confidence.flatten(1).amax(1) >= 0.5).numpy()


def vae_psnr(exact: Drawings, tripped: Tensor) -> Figure:
    error = ((exact.images.float() - tripped.float()) / 255).pow(2).mean((1, 2, 3))
    return mean(
        "vae_psnr_db", (-10 * error.log10()).numpy(), "dB", "round trip of unseen drawings; goal ≥ 32"
    )


def oracle_figures(name: str, oracle: Oracle, exact: Drawings, tripped: Tensor) -> list[Figure]:
    """Pixel overlap and image-level verdicts on exact truth, on original and round-tripped images."""
    goal = {"judge": "goal ≥ 0.65", "teacher": "goal ≥ 0.6"}[name]
    broken = exact.masks.flatten(1).any(1).numpy()
    plain, after = look(oracle, exact.images), look(oracle, tripped)
    seen, n = flagged(after), len(broken)
    alarms = share(
        f"{name}_fpr_roundtrip", int(seen[~broken].sum()), int((~broken).sum()), "goal ≤ 0.05 (judge)"
    )
    return [
        overlap(f"{name}_iou", plain, exact.masks, f"pixels, drawings; {goal}"),
        overlap(f"{name}_iou_roundtrip", after, exact.masks, "pixels, round-tripped drawings"),
        alarms,
        share(
            f"{name}_recall_roundtrip", int(seen[broken].sum()), int(broken.sum()), "flawed images flagged"
        ),
        share(
            f"{name}_precision_roundtrip",
            int((seen & broken).sum()),
            int(seen.sum()),
            f"of flags; {n} images",
        ),
    ]


def overlap(id: str, confidence: Tensor, truth: Tensor, note: str) -> Figure:
    """Intersection over union of all pixels together, bootstrapped over images."""
    said = confidence >= 0.5
    pairs = torch.stack([(said & truth).sum((1, 2)), (said | truth).sum((1, 2))], 1).numpy()
    ratio: Callable[[np.ndarray], float] = lambda rows: rows[:, 0].sum() / max(1, rows[:, 1].sum())  # noqa: E731
    return figure(id, ratio(pairs), bootstrap(pairs, ratio), "IoU", len(pairs), note)


def judge_on_generated(judge: Oracle, drawn: Generated) -> list[Figure]:
    """Artifacts rendered into generated images that the judge finds clean, and images that are ruined
    entirely."""
    clean = drawn.images[~drawn.flawed]
    rng = np.random.default_rng(5)
    spoilt, truth = zip(*(defaced(image, rng) for image in clean), strict=True)
    found = look(judge, as_batch(np.stack(spoilt)))
    blurred = np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(2.5))) for i in clean])
    collapsed = np.stack([striped(image, rng) for image in clean])
    flags = {"blurred": look(judge, as_batch(blurred)), "collapsed": look(judge, as_batch(collapsed))}
    hits = flagged(found)
    return [
        overlap(
            "judge_iou_generated",
            found,
            torch.from_numpy(np.stack(truth)),
            "artifacts drawn into generated images",
        ),
        share("judge_recall_generated", int(hits.sum()), len(hits), "artifacts drawn into generated images"),
        *(
            share(
                f"judge_recall_{kind}",
                int(flagged(seen).sum()),
                len(clean),
                f"generated images, {kind} as a whole",
            )
            for kind, seen in flags.items()
        ),
    ]


def defaced(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A generated image with one pixel artifact near its middle, and the exact mask of what changed."""
    large = Image.fromarray(image).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    kind = PIXEL_KINDS[int(rng.integers(len(PIXEL_KINDS)))]
    x, y, radius = rng.uniform((0.35, 0.35, 0.13), (0.65, 0.65, 0.17)) * CANVAS
    spot = Spot(float(x), float(y), float(radius))
    before, after = shrink(large), shrink(add_artifact(large, kind, [spot], rng))
    return after, changed_pixels(before, after, fill=kind != "mark")


def striped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images of a collapsed generator: stripes in two of the image's colours."""
    first, second = image.reshape(-1, 3)[rng.integers(0, SIZE * SIZE, 2)]
    rows = (np.arange(SIZE) // int(rng.integers(2, 6))) % 2 == 0
    return np.broadcast_to(np.where(rows[:, None, None], first, second), image.shape).astype(np.uint8)


def frequencies(drawn: Generated) -> list[Figure]:
    """The judge's artifact frequency, by kind of category and by category."""
    goals = {"easy": (EASY, "goal ≤ 0.15"), "hard": (HARD, "goal 0.3 to 0.7")}
    groups = {f"{kind}_frequency": which for kind, which in goals.items()}
    groups |= {f"frequency_{category}": ((category,), "") for category in CATEGORIES}
    rows = {id: (drawn.flawed[drawn.among(categories)], note) for id, (categories, note) in groups.items()}
    return [share(id, int(hit.sum()), len(hit), note) for id, (hit, note) in rows.items()]


def inherited(family: GeneratorFamily, judge: Oracle) -> list[Figure]:
    """How much more often the generator's hard images are flawed than those of its clean twin, paired."""
    if not TWIN.is_dir():
        return [
            figure("inherited", "not measured", note="no build/clinic/twin; `clinic build-clinic` makes it")
        ]
    asked = prompts("benchmark", SIZES.pairs, HARD)
    own, clean = (draw(one, asked, judge).flawed.astype(float) for one in (family, load_family(TWIN)))
    note = "hard categories, same prompts and noise; goal > 0, clear of 0"
    return [
        mean("inherited", own - clean, "share", note),
        mean("inherited_generator", own, "share", "the generator's part of the pairs"),
        mean("inherited_twin", clean, "share", "the clean twin's part of the pairs"),
    ]


def attribute_figures(reader: Reader, drawn: Generated, exact: Drawings, tripped: Tensor) -> list[Figure]:
    """Whether generated images show the prompted category and colour, and the readers on exact truth."""
    right = asked_for(reader, drawn)
    shown = np.asarray([d.category for d in exact.shown])
    read = np.asarray([category for category, _ in reader.categories(as_arrays(tripped))])
    clean = np.asarray([not d.flaws for d in exact.shown])
    plausible = reader.plausibility(as_arrays(tripped))
    return [
        share(
            "attribute_accuracy", int(right.sum()), len(right), "category and main colour, FLUX; goal ≥ 0.9"
        ),
        share("reader_category_accuracy", int((read == shown).sum()), len(shown), "round-tripped drawings"),
        figure(
            "plausibility_auc",
            auc(plausible[clean], plausible[~clean]),
            n=len(clean),
            note="clean over flawed",
        ),
    ]


def as_arrays(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def asked_for(reader: Reader, drawn: Generated) -> np.ndarray:
    """Whether each image shows its prompt's category and main colour (the skin of hands and faces)."""
    seen = {q: [v for v, _ in reader.answers(drawn.images, q)] for q in ("category", "colour", "skin")}
    return np.asarray([
        seen["category"][i] == p.category
        and all(seen[q][i] == p.attributes[q] for q in ("colour", "skin") if q in p.attributes)
        for i, p in enumerate(drawn.asked)
    ])  # fmt: skip


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Share of pairs that are in the right order."""
    return float(
        (positive[:, None] > negative[None]).mean() + 0.5 * (positive[:, None] == negative[None]).mean()
    )


def doctor_figures(doctor: Oracle, tripped: Tensor, exact: Drawings) -> list[Figure]:
    """False alarms of the first detector on correct images, and its recall."""
    seen, clean = flagged(look(doctor, tripped)), np.asarray([not d.flaws for d in exact.shown])
    suspect = np.asarray([d.category in {"hand", "face"} for d in exact.shown])
    cases = {
        "first_doctor_false_alarm": (
            clean & suspect,
            "correct hands and faces, round-tripped; goal 0.3 to 0.6",
        ),
        "first_doctor_false_alarm_others": (clean & ~suspect, "correct images of other categories"),
        "first_doctor_recall": (~clean & suspect, "flawed hands and faces"),
        "first_doctor_recall_others": (~clean & ~suspect, "flawed images of other categories"),
    }
    return [share(id, int(seen[rows].sum()), int(rows.sum()), note) for id, (rows, note) in cases.items()]


def shipped_point(doctor: NetworkDetector) -> Figure:
    """The first detector's operating point, chosen anew, which a demo does not spend time on."""
    found = choose_first_point(doctor)
    same = abs(found.flagged - FIRST_POINT.flagged) < 1e-3 and found.component == FIRST_POINT.component
    shipped = "as shipped" if same else f"{FIRST_POINT.flagged:.3f} is shipped"
    note = f"0.9 recall on validation images; {shipped}"
    return figure(
        "first_doctor_flags_from", found.flagged, found.interval, n=found.flawed + found.clean, note=note
    )


def stable_diffusion_figures(
    folder: Path, asked: list[Prompt], judge: Oracle, reader: Reader
) -> list[Figure]:
    """The second family, in brief."""
    drawn = draw(load_family(folder), asked, judge, SETTINGS.model_copy(update={"steps": 20}))
    right = asked_for(reader, drawn)
    note = "tiny Stable Diffusion, 20 steps"
    easy, hard = (drawn.flawed[drawn.among(kind)] for kind in (EASY, HARD))
    return [
        share("sd_attribute_accuracy", int(right.sum()), len(right), note),
        share("sd_easy_frequency", int(easy.sum()), len(easy), note),
        share("sd_hard_frequency", int(hard.sum()), len(hard), note),
    ]


def sampling_time(family: GeneratorFamily) -> Figure:
    texts = [prompt.text for prompt in prompts("evaluation", 16)]
    spent = timed(lambda: generate(family, texts, list(range(16)), SETTINGS))
    return time_figure("sample_16_s", spent, f"5 steps, {torch.get_num_threads()} threads; goal ≤ 4")


def treating_time(family: GeneratorFamily, doctor: Oracle) -> Figure:
    """One update of a LoRA: eight images, the gradient through the last step and the VAE."""
    family.adapter.add(LoraSettings(), seed=0)
    optimiser = torch.optim.AdamW(family.adapter.parameters().values(), lr=1e-4)
    with torch.no_grad():
        conditioning = family.encode_prompts([prompt.text for prompt in prompts("treatment", 8)])

    def update() -> None:
        noise = family.initial_latents(list(range(8)), family.size)
        clean = sample(family, conditioning, noise, SETTINGS, grad_last=1)
        optimiser.zero_grad()
        doctor.confidence(family.decode(clean)).mean().backward()
        optimiser.step()

    return time_figure(
        "treat_step_s", timed(update), f"batch 8, {torch.get_num_threads()} threads; goal ≤ 1.5"
    )


def timed(action: Callable[[], object]) -> np.ndarray:
    """Seconds of each call, after one that does not count."""
    action()
    spent = []
    for _ in range(SIZES.timings):
        began = time.perf_counter()
        action()
        spent.append(time.perf_counter() - began)
    return np.asarray(spent)


def time_figure(id: str, spent: np.ndarray, note: str) -> Figure:
    middle: Callable[[np.ndarray], float] = lambda rows: float(np.median(rows))  # noqa: E731
    return figure(id, middle(spent), bootstrap(spent, middle), "s", len(spent), note)


def total_size() -> Figure:
    files = list(parts.SHIPPED.glob("*.safetensors"))
    return figure(
        "total_mb", sum(f.stat().st_size for f in files) / MEGABYTE, unit="MB", n=len(files), note="goal ≤ 32"
    )


if __name__ == "__main__":
    main()
