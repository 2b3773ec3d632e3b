"""Pre-trained encoders: weights of an image classifier or segmenter as the start of a detector.

SegFormer's authors call pre-training essential below some thousands of images (Xie et al. 2021). The weights
come from a file or from the library that the encoder belongs to; heads are dropped, and keys are matched by
name and shape. Importing this module loads no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.config import MIT, NVIDIA_LICENCE, DetectorConfig, DetectorTrainingConfig
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.licences import UNSTATED, forbidden_by

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataengine.diagnosis.detector import NetworkDetector

IMAGENET = "imagenet"
"""Name of the weights that the encoder's own library publishes for it."""
MIT_NAMES = tuple(f"nvidia/mit-b{size}" for size in range(6))
OF_NVIDIA = re.compile(r"(^|-)nvidia[/-]|(^|[-_/])mit[-_]b[0-5]($|[-_.])", re.IGNORECASE)
"""Names under which NVIDIA's weights lie on disks and in the hub's cache."""
LEAST_MATCH = 0.9
PRIOR = 0.05
"""Confidence of an untrained detector everywhere: few pixels are flawed (Lin et al. 2017, Sec. 4.1)."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
PREFIXES = (
    "",
    "module.",
    "model.",
    "encoder.",
    "backbone.",
    "model.encoder.",
    "module.encoder.",
    "segformer.",
    "segformer.encoder.",
)
"""What other tools write before an encoder's own names."""

TORCHVISION = "BSD-3-Clause"
LICENCES: Mapping[str, str] = {
    "resnet": TORCHVISION,
    "vgg": TORCHVISION,
    "densenet": TORCHVISION,
    "mobilenet_v2": TORCHVISION,
    "efficientnet": "Apache-2.0",
    "timm-": "Apache-2.0",
    "mit_": NVIDIA_LICENCE,
}
"""Licences of segmentation-models-pytorch's own weights, by how the encoder's name begins."""


RANDOM = "random"
"""Name of the start without any weights."""


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """Weights for an encoder, by key, with their source and licence."""

    state: Mapping[str, Tensor]
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """How the weights fitted: tensors of the encoder, and the names of those that got none."""

    total: int
    unmatched: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the encoder's tensors that were matched, in [0, 1]."""
        return 1 - len(self.unmatched) / self.total if self.total else 0.0


def untrained_detector(config: DetectorTrainingConfig) -> NetworkDetector:
    """A detector with random weights, or with the configured encoder weights under a random decode head.

    Raises `ModelRefused` and `ConfigRefused` as `read_encoder` and `load_encoder` do.
    """
    from dataengine.diagnosis.detector import NetworkDetector

    detector = NetworkDetector.fresh(config.detector, config.seed)
    set_prior(detector.network, config.detector)
    if not config.encoder_weights:
        return detector
    weights = read_encoder(config.encoder_weights, config.detector)
    network, match = load_encoder(detector.network, config.detector, weights)
    if match.unmatched:
        print(f"{weights.source} has no weights for {', '.join(match.unmatched)}; they start at random")
    # An architecture under a licence of its own, such as NVIDIA's encoders, keeps it beside free weights.
    licence = config.detector.licence if forbidden_by(config.detector.licence) else weights.licence
    about = {"pretrained": weights.source, "licence": licence}
    return NetworkDetector(config.detector.model_copy(update=about), network)


def set_prior(network: nn.Module, config: DetectorConfig, prior: float = PRIOR) -> None:
    """Set the bias of the network's last layer to the logit of `prior`, so that a training does not begin by
    learning that most pixels are sound."""
    last = tuple(f"{suffix.removesuffix('weight')}bias" for suffix in architecture_of(config).last)
    for name, parameter in network.named_parameters():
        if name.endswith(last):
            parameter.data.fill_(math.log(prior / (1 - prior)))


def read_encoder(name: str, config: DetectorConfig) -> EncoderWeights:
    """Read encoder weights: "imagenet" or "nvidia/mit-b…" from the hub, a file, or a transformers folder.

    Raises `ModelRefused` when there are none or they are no plain tensors, `ConfigRefused` when the encoder's
    library publishes none.
    """
    path = Path(name)
    if name in MIT_NAMES:
        return _read(_from_hub(name, WEIGHT_FILES[1]), name, NVIDIA_LICENCE)
    if name == IMAGENET:
        return _published(config)
    if path.exists():
        return _read(weight_file(path), path.name, _licence_of(path))
    raise ModelRefused(
        f"there are no encoder weights {name!r}; give a file of weights, a folder that transformers saved, "
        f"{IMAGENET!r}, or one of {', '.join(MIT_NAMES)}"
    )


