"""The models of a repair: the detector at its operating point, the chooser, and the generator."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ConfigRefused
from dataengine.records import (
    CLINIC,
    CLINIC_GENERATOR,
    DetectorVersion,
    GeneratorVersion,
    OperatingPoint,
    Report,
    describe_point,
    no_report,
)
from pipelines.generators.draw import open_generator
from pipelines.generators.files import reads_prompts
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import champion_version, open_detector
from pipelines.selections.config import RepairRun
from storage.catalog import Catalog

if TYPE_CHECKING:
    from dataengine.masks import Confidence, Mask
    from dataengine.treatment.families.family import GeneratorFamily
    from dataengine.treatment.repair.paste import Pixels
    from dataengine.treatment.repair.repair import Judge, Repair


@dataclass(frozen=True, kw_only=True)
class RepairModels:
    """Which models a repair uses, and what a person must know of this choice."""

    detector: DetectorVersion
    chooser: DetectorVersion | None
    generator: GeneratorVersion
    reads_prompts: bool
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Ids, for the provenance of what is made with them."""
        chooser = self.chooser.id if self.chooser else None
        return {"detector": self.detector.id, "chooser": chooser, "generator": self.generator.id}

    def fingerprint(self) -> str:
        """What decides their results, as text: weights and operating points."""
        judges = [each for each in (self.detector, self.chooser) if each]
        return repr([(each.checkpoint, asdict(_point(each))) for each in judges] + [self.generator.id])


def choose_models(context: Context, run: RepairRun) -> RepairModels:
    """The models that the settings name, or else the champion and another detector to choose.

    Raises `NotFound` for an unknown id, `ConfigRefused` without a generator or a champion.
    """
    if run.generator is None:
        raise ConfigRefused("a repair needs a generator that redraws: name one of `clinic generators`")
    detector_id = run.detector or champion_version(context).id
    with context.workspace.catalog(read_only=True) as catalog:
        detector, generator = catalog.detectors.get(detector_id), catalog.generators.get(run.generator)
        chooser = catalog.detectors.get(run.chooser) if run.chooser else _other_detector(catalog, detector)
    notes = [*_notes_on(detector, generator)]
    if chooser is None:
        notes.append(
            f"there is no other detector of such images, so {detector.name} judges its own repairs and may "
            "like what it cannot see: register another with `clinic detectors --add PATH`"
        )
    elif chooser.checkpoint == detector.checkpoint:
        notes.append(
            f"detector and chooser are the same weights, so {detector.name} judges its own repairs and may "
            "like what it cannot see: name another chooser"
        )
        chooser = None
    elif chooser.operating_point is None:
        notes.append(f"the chooser, {chooser.name}, {describe_point(chooser)['text']}")
    return RepairModels(
        detector=detector,
        chooser=chooser,
        generator=generator,
        reads_prompts=reads_prompts(context.workspace, generator),
        notes=tuple(notes),
    )


def _other_detector(catalog: Catalog, detector: DetectorVersion) -> DetectorVersion | None:
    """A trained detector of such images with other weights: a teacher, else the champion, else the newest."""
    others = [
        each
        for each in catalog.detectors.offered()
        if each.checkpoint != detector.checkpoint
        and each.domain == detector.domain
        and "kind" not in each.config
    ]
    rank = {"teacher": 2, "champion": 1}
    return max(others, key=lambda each: (rank.get(each.role, 0), each.created), default=None)


def _notes_on(detector: DetectorVersion, generator: GeneratorVersion) -> list[str]:
    notes = []
    if detector.operating_point is None:
        notes.append(f"the detector, {detector.name}, {describe_point(detector)['text']}")
    if detector.domain == CLINIC and generator.id != CLINIC_GENERATOR:
        notes.append(
            f"{detector.name} was trained on the embedded clinic's small drawings; on other images its maps "
            "say little"
        )
    return notes


def _point(version: DetectorVersion) -> OperatingPoint:
    return version.operating_point or OperatingPoint()


class Repairer:
    """Opened models that repair one image after another."""

    def __init__(self, context: Context, models: RepairModels, run: RepairRun) -> None:
        """Nothing is opened yet."""
        self._context, self._models, self._run = context, models, run

    def open(self) -> None:
        """Open the models; does nothing the second time. Raises `ModelRefused` and `NotFound`."""
        self._judges, self._family  # noqa: B018 (cached properties)

    @cached_property
    def _judges(self) -> "tuple[Judge, Judge | None]":
        chooser = self._models.chooser
        return self._judge(self._models.detector), self._judge(chooser) if chooser else None

    @cached_property
    def _family(self) -> "GeneratorFamily":
        return open_generator(self._context, self._models.generator)

    def repair(
        self, pixels: "Pixels", prompt: str, report: Report = no_report, among: "Mask | None" = None
    ) -> "Repair":
        """See `dataengine.treatment.repair.repair.repair_image`."""
        from dataengine.treatment.repair.canvas import canvas_of
        from dataengine.treatment.repair.repair import repair_image

        canvas = canvas_of(self._family, prompt, self._run.sampling, self._run.repair, report)
        detector, chooser = self._judges
        return repair_image(pixels, detector, chooser, canvas, self._run.repair, among)

    def _judge(self, version: DetectorVersion) -> "Judge":
        from dataengine.treatment.repair.repair import Judge

        detector = open_detector(self._context, version.id)

        def predict(images: Sequence[np.ndarray]) -> "Sequence[Confidence]":
            return self._context.models.artifact_maps(detector, images, self._run.sampling.batch)

        return Judge(predict=predict, point=_point(version))
