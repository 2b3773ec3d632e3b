"""What a training may start from and by which recipe, with a line of help for each. Torch-free."""

from dataclasses import dataclass

from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.diagnosis.encoders import IMAGENET, RANDOM, licence_of, suggested_weights
from dataengine.licences import UNSTATED, forbidden_by
from dataengine.records import DetectorVersion
from pipelines.config import TrainingRun
from pipelines.services.locations import registered
from pipelines.services.training.presets import RECIPE, training_presets
from storage.workspace import Workspace

ENCODER = "encoder"
"""Kind of the endpoints that hold an encoder's weights."""
SHOWN = 100

HELP = {
    "photo": "For photographs and photo-like images: a small network on an ImageNet encoder; half of the "
    "training images are compressed, as on the web. Needs no detector to start from.",
    "paper": "DiffDoctor at its own scale: SegFormer mit-b5, 40,000 updates at 512 pixels, for a large GPU. "
    "The published weights of its encoder are non-commercial.",
    "demo": "For the embedded clinic's 64-pixel drawings: minutes on two cores.",
    "cpu-smoke": "A few updates, to see that everything works; the detector barely improves.",
    "fakes": "For tests of the product itself.",
}
"""A line of help for each recipe."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One entry of a list, as a desk shows it."""

    value: str
    name: str
    group: str = ""
    help: str = ""
    forbids: str = ""
    """What the licence forbids, such as "commercial use"; "" for nothing that is known."""


def recipe_choices(workspace: Workspace) -> list[Choice]:
    """The presets of a training by name, the likeliest first."""
    champion = "The settings that the champion was trained with."
    return [
        Choice(value=preset, name=name, help=HELP.get(name, champion))
        for preset in training_presets(workspace)
        for name in [preset.removeprefix(RECIPE)]
    ]


def start_choices(workspace: Workspace, plan: TrainingRun) -> list[Choice]:
    """What a training by this plan may start from; other files and folders may be named by a command."""
    with workspace.catalog(read_only=True) as catalog:
        versions = list(reversed(catalog.detectors.offered()))
        champion = catalog.detectors.champion()
    best = [] if champion is None else [_champion(champion)]
    known = [_detector(one) for one in versions[:SHOWN]]
    return best + known + _encoders(workspace, plan.training) + [_random(plan.training)]


def _champion(version: DetectorVersion) -> Choice:
    about = _detector(version)
    return Choice(
        value="",
        name=f"the champion, {version.name}",
        group=about.group,
        help=about.help,
        forbids=about.forbids,
    )


def _detector(version: DetectorVersion) -> Choice:
    return Choice(
        value=version.id,
        name=f"{version.name} · {version.role}",
        group="registered detectors",
        help=f"All weights continue from this detector. Its licence: {version.licence or 'not recorded'}.",
        forbids=forbidden_by(version.licence),
    )


def _encoders(workspace: Workspace, training: DetectorTrainingConfig) -> list[Choice]:
    network = training.detector
    published = suggested_weights(network)
    named = f"ImageNet weights of {network.encoder}" if published == IMAGENET else published
    found = [(published, named)] if published else []
    found += [(one.location, one.name) for one in registered(workspace) if one.kind == ENCODER]
    return [_encoder(value, name, licence_of(value, network)) for value, name in found]


def _encoder(value: str, name: str, licence: str) -> Choice:
    stated = "its licence is stated with the weights" if licence == UNSTATED else f"licence: {licence}"
    return Choice(
        value=value,
        name=name,
        group="pre-trained encoders",
        help=f"The encoder starts from these weights and the decode head from random ones; {stated}.",
        forbids=forbidden_by(licence),
    )


def _random(training: DetectorTrainingConfig) -> Choice:
    return Choice(
        value=RANDOM,
        name="random weights",
        group="without weights",
        help="Everything is learned from the labelled images: only with some thousands of them.",
        forbids=forbidden_by(training.detector.licence),
    )