def weight_file(path: Path) -> Path:
    """The file of weights that this path is, or that transformers saved in this folder.

    Raises `ModelRefused` for a folder without one.
    """
    if not path.is_dir():
        return path
    file = next((path / each for each in WEIGHT_FILES if (path / each).is_file()), None)
    if file is None:
        raise ModelRefused(
            f"{path} holds neither {' nor '.join(WEIGHT_FILES)}; expected a folder that transformers saved, "
            "or the file of weights itself"
        )
    return file


def licence_of(name: str, config: DetectorConfig) -> str:
    """The licence of encoder weights, as `read_encoder` names them, without reading them or loading torch.

    "unstated" where nothing states one before the weights are read.
    """
    if name in MIT_NAMES:
        return NVIDIA_LICENCE
    if name == IMAGENET:
        return _licence_by_encoder(config.encoder)
    return _licence_of(Path(name))


def suggested_weights(config: DetectorConfig) -> str:
    """Published weights for this detector's encoder: "imagenet", or "nvidia/mit-b…" of SegFormer's size.

    "" for a SegFormer of a size that nobody published.
    """
    if config.architecture != "segformer":
        return IMAGENET
    sizes = {name: size for name, size in MIT.items() if size.items() <= config.segformer.items()}
    return next((f"nvidia/mit-{name}" for name in sizes), "")


def load_encoder(
    network: nn.Module, config: DetectorConfig, weights: EncoderWeights
) -> tuple[nn.Module, Match]:
    """A network like the given one, whose encoder has the weights, and how they fitted.

    Keys match by name after a common prefix, and by shape. Raises `ModelRefused` when more than a tenth of
    the encoder's tensors find none, and for a deeper encoder, of which only the first blocks would fit.
    """
    architecture = architecture_of(config)
    prefix = architecture.encoder
    # transformers has other names for its modules than for the tensors in its files; weights may bear either.
    named = (architecture.published(network), network.state_dict())
    state, given, beside = max(
        ((state, *_best(_of_encoder(state, prefix), weights.state)) for state in named),
        key=lambda matched: len(matched[1]),
    )
    wanted = _of_encoder(state, prefix)
    fitting = {key: value for key, value in given.items() if value.shape == wanted[key].shape}
    match = Match(total=len(wanted), unmatched=tuple(sorted(wanted.keys() - fitting.keys())))
    if match.share < LEAST_MATCH:
        raise ModelRefused(_misfit(weights, wanted, given, match))
    if further := _further_block(wanted, beside):
        raise ModelRefused(
            f"{weights.source} also has {further}, a block that this encoder does not have, so it is of a "
            "deeper one; choose the encoder that these weights were trained in"
        )
    merged = state | {prefix + key: value.to(wanted[key].dtype) for key, value in fitting.items()}
    return architecture.load(config, merged), match


def _of_encoder(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder's weights in a network's state, without their common prefix."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith("num_batches_tracked")
    }


