"""What tests of repairs share: a workspace with two detectors of redness and a generator of squares."""

from pathlib import Path
from typing import Any

import numpy as np

from dataengine.images import encode_png
from dataengine.records import DetectorVersion, GeneratorVersion, Image, OperatingPoint
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.repair.config import RepairConfig
from pipelines.runtime.context import Context
from pipelines.selections.config import RepairRun
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.fakes import TinyDetector, TinyGenerator, fake_models, with_methods

SIDE = 64
GREY = (120, 120, 120)
RUN = RepairRun(
    generator="squares",
    repair=RepairConfig(draws=2, repeats=1),
    sampling=SamplingConfig(steps=2),
)


class GreyPainter(TinyGenerator):
    """Draws a nearly grey picture, a little different for each seed."""

    def decode(self, latents: Any) -> Any:
        return 0.47 + 0.02 * latents.tanh()


def models() -> Any:
    """The fakes with a generator that draws no redness."""
    return with_methods(fake_models(), open_generator=lambda location, lora, weights: GreyPainter())


def scene(seed: int = 0, spots: int = 1, side: int = 10) -> np.ndarray:
    """A noisy grey picture with red squares, uint8 HW3."""
    rng = np.random.default_rng(seed)
    pixels = (np.array(GREY) + rng.normal(0, 6, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
    for spot in range(spots):
        top, left = 8 + 28 * (spot // 2), 8 + 28 * (spot % 2)
        pixels[top : top + side, left : left + side] = (250, 5, 5)
    return pixels


def add_detector(workspace: Workspace, name: str, threshold: float, role: str = "candidate") -> str:
    """A detector of redness from that threshold."""
    folder = TinyDetector(threshold, name).save(workspace.path / "models" / name)
    version = DetectorVersion(
        id=name,
        name=name,
        checkpoint=workspace.checkpoints.publish(folder),
        role=role,  # type: ignore[arg-type]
        operating_point=OperatingPoint(flagged=0.6, component=0.4, rule="test"),
    )
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    return name


def make_context(folder: Path) -> Context:
    """A workspace whose champion is `first`; the teacher of other weights chooses."""
    workspace = create_workspace(folder)
    add_detector(workspace, "first", 0.5)
    add_detector(workspace, "other", 0.45, role="teacher")
    with workspace.catalog() as catalog:
        catalog.detectors.promote("first", "test", "the first")
        catalog.generators.add(GeneratorVersion(id="squares", name="squares", location="squares"))
        catalog.commit()
    return Context(workspace, models())


def reopened(folder: Path) -> Context:
    """The same workspace in another process."""
    return Context(open_workspace(folder), models())


def add_image(workspace: Workspace, pixels: np.ndarray, number: int, **values: object) -> Image:
    """A picture in the catalog."""
    sha256 = workspace.blobs.put(encode_png(pixels))
    image = Image(
        id=f"image{number}",
        sha256=sha256,
        height=pixels.shape[0],
        width=pixels.shape[1],
        **({"prompt": f"number {number}", "group": f"group{number}", "category": "hand"} | values),  # type: ignore[arg-type]
    )
    with workspace.catalog() as catalog:
        catalog.images.add_many([image])
        catalog.commit()
    return image
