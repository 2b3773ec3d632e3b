"""The artifact detector as a Python object."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from dataengine.api.inputs import Images, Named, Pixels, named_images
from dataengine.api.models import CLINIC_DETECTOR, DIFFDOCTOR, materialised, point_of
from dataengine.bounds import LARGE_PIXELS
from dataengine.devices import default_device
from dataengine.diagnosis.detector import NetworkDetector, artifact_maps, load_detector, save_detector
from dataengine.diagnosis.point_files import write_point
from dataengine.errors import ConfigRefused, ImageRefused, ModelRefused
from dataengine.masks import Confidence
from dataengine.records import OperatingPoint


class Detector:
    """An artifact detector: one confidence in [0, 1] for every pixel of an image."""

    network: NetworkDetector
    """The frozen network; `network.confidence` is differentiable, float N3HW in [0, 1] to float NHW."""
    operating_point: OperatingPoint
    """The confidences from which it flags an image and a component; 0.5 where none was chosen."""
    metrics: dict[str, Any]
    """What its training measured on the validation images; empty for a loaded one."""

    def __init__(
        self,
        network: NetworkDetector,
        operating_point: OperatingPoint | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.operating_point = operating_point or OperatingPoint()
        self.metrics = metrics or {}

    @classmethod
    def load(cls, location: str | Path = CLINIC_DETECTOR, *, device: str | None = None) -> Self:
        """Load a detector's folder, a file of weights (DiffDoctor's checkpoint, any SegFormer with one
        output), or "clinic", the small one that is shipped for trying things out.

        `device` is "cpu", "cuda:0", "mps" …; by default the first NVIDIA GPU, else the CPU. Raises
        `ModelRefused` when files are missing, do not fit, or could run code.
        """
        device = device or default_device()
        if str(location) == CLINIC_DETECTOR and not Path(location).exists():
            with materialised("first_doctor") as folder:
                return cls(load_detector(folder, device), point_of(folder))
        if str(location) == DIFFDOCTOR and not Path(location).exists():
            raise ConfigRefused(
                "the detector of DiffDoctor's authors is not shipped: download its checkpoint from the page "
                "that their repository names, and load that file"
            )
        path = Path(location).expanduser()
        if not path.exists():
            raise ModelRefused(
                f"there is no detector {str(location)!r}: expected {CLINIC_DETECTOR!r}, a detector's folder, "
                "or a file of weights"
            )
        return cls(load_detector(path, device), point_of(path))

    @property
    def name(self) -> str:
        """Display name."""
        return self.network.name

    def predict(self, images: Images, *, batch: int = 16) -> list[Confidence]:
        """The artifact maps, float32 HW in [0, 1], of images at their own sizes, in their order.

        Raises `ImageRefused`, naming the image, for one that cannot be decoded; `diagnose` goes on.
        """
        maps: list[Confidence] = []
        for chunk in chunks(named_images(images), batch):
            if isinstance(chunk[0][1], ImageRefused):
                named, error = chunk[0]
                raise ImageRefused(f"image {named.name}: {error}")
            maps += self.maps([pixels for _, pixels in chunk if not isinstance(pixels, ImageRefused)], batch)
        return maps

    def maps(self, images: Sequence[Pixels], batch: int = 16) -> list[Confidence]:
        """The maps of decoded images, uint8 HW3, all of them in memory at once."""
        return artifact_maps(self.network, images, batch)

    def save(self, folder: str | Path) -> Path:
        """Write a detector's folder, which `clinic detectors --add` registers, and return its path.

        Raises `ConfigRefused` for a folder that holds something already.
        """
        folder = new_folder(folder)
        save_detector(self.network, folder)
        write_point(folder, self.operating_point)
        return folder

    def __repr__(self) -> str:
        return f"Detector({self.name!r}, flags from {self.operating_point.flagged:.3g})"


Decoded = tuple[Named, "Pixels | ImageRefused"]


def chunks(images: Sequence[Named], batch: int) -> Iterator[list[Decoded]]:
    """Decode images in their order, at most `batch` and about `LARGE_PIXELS` of them at a time. One that is
    refused comes alone, with the reason."""
    if batch < 1:
        raise ConfigRefused(f"batch must be at least 1, was {batch}")
    chunk: list[Decoded] = []
    held = 0
    for named in images:
        try:
            pixels = named.pixels()
        except ImageRefused as error:
            if chunk:
                yield chunk
            yield [(named, error)]
            chunk, held = [], 0
            continue
        size = pixels.shape[0] * pixels.shape[1]
        if chunk and (len(chunk) == batch or held + size > LARGE_PIXELS):
            yield chunk
            chunk, held = [], 0
        chunk.append((named, pixels))
        held += size
    if chunk:
        yield chunk


def new_folder(folder: str | Path) -> Path:
    """The path of a folder to write. Raises `ConfigRefused` if it holds something already."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigRefused(f"{path} holds something already; nothing was overwritten. Name a new folder")
    return path
