"""The networks behind a detector: transformers' SegFormer, and segmentation-models-pytorch by name.

A network maps normalised images N3HW to logits N1hw. Weights travel as plain state dicts in the names that
each library publishes them under; transformers renames its SegFormer modules between versions, so that one
goes through its own loading and saving.

Importing this module loads no torch: the metadata of an architecture is read in processes without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.diagnosis.config import MIT, DetectorConfig, published_config
from dataengine.errors import ConfigRefused, ModelRefused

if TYPE_CHECKING:
    from torch import Tensor, nn

StateDict = Mapping[str, "Tensor"]
WHY = 300
"""Characters of a library's own reason in an error message."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one library builds, runs, loads and saves a network."""

    build: Callable[[DetectorConfig], nn.Module]
    """Fresh random weights."""
    load: Callable[[DetectorConfig, StateDict], nn.Module]
    """Load weights; raises `ModelRefused` when keys or shapes do not fit."""
    logits: Callable[[nn.Module, Tensor], Tensor]
    """Normalised N3HW to N1hw."""
    features: Callable[[nn.Module, Tensor], Tensor]
    """Normalised N3HW to the encoder's deepest features, NChw."""
    published: Callable[[nn.Module], dict[str, Tensor]]
    """The state dict under the library's published names."""
    encoder: str
    """Prefix of the encoder's parameters."""
    head: tuple[str, ...]
    """Prefixes of the parameters trained at the decode head's rate."""
    first: tuple[str, ...]
    """Suffix of the name of the first layer's weight, of shape (_, channels, _, _)."""
    last: tuple[str, ...]
    """Suffix of the name of the last layer's weight, of shape (channels, _, _, _)."""


def architecture_of(config: DetectorConfig) -> Architecture:
    """The library that implements `config.architecture`."""
    return architecture_named(config.architecture)


def architecture_named(name: str) -> Architecture:
    """The library that implements an architecture of that name."""
    return SEGFORMER if name == "segformer" else SMP


def _width_of_stage(state: StateDict, stage: int) -> int | None:
    weight = state.get(f"segformer.encoder.patch_embeddings.{stage}.proj.weight")
    if weight is None:
        weight = state.get(f"segformer.stages.{stage}.patch_embeddings.proj.weight")
    return None if weight is None else len(weight)


def _depth_of_stage(state: StateDict, stage: int) -> int:
    prefixes = f"segformer.encoder.block.{stage}.", f"segformer.stages.{stage}.blocks."
    return len({key.split(".")[4] for key in state if key.startswith(prefixes)})


def mit_variant(state: StateDict) -> str:
    """The SegFormer variant ("b0" … "b5") of a one-channel state dict, in the published names or in those
    that transformers has given the modules since version 5.

    Raises `ModelRefused` when it is none of them.
    """
    classifier = state.get("decode_head.classifier.weight")
    if classifier is not None and classifier.shape[0] == 1:
        for variant, sizes in MIT.items():
            widths = sizes["hidden_sizes"] == [_width_of_stage(state, stage) for stage in range(4)]
            depths = sizes["depths"] == [_depth_of_stage(state, stage) for stage in range(4)]
            if widths and depths and classifier.shape[1] == sizes["decoder_hidden_size"]:
                return variant
    raise ModelRefused(
        f"the checkpoint's {len(state)} tensors are not a one-channel SegFormer b0 to b5; "
        "save it as a detector folder with its detector.json instead"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable transformers' progress bars, for files that load in milliseconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _segformer_config(config: DetectorConfig) -> Any:
    from transformers import SegformerConfig

    arguments: dict[str, Any] = {"num_labels": config.classes, **config.segformer}
    return SegformerConfig(**arguments)


def _build_segformer(config: DetectorConfig) -> nn.Module:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import SegformerForSemanticSegmentation

    try:
        return SegformerForSemanticSegmentation(_segformer_config(config))
    except (IndexError, TypeError, ValueError, StrictDataclassError) as error:
        raise ConfigRefused(f"no SegFormer of the sizes {config.segformer}: {_reason(error)}") from error


def _load_segformer(config: DetectorConfig, state: StateDict) -> nn.Module:
    import torch
    from transformers import SegformerForSemanticSegmentation

    try:
        with _quiet():
            loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
                None,
                config=_segformer_config(config),
                state_dict=dict(state),
                output_loading_info=True,
                dtype=torch.float32,
            )
    except RuntimeError as error:
        raise _misfit(str(error)) from error
    network, info = loaded
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {kind: sorted(map(str, info[kind])) for kind in kinds if info[kind]}
    if wrong:
        raise _misfit(", ".join(f"{kind}: {keys[:3]}" for kind, keys in wrong.items()))
    return network


