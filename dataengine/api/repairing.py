"""Repair of one image."""

from collections.abc import Sequence

from dataengine.api.detector import Detector
from dataengine.api.generator import Generator
from dataengine.api.inputs import Image, Pixels, named_images
from dataengine.api.progress import progress_bar
from dataengine.errors import InputRefused
from dataengine.masks import Confidence
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.repair.repair import Judge, Repair


def repair(
    image: Image,
    detector: Detector,
    generator: Generator,
    prompt: str = "",
    *,
    chooser: Detector | None = None,
    config: RepairConfig | None = None,
    sampling: SamplingConfig | None = None,
    progress: bool = False,
) -> Repair:
    """Redraw the artifacts of one image, and take a result only if it is better.

    Returns `pixels`, uint8 HW3 (the original where nothing could be improved), `changed`, and one of
    `outcomes` for each region. The `chooser`, a second detector, is advised: a detector that judges its own
    repairs likes what it cannot see. Raises `InputRefused` when artifacts cover too much of the image, or it
    is too small for the generator, `ImageRefused` for a file that cannot be decoded.
    """
    from dataengine.treatment.repair.canvas import canvas_of
    from dataengine.treatment.repair.repair import repair_image

    settings, steps = config or RepairConfig(), sampling or SamplingConfig()
    given = named_images(image)
    if len(given) != 1:
        raise InputRefused(f"expected one image, got {len(given)}; call repair for each")
    with progress_bar(progress) as report:
        canvas = canvas_of(generator.family, prompt, steps, settings, report)
        judges = [None if each is None else _judge(each, steps.batch) for each in (detector, chooser)]
        assert judges[0]
        return repair_image(given[0].pixels(), judges[0], judges[1], canvas, settings)


def _judge(detector: Detector, batch: int) -> Judge:
    def predict(images: Sequence[Pixels]) -> Sequence[Confidence]:
        return detector.maps(images, batch)

    return Judge(predict=predict, point=detector.operating_point)
