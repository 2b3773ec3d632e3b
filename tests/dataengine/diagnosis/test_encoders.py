"""Pre-trained encoders: what fits, what is refused, and that a detector really starts from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.config import (
    NVIDIA_LICENCE,
    DetectorConfig,
    DetectorTrainingConfig,
    published_config,
)
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.diagnosis.encoders import (
    EncoderWeights,
    licence_of,
    load_encoder,
    read_encoder,
    set_prior,
    suggested_weights,
    untrained_detector,
)
from dataengine.diagnosis.training import parameter_groups, train_detector
from dataengine.errors import ConfigRefused, ModelRefused
from tests.dataengine.diagnosis.tiny import SEGFORMER, UNET, examples

TRAINED: dict[str, DetectorConfig] = {"segformer": SEGFORMER, "unet": UNET}


def encoder_of(config: DetectorConfig, seed: int = 5) -> dict[str, Tensor]:
    """The encoder's tensors of other random weights, under its own names."""
    from dataengine.diagnosis.architectures import architecture_of

    architecture = architecture_of(config)
    state = architecture.published(NetworkDetector.fresh(config, seed).network)
    return {
        key.removeprefix(architecture.encoder): value
        for key, value in state.items()
        if key.startswith(architecture.encoder)
    }


def weights(state: dict[str, Tensor]) -> EncoderWeights:
    return EncoderWeights(state=state, source="them", licence="MIT")


def features(network: Any, config: DetectorConfig) -> Tensor:
    from dataengine.diagnosis.architectures import architecture_of

    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, 3, config.size, config.size), generator=generator)
    with torch.no_grad():
        return architecture_of(config).features(network.eval(), images)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model."])
def test_an_encoder_gives_the_features_that_it_gave_where_it_was_trained(name: str, prefix: str) -> None:
    config = TRAINED[name]
    theirs, ours = NetworkDetector.fresh(config, 5).network, NetworkDetector.fresh(config, 0).network
    state = {prefix + key: value for key, value in encoder_of(config).items()} | {"fc.weight": torch.ones(3)}
    before = features(ours, config)
    network, match = load_encoder(ours, config, weights(state))
    assert match.unmatched == () and match.share == 1
    assert torch.equal(features(network, config), features(theirs, config))
    assert not torch.equal(features(network, config), before)


def test_a_classifier_of_timm_starts_the_same_encoder_of_segmentation_models() -> None:
    import timm

    classifier = timm.create_model("resnet18", pretrained=False)
    config = DetectorConfig(architecture="unet", encoder="tu-resnet18", size=64)
    network = NetworkDetector.fresh(config).network
    started, match = load_encoder(network, config, weights(dict(classifier.state_dict())))
    assert match.unmatched == ()
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = classifier.eval().forward_features(images)
        assert torch.allclose(started.eval().encoder(images)[-1], expected, atol=1e-6)


@pytest.mark.parametrize("config", [UNET, SEGFORMER])
def test_an_untrained_detector_expects_one_pixel_in_twenty_to_be_flawed(config: DetectorConfig) -> None:
    network = NetworkDetector.fresh(config).network
    set_prior(network, config)
    architecture = architecture_of(config)
    last = [p for name, p in network.named_parameters() if name.endswith(architecture.last)]
    with torch.no_grad():
        last[0].zero_()  # leaves the bias alone
        logits = architecture.logits(network.eval(), torch.rand(1, 3, 64, 64))
    assert logits.sigmoid().numpy() == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("shown", ["image-classification", "semantic-segmentation", "backbone"])
def test_a_segformer_folder_of_any_head_is_taken_and_its_head_dropped(shown: str, tmp_path: Path) -> None:
    from transformers import (
        SegformerConfig,
        SegformerForImageClassification,
        SegformerForSemanticSegmentation,
        SegformerModel,
    )

    kinds: dict[str, Any] = {
        "image-classification": SegformerForImageClassification,
        "semantic-segmentation": SegformerForSemanticSegmentation,
        "backbone": SegformerModel,
    }
    theirs = kinds[shown](SegformerConfig(num_labels=150, **SEGFORMER.segformer))
    theirs.save_pretrained(tmp_path)
    plan = DetectorTrainingConfig(detector=SEGFORMER, encoder_weights=str(tmp_path), seed=1)
    detector = untrained_detector(plan)
    encoder = theirs if shown == "backbone" else theirs.segformer
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder.eval()(pixel_values=images).last_hidden_state
        found = detector.network.eval().segformer(pixel_values=images).last_hidden_state  # type: ignore[operator,union-attr]
    assert torch.allclose(found, expected, atol=1e-6)
    assert detector.config.pretrained == tmp_path.name and detector.config.licence == "unstated"