def _published_segformer(network: nn.Module) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder, _quiet():
        network.save_pretrained(folder, max_shard_size="100GB")  # type: ignore[operator]
        return load_file(Path(folder) / "model.safetensors")


def _build_smp(config: DetectorConfig) -> nn.Module:
    import segmentation_models_pytorch as smp

    try:
        return smp.create_model(
            config.architecture.removeprefix("smp-"),
            encoder_name=config.encoder,
            encoder_weights=None,
            classes=config.classes,
            **config.options,
        )
    # Unknown names, tags and options, and encoders whose features the decoder cannot take.
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigRefused(
            f"no architecture {config.architecture!r} with encoder {config.encoder!r}: {_reason(error)}"
        ) from error


def _load_smp(config: DetectorConfig, state: StateDict) -> nn.Module:
    network = _build_smp(config)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(str(error)) from error
    return network


def _published_smp(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in network.state_dict().items()}


def _smp_features(network: nn.Module, images: Tensor) -> Tensor:
    features = network.encoder(images)  # type: ignore[operator]
    # Encoders of DPT also return the tokens before the image's.
    return (features[0] if isinstance(features, tuple) else features)[-1]


def _reason(error: Exception) -> str:
    """A library's own words in one line."""
    why = " ".join(str(error).split())
    return why if len(why) <= WHY else f"{why[:WHY]}…"


def _misfit(why: str) -> ModelRefused:
    return ModelRefused(
        f"the weights do not fit the architecture ({' '.join(why.split())[:300]}); "
        "check the architecture and sizes in detector.json"
    )


SEGFORMER = Architecture(
    build=_build_segformer,
    load=_load_segformer,
    logits=lambda network, images: network(pixel_values=images).logits,
    features=lambda network, images: network.segformer(pixel_values=images).last_hidden_state,  # type: ignore[operator]
    published=_published_segformer,
    encoder="segformer.",
    head=("decode_head.",),
    first=("encoder.patch_embeddings.0.proj.weight",),
    last=("decode_head.classifier.weight",),
)

SMP = Architecture(
    build=_build_smp,
    load=_load_smp,
    logits=lambda network, images: network(images),
    features=_smp_features,
    published=_published_smp,
    encoder="encoder.",
    head=("decoder.", "segmentation_head."),
    # Any other encoder is checked when it is loaded.
    first=(
        "encoder.conv1.weight",  # ResNets
        "encoder.layer0.conv1.weight",  # SE-ResNets
        "conv_stem.weight",  # EfficientNets, MobileNets of timm
        "encoder.patch_embed1.proj.weight",  # MiT
        "patch_embed.proj.weight",  # vision transformers
        "encoder.features.0.weight",  # VGG
        "encoder.features.0.0.weight",  # MobileNets
        "encoder.features.conv0.weight",  # DenseNets
    ),
    last=("segmentation_head.0.weight", "segmentation_head.head.4.weight"),
)


def published_architecture(state: StateDict) -> DetectorConfig:
    """The configuration under which a bare published state dict is loaded."""
    return published_config(mit_variant(state))