def _best(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The given tensors under the encoder's names, for the prefixes that match most of them, and the names of
    those under the same prefixes that the encoder does not have."""
    best: dict[str, Tensor] = {}
    beside: frozenset[str] = frozenset()
    for theirs, flat in product(PREFIXES, (False, True)):
        renamed = {
            _flattened(key.removeprefix(theirs)) if flat else key.removeprefix(theirs): value
            for key, value in state.items()
            if key.startswith(theirs)
        }
        for ours in ("", "model.", "encoder."):
            found = {ours + key: value for key, value in renamed.items() if ours + key in wanted}
            if len(found) > len(best):
                best, beside = found, frozenset(ours + key for key in renamed) - wanted.keys()
    return best, beside


def _flattened(key: str) -> str:
    """The name as timm's feature extractors have it, where stages are no list: `stages_0.…` for
    `stages.0.…`."""
    return re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key)


def _further_block(wanted: Iterable[str], beside: Iterable[str]) -> str:
    """The first name of a block that continues one of the encoder's own rows of blocks; "" without one.

    `layer1.2.conv1.weight` continues `layer1.0`, `layer1.1`. A whole stage more is no such block: a decoder
    may want the encoder's first stages only.
    """
    rows = {row for key in wanted if (row := _row_of_blocks(key))}
    return next((key for key in sorted(beside) if _row_of_blocks(key) in rows), "")


def _row_of_blocks(key: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What precedes and what follows the last number among a name's parts; None without a number."""
    parts = key.split(".")
    last = max((index for index, part in enumerate(parts) if part.isdigit()), default=None)
    return None if last is None else (tuple(parts[:last]), tuple(parts[last + 1 :]))


def _misfit(
    weights: EncoderWeights, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], match: Match
) -> str:
    what = (
        f"{weights.source} fits {match.total - len(match.unmatched)} of the encoder's {match.total} tensors"
    )
    odd = [key for key in match.unmatched if key in given]
    if odd:
        shapes = tuple(given[odd[0]].shape), tuple(wanted[odd[0]].shape)
        why = f"{odd[0]} is {shapes[0]} there and {shapes[1]} here, so it is of another size"
    else:
        theirs = ", ".join(sorted({key.split(".")[0] for key in weights.state})[:4])
        why = f"there is no {match.unmatched[0]} among its keys, which begin with {theirs or 'nothing'}"
    return f"{what}: {why}; choose the encoder that these weights were trained in"


def _read(file: Path, source: str, licence: str) -> EncoderWeights:
    from dataengine.state_dicts import read_state

    return EncoderWeights(state=read_state(file), source=source, licence=licence)


def _licence_of(path: Path) -> str:
    """The licence of weights in a file or a transformers folder: NVIDIA's if it is called after them, else
    unstated."""
    names = [path.name, *(part for part in path.parts if part.startswith("models--"))]
    try:
        about: Any = json.loads((path / "config.json").read_text())
        names.append(str(about.get("_name_or_path", "")) if isinstance(about, dict) else "")
    except (OSError, ValueError):
        pass
    return NVIDIA_LICENCE if any(OF_NVIDIA.search(name) for name in names) else UNSTATED


def _published(config: DetectorConfig) -> EncoderWeights:
    """The ImageNet weights that segmentation-models-pytorch or timm publishes for the configured encoder."""
    if config.architecture == "segformer":
        raise ConfigRefused(
            "transformers publishes no weights under a free licence for its SegFormer; name one of "
            f"{', '.join(MIT_NAMES)} (non-commercial), or choose another architecture"
        )
    if config.encoder.startswith("tu-"):
        return _of_timm(config.encoder.removeprefix("tu-"))
    from segmentation_models_pytorch.encoders import encoders

    settings: Any = encoders.get(config.encoder, {}).get("pretrained_settings", {}).get(IMAGENET, {})
    if "repo_id" not in settings:
        raise ConfigRefused(
            f"segmentation-models-pytorch publishes no ImageNet weights for {config.encoder!r}; "
            "give a file of weights"
        )
    file = _from_hub(settings["repo_id"], WEIGHT_FILES[0], settings.get("revision"))
    return _read(file, settings["repo_id"], _licence_by_encoder(config.encoder))


def _licence_by_encoder(encoder: str) -> str:
    return next((licence for start, licence in LICENCES.items() if encoder.startswith(start)), UNSTATED)


def _of_timm(name: str) -> EncoderWeights:
    import timm

    about = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if about is None or not about.hf_hub_id:
        raise ConfigRefused(f"timm publishes no weights for {name!r}; give a file of weights")
    repository = about.hf_hub_id.rstrip("/")
    repository = repository if "." in repository.split("/")[-1] else f"{repository}{about.architecture}"
    file = _from_hub(repository, WEIGHT_FILES[0])
    return _read(file, repository, about.license or UNSTATED)


def _from_hub(repository: str, name: str, revision: str | None = None) -> Path:
    """A file of weights from the hub, or from its cache. Raises `ModelRefused` when it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # those of the connection, of the hub and of its storage share no base class
        raise ModelRefused(
            f"{repository} cannot be fetched from the hub ({type(error).__name__}); "
            "check the connection, or give a file of weights"
        ) from error