@pytest.mark.parametrize(
    ("where", "called", "licence"),
    [
        ("ours", "nvidia/mit-b0", NVIDIA_LICENCE),
        ("mit-b2", "", NVIDIA_LICENCE),
        ("models--nvidia--mit-b5/snapshots/abc", "", NVIDIA_LICENCE),
        ("ours", "mine/encoder", "unstated"),
        ("permit-b1x", "", "unstated"),
    ],
)
def test_nvidias_weights_keep_their_licence(where: str, called: str, licence: str, tmp_path: Path) -> None:
    folder = tmp_path / where
    folder.mkdir(parents=True)
    save_file(encoder_of(SEGFORMER), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_name_or_path": called}))
    assert read_encoder(str(folder), SEGFORMER).licence == licence
    assert licence_of(str(folder), SEGFORMER) == licence


@pytest.mark.parametrize(
    ("name", "config", "licence"),
    [
        ("imagenet", UNET, "BSD-3-Clause"),
        ("imagenet", DetectorConfig(architecture="unet", encoder="timm-tf_efficientnet_lite0"), "Apache-2.0"),
        ("imagenet", DetectorConfig(architecture="unet", encoder="mit_b0"), NVIDIA_LICENCE),
        ("imagenet", DetectorConfig(architecture="unet", encoder="tu-convnext_tiny"), "unstated"),
        ("nvidia/mit-b3", SEGFORMER, NVIDIA_LICENCE),
        ("weights/mit_b2.pth", SEGFORMER, NVIDIA_LICENCE),
        ("weights/ours.pth", UNET, "unstated"),
    ],
)
def test_a_licence_is_known_before_the_weights_are_read(
    name: str, config: DetectorConfig, licence: str
) -> None:
    assert licence_of(name, config) == licence


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (UNET, "imagenet"),
        (published_config("b0"), "nvidia/mit-b0"),
        (published_config("b5"), "nvidia/mit-b5"),
        (SEGFORMER, ""),
    ],
)
def test_weights_are_suggested_that_fit(config: DetectorConfig, name: str) -> None:
    assert suggested_weights(config) == name


def test_an_encoder_of_nvidias_keeps_that_licence_with_weights_of_ours(tmp_path: Path) -> None:
    config = DetectorConfig(architecture="unet", encoder="mit_b0", size=64)
    save_file(encoder_of(config), tmp_path / "ours.safetensors")
    plan = DetectorTrainingConfig(detector=config, encoder_weights=str(tmp_path / "ours.safetensors"))
    assert untrained_detector(plan).config.licence == NVIDIA_LICENCE


DEEPER: dict[str, tuple[Any, DetectorConfig]] = {
    "torchvision's resnet34 into resnet18": (lambda: torchvision_state("resnet34"), UNET),
    "timm's lite1 into lite0": (
        lambda: timm_state("tf_efficientnet_lite1"),
        DetectorConfig(architecture="unet", encoder="timm-tf_efficientnet_lite0", size=64),
    ),
    "a segformer of three blocks into one of one": (
        lambda: encoder_of(
            SEGFORMER.model_copy(update={"segformer": SEGFORMER.segformer | {"depths": [1, 1, 3, 1]}})
        ),
        SEGFORMER,
    ),
}


def torchvision_state(name: str) -> dict[str, Tensor]:
    import torchvision

    return dict(getattr(torchvision.models, name)(weights=None).state_dict())


def timm_state(name: str) -> dict[str, Tensor]:
    import timm

    return dict(timm.create_model(name, pretrained=False).state_dict())


@pytest.mark.parametrize("what", DEEPER)
def test_a_deeper_encoder_is_refused_although_its_first_blocks_would_fit(what: str) -> None:
    state, config = DEEPER[what]
    with pytest.raises(ModelRefused, match=r"also has .*, a block that this encoder does not have"):
        load_encoder(NetworkDetector.fresh(config).network, config, weights(state()))


def test_a_decoder_that_wants_fewer_stages_takes_the_first_ones() -> None:
    """UNET's depth is 3 of 5; the weights have all stages, and a classifier's head."""
    _, match = load_encoder(NetworkDetector.fresh(UNET).network, UNET, weights(torchvision_state("resnet18")))
    assert match.unmatched == ()


def test_a_network_whose_stages_timm_flattens_takes_a_classifier() -> None:
    import timm

    classifier = timm.create_model("convnext_atto", pretrained=False)
    config = DetectorConfig(architecture="unet", encoder="tu-convnext_atto", size=64)
    state = weights(dict(classifier.state_dict()))
    started, match = load_encoder(NetworkDetector.fresh(config).network, config, state)
    assert match.unmatched == ()
    first = started.get_parameter("encoder.model.stages_0.blocks.0.conv_dw.weight")
    assert torch.equal(first, classifier.get_parameter("stages.0.blocks.0.conv_dw.weight"))


def test_a_segformers_own_names_are_taken_as_well_as_those_of_its_files() -> None:
    theirs = NetworkDetector.fresh(SEGFORMER, 5).network
    ours = NetworkDetector.fresh(SEGFORMER, 0).network
    network, match = load_encoder(ours, SEGFORMER, weights(dict(theirs.state_dict())))
    assert match.unmatched == ()
    assert torch.equal(features(network, SEGFORMER), features(theirs, SEGFORMER))


