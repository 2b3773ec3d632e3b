"""Flaw activation maps and self-refining training, for `bench-trainingfree`; what is trained is kept."""

import json

import numpy as np
import torch

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import HighlighterConfig
from dataengine.diagnosis.flaw_activation import FlawHighlighter, train_highlighter
from dataengine.quality.distances import features
from dataengine.treatment.config import RefiningConfig, SamplingConfig
from dataengine.treatment.refining import refine
from dataengine.treatment.sampling import as_tensor, as_uint8, generate
from dataengine.treatment.unconditional import UnconditionalFamily
from tests.bench.harness import Figure, bootstrap, device, figure, quick
from tests.bench.steered import SIZES, WORK, Drawn, kids
from tests.bench.treated import FLAWED, Ward

HOT = 0.5
SIDE = 32
STEPS = 4 if quick() else 8000
BATCH = 2 if quick() else 64
ROWS = {
    "base": {"refinement": 0.0},
    "forward": {"reverse": 0.0},
    "reverse": {"forward": 0.0},
    "both": {},
}


def highlighter(ward: Ward, none: Drawn) -> tuple[FlawHighlighter, float]:
    """Trained from random weights on clean drawings and on what FLUX draws; the last images stay unseen."""
    folder = WORK / "highlighter"
    if not folder.is_dir():
        count = 16 if quick() else 300
        real = render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy()
        config = HighlighterConfig(lr=1e-4, batch=32, epochs=1 if quick() else 4)
        network, right = train_highlighter(config, real, none.images[:count], device=device())
        part = WORK / ".highlighter.part"
        network.save(part)
        (part / "accuracy.json").write_text(json.dumps(right))
        part.rename(folder)
    return FlawHighlighter.load(folder, device()), json.loads((folder / "accuracy.json").read_text())


def fam_figures(ward: Ward, none: Drawn) -> list[Figure]:
    """Do the hot spots of flawed images lie in what the judge marks?"""
    network, right = highlighter(ward, none)
    rows = np.flatnonzero(none.flawed)[-SIZES.kind :]
    if not len(rows):
        return [figure("fam_inside_share", "not measured", note="no flawed image was drawn")]
    parts = as_tensor(none.images[rows]).to(device()).split(16)
    hot = torch.cat([network.activation_maps(part) for part in parts]).cpu().numpy() >= HOT
    inside = none.judged[rows] >= round(255 * FLAWED)
    value = (hot & inside).sum() / max(hot.sum(), 1)
    pairs = np.stack([(hot & inside).sum((1, 2)), hot.sum((1, 2))], 1).astype(float)
    spread = bootstrap(pairs, lambda drawn: float(drawn[:, 0].sum() / max(drawn[:, 1].sum(), 1)))
    note = (
        f"chance {inside.mean():.3f}; the highlighter, from random weights, tells {right:.2f} of held-out "
        "images apart; paper 0.87, by people"
    )
    return [figure("fam_inside_share", float(value), spread, "share", len(rows), note)]


def self_refining(ward: Ward) -> list[Figure]:
    """KID of every row against base at equal updates, on drawings of 32 × 32 pixels."""
    count = SIZES.kid
    images = halved(render(stream("generator"), range(16 if quick() else 6000)).images)
    real = features(halved(render(stream("photos"), range(count)).images), ward.features)
    vectors = {
        name: features(_drawn(name, change, images, count), ward.features) for name, change in ROWS.items()
    }
    found = {name: kids(real, each) for name, each in vectors.items()}
    base = found["base"]
    figures = []
    for name in ("forward", "reverse", "both"):
        pairs = np.stack([found[name], base], 1)
        gain = bootstrap(pairs, lambda drawn: float(1 - drawn[:, 0].mean() / max(drawn[:, 1].mean(), 1e-9)))
        id = "self_refining_gain" if name == "both" else f"self_refining_gain_{name}"
        note = f"base's KID {base.mean():.4f}, {STEPS} updates of {BATCH}; goal ≥ 0.05 for both"
        figures.append(
            figure(id, float(1 - found[name].mean() / max(base.mean(), 1e-9)), gain, "share", count, note)
        )
    return figures


def halved(images: torch.Tensor) -> np.ndarray:
    """Drawings uint8 N3HW at half their size, uint8 NHW3."""
    return as_uint8(torch.nn.functional.avg_pool2d(images.float() / 255, 2))


def _drawn(name: str, change: dict[str, float], images: np.ndarray, count: int) -> np.ndarray:
    """Images of a row's finished model, uint8 NHW3; kept."""
    file = WORK / "refined" / f"{name}.npz"
    if not file.is_file():
        config = RefiningConfig(
            steps=STEPS,
            batch=BATCH,
            lr=2e-4,
            ema=0.999,
            highlighted=12 if quick() else 300,
            highlighter=HighlighterConfig(lr=1e-4, batch=32, epochs=1 if quick() else 6),
        )
        family = ddpm(SIDE).to(device())
        refine(config.model_copy(update=change), family, images, WORK / "refined" / name)
        drawn = generate(family, [""] * count, range(count), SamplingConfig(steps=25, batch=50))
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, images=drawn)
        part.replace(file)
    with np.load(file, allow_pickle=False) as kept:
        return kept["images"]


def ddpm(side: int) -> UnconditionalFamily:
    """A DDPM of 1.5 million random weights."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=side,
            block_out_channels=(32, 64, 96),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=16,
        )
    return UnconditionalFamily(DDPMPipeline(unet=unet, scheduler=DDPMScheduler()))
