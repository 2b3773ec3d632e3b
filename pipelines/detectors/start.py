"""What a training outside a round starts from: a registered detector, an encoder's weights, or neither."""

from dataclasses import dataclass
from pathlib import Path

from dataengine.diagnosis.encoders import IMAGENET, MIT_NAMES, RANDOM
from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import DetectorVersion
from pipelines.config import TrainingRun
from storage.catalog import Catalog

CHOICES = (
    f"a registered detector by id or name, {IMAGENET!r}, {MIT_NAMES[0]!r} to {MIT_NAMES[-1]!r} "
    f"(non-commercial), a file of encoder weights, a folder that transformers saved, or {RANDOM!r}"
)


@dataclass(frozen=True, kw_only=True)
class TrainingStart:
    """The initial weights of a training."""

    detector: DetectorVersion | None = None
    """All weights are this detector's; None for an untrained decode head."""
    encoder_weights: str = ""
    """Without a detector: the encoder's weights, as `dataengine.diagnosis.encoders.read_encoder` names them;
    "" for random ones."""

    def fixed_in(self, plan: TrainingRun) -> TrainingRun:
        """The plan with this start, whatever happens to files, names and champion before it runs."""
        training = plan.training.model_copy(update={"encoder_weights": self.encoder_weights})
        start = self.detector.id if self.detector else self.encoder_weights or RANDOM
        return plan.model_copy(update={"start": start, "training": training})


def choose_start(catalog: Catalog, plan: TrainingRun) -> TrainingStart:
    """What the plan names; else the encoder weights in its settings, else the champion.

    Raises `ConfigRefused` when it names nothing and there is no champion, two different starts, or a name
    that several detectors have, and `NotFound` for what is neither a detector nor weights.
    """
    named, encoder = plan.start or plan.training.encoder_weights, plan.training.encoder_weights
    if encoder and named != encoder:
        raise ConfigRefused(
            f"the training starts from {named!r} and its setting encoder_weights says {encoder!r}; leave one "
            "of them out"
        )
    if not named:
        champion = catalog.detectors.champion()
        if champion is None:
            raise ConfigRefused(f"there is no detector to start from; choose a start: {CHOICES}")
        return TrainingStart(detector=champion)
    if named == RANDOM:
        return TrainingStart()
    if named == IMAGENET or named in MIT_NAMES:
        return TrainingStart(encoder_weights=named)
    if found := _detector(catalog, named):
        return TrainingStart(detector=found)
    if not Path(named).exists():
        raise NotFound(f"there is neither a detector nor a file {named!r} to start from; choose {CHOICES}")
    return TrainingStart(encoder_weights=str(Path(named).resolve()))


def _detector(catalog: Catalog, named: str) -> DetectorVersion | None:
    """The detector of that id, or the only one on the lists of that name."""
    versions = catalog.detectors.list()
    if by_id := [one for one in versions if one.id == named]:
        return by_id[0]
    by_name = [one for one in versions if one.name == named and one.removed is None]
    if len(by_name) > 1:
        ids = ", ".join(one.id for one in by_name)
        raise ConfigRefused(f"several detectors are named {named!r}; give an id: {ids}")
    return by_name[0] if by_name else None