@pytest.mark.parametrize("files", [(), ("config.json",), ("model.onnx", "config.json")])
def test_a_folder_without_weights_is_refused(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelRefused, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        read_encoder(str(tmp_path), SEGFORMER)


def other_width(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.cat([value, value]) if value.ndim else value for key, value in state.items()}


def fewer_blocks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(state.items())[: len(state) // 2])


def head_alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "decode_head.classifier.weight": torch.ones(1, 8, 1, 1),
        "decode_head.classifier.bias": torch.ones(1),
    }


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (other_width, "of another size; choose the encoder that these weights were trained in"),
        (fewer_blocks, "there is no .* among its keys"),
        (head_alone, "fits 0 of the encoder's .* which begin with decode_head"),
        (lambda state: {}, "which begin with nothing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, changed: Any, reason: str) -> None:
    config = TRAINED[name]
    network = NetworkDetector.fresh(config).network
    with pytest.raises(ModelRefused, match=reason):
        load_encoder(network, config, weights(changed(encoder_of(config))))


def test_a_few_unmatched_tensors_are_named_and_stay_random(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = encoder_of(UNET)
    odd = next(key for key in state if key.endswith("weight"))
    kept = {key: value.contiguous() for key, value in state.items() if key != odd}
    save_file(kept, tmp_path / "their.safetensors")
    plan = DetectorTrainingConfig(detector=UNET, encoder_weights=str(tmp_path / "their.safetensors"))
    detector = untrained_detector(plan)
    assert f"their.safetensors has no weights for {odd}" in capsys.readouterr().out
    fresh = NetworkDetector.fresh(UNET, plan.seed).network.state_dict()
    assert torch.equal(detector.network.state_dict()[f"encoder.{odd}"], fresh[f"encoder.{odd}"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/such/file.pth", "there are no encoder weights 'no/such/file.pth'; give a file"),
        ("nvidia/mit-b0", "cannot be fetched from the hub"),
        ("imagenet", "cannot be fetched from the hub"),
    ],
)
def test_weights_that_cannot_be_had_are_refused_with_a_way_out(name: str, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        read_encoder(name, DetectorConfig(architecture="unet", encoder="resnet18", size=64))


@pytest.mark.parametrize("error", [RuntimeError("storage"), TimeoutError(), ValueError("name"), OSError(28)])
def test_whatever_the_hub_raises_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelRefused, match=f"cannot be fetched from the hub \\({type(error).__name__}"):
        read_encoder("nvidia/mit-b0", SEGFORMER)


def test_an_encoder_without_published_weights_says_so() -> None:
    with pytest.raises(ConfigRefused, match="under a free licence"):
        read_encoder("imagenet", SEGFORMER)
    with pytest.raises(ConfigRefused, match="publishes no ImageNet weights"):
        read_encoder("imagenet", DetectorConfig(architecture="unet", encoder="resnext101_32x4d", size=64))


@pytest.mark.parametrize(
    "content",
    [{"model": object()}, {"state_dict": {"conv1.weight": Path("x")}}, torch.nn.Linear(2, 2)],
)
@pytest.mark.parametrize("name", ["evil.pth", "pytorch_model.bin"])
def test_nothing_pickled_is_read(content: Any, name: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / name)
    source = tmp_path if name == "pytorch_model.bin" else tmp_path / name
    with pytest.raises(ModelRefused, match=r"more than tensors|state dict of tensors"):
        read_encoder(str(source), UNET)


def test_the_encoder_has_its_own_rate() -> None:
    plan = DetectorTrainingConfig(detector=UNET, lr=1e-3, head_factor=10, encoder_factor=0.1)
    groups = parameter_groups(NetworkDetector.fresh(UNET), plan)
    named = {id(value): name for name, value in NetworkDetector.fresh(UNET).network.named_parameters()}
    assert {round(group["peak"], 6) for group in groups} == {1e-4, 1e-2} and named
    total = sum(len(group["params"]) for group in groups)
    assert total == len(list(NetworkDetector.fresh(UNET).network.parameters()))


def test_a_frozen_encoder_stays_and_is_trained_afterwards(tmp_path: Path) -> None:
    save_file(encoder_of(UNET), tmp_path / "start.safetensors")
    before = encoder_of(UNET)
    trained = {}
    for frozen in (4, 2):
        plan = DetectorTrainingConfig(
            detector=UNET,
            encoder_weights=str(tmp_path / "start.safetensors"),
            encoder_frozen=frozen,
            steps=4,
            batch=4,
            lr=1e-3,
            ema=0,
            device="cpu",
        )
        result = train_detector(plan, examples(), None, tmp_path / str(frozen))
        from safetensors.torch import load_file

        trained[frozen] = load_file(result.folder / "model.safetensors")
    weight = next(key for key in before if key.endswith("conv1.weight"))
    assert torch.equal(trained[4][f"encoder.{weight}"], before[weight])
    assert not torch.equal(trained[2][f"encoder.{weight}"], before[weight])
