"""The detector in formats that open without our code: a transformers folder, ONNX, and `torch.export`.

ONNX and `torch.export` hold the whole function, images N3HW in [0, 1] to confidence NHW: resizing,
normalisation, network, resizing back, sigmoid, with batch, height and width left open. In a transformers
folder the network is transformers' own SegFormer with two classes, whose logits are (0, z): the softmax of
the second is σ(z), our confidence. Resizing and normalisation stand in its preprocessor's configuration.

Each writer reads its file back and compares it with the detector before it returns.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataengine.diagnosis.architectures import architecture_of
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.errors import ConfigRefused, ModelRefused

ExportFormat = Literal["transformers", "onnx", "torch"]
FORMATS: tuple[str, ...] = get_args(ExportFormat)
ONNX_FILE, TORCH_FILE = "detector.onnx", "detector.pt2"
FACTS = "artifact_detector"
"""Key under which the facts of the detector stand in `config.json`."""
LABELS = {0: "clean", 1: "artifact"}
INPUT, OUTPUT = "images", "confidence"
AXES = ("batch", "height", "width")
OPSET = 18
"""The first one whose Resize antialiases."""
CLOSE: dict[str, float] = {"transformers": 1e-5, "onnx": 1e-4, "torch": 1e-5}
"""Largest difference from the detector's own confidence, by format."""
CLOSE_IN_HALF = 0.05
"""The same in half precision, whose figures have eleven bits."""

Predict = Callable[[Tensor], Tensor]


class ConfidenceMap(nn.Module):
    """A detector as one function of images of any size, without branches, as exporters need it."""

    mean: Tensor
    std: Tensor

    def __init__(self, detector: NetworkDetector, temperature: float = 1.0, half: bool = False) -> None:
        super().__init__()
        self.config = detector.config
        network = copy.deepcopy(detector.network).cpu().float().eval()
        self.network = network.half() if half else network
        self.half_precision = half
        self.temperature = temperature
        self.register_buffer("mean", detector.mean.detach().cpu().float())
        self.register_buffer("std", detector.std.detach().cpu().float())

    def forward(self, images: Tensor) -> Tensor:
        """Confidence, float32 NHW in [0, 1], of images, float32 N3HW RGB in [0, 1]."""
        square = (self.config.size, self.config.size)
        pixels = F.interpolate(
            images, square, mode="bilinear", align_corners=False, antialias=self.config.antialias
        )
        pixels = (pixels - self.mean) / self.std
        if self.half_precision:
            pixels = pixels.half()
        logits = architecture_of(self.config).logits(self.network, pixels).float()
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return (logits / self.temperature).sigmoid()


def require_exportable(detector: Any, format: str) -> None:
    """Raise `ConfigRefused` for a detector that the format cannot hold, with the format that can."""
    if format not in FORMATS:
        raise ConfigRefused(f"there is no export format {format!r}; choose one of {', '.join(FORMATS)}")
    if not isinstance(detector, NetworkDetector):
        raise ConfigRefused(
            f"{detector.name} has no weights of its own that could be exported; export a trained detector"
        )
    config = detector.config
    if config.fit == "tiles":
        raise ConfigRefused(
            f"{config.name} reads images in overlapping tiles (fit “tiles”), which no export format holds; "
            "train one with fit “resize”, or use the detector folder itself"
        )
    if format == "transformers" and config.architecture != "segformer":
        raise ConfigRefused(
            f"{config.name} is a {config.architecture!r} of segmentation-models-pytorch, and transformers "
            "has no such network, only “segformer”; export it with --format onnx or --format torch"
        )


def export_detector(
    detector: NetworkDetector,
    folder: Path,
    format: str,
    half: bool = False,
    temperature: float = 1.0,
    facts: Mapping[str, Any] | None = None,
) -> float:
    """Write the detector into an existing folder; the largest difference of its maps from the detector's.

    `half` stores weights in float16. `temperature` divides the logits; 1 gives the detector's own maps.
    `facts`, JSON, are kept with the weights. Raises `ConfigRefused` for what the format cannot hold or a
    missing package, `ModelRefused` when the written file does not give the detector's maps.
    """
    require_exportable(detector, format)
    write, read = WRITERS[format], READERS[format]
    write(detector, folder, half, temperature, dict(facts or {}))
    found = largest_difference(ConfidenceMap(detector, temperature), read(folder))
    limit = CLOSE_IN_HALF if half else CLOSE[format]
    if not found <= limit:
        raise ModelRefused(
            f"{detector.name} as {format} differs by {found:.2g} from its own maps, more than {limit:g}, so "
            "it is not handed out; "
            + ("export it without --half" if half else "choose another format, and report this")
        )
    return found


def largest_difference(ours: Predict, theirs: Predict, seed: int = 0) -> float:
    """The largest absolute difference of two functions of images N3HW, over batches of several sizes."""
    return max(
        float((ours(images) - theirs(images)).abs().max())
        for images in sample_images(torch.Generator(), seed)
    )


def sample_images(generator: torch.Generator, seed: int = 0) -> Iterator[Tensor]:
    """Batches, float32 N3HW in [0, 1], of the numbers and sizes that an export is compared on: smaller and
    larger than the network's input, of either orientation, soft and hard edges."""
    generator.manual_seed(seed)
    for count, height, width in ((1, 96, 128), (3, 160, 112), (2, 640, 417)):
        soft = F.interpolate(torch.rand(count, 3, 9, 7, generator=generator), (height, width), mode="bicubic")
        hard = torch.rand(count, 3, height, width, generator=generator)
        yield (soft + 0.3 * (hard - 0.5)).clamp(0, 1)


def _write_transformers(
    detector: NetworkDetector, folder: Path, half: bool, temperature: float, facts: dict[str, Any]
) -> None:
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    network: Any = detector.network
    config = copy.deepcopy(network.config)
    config.id2label, config.label2id = dict(LABELS), {name: number for number, name in LABELS.items()}
    setattr(config, FACTS, facts)
    state = {name: tensor.detach().cpu().float() for name, tensor in network.state_dict().items()}
    for name in ("decode_head.classifier.weight", "decode_head.classifier.bias"):
        logit = state[name] / temperature
        state[name] = torch.cat([torch.zeros_like(logit), logit])
    with _quiet():
        two_classes: Any = SegformerForSemanticSegmentation(config)
        two_classes.load_state_dict(state)
        two_classes.to(torch.float16 if half else torch.float32).save_pretrained(
            folder, max_shard_size="100GB"
        )
    SegformerImageProcessor(
        size={"height": detector.config.size, "width": detector.config.size},
        resample=2,  # bilinear
        do_resize=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(detector.config.mean),
        image_std=list(detector.config.std),
        do_reduce_labels=False,
    ).save_pretrained(folder)


def _read_transformers(folder: Path) -> Predict:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    with _quiet():
        network: Any = AutoModelForSemanticSegmentation.from_pretrained(folder, local_files_only=True).eval()
        processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def predict(images: Tensor) -> Tensor:
        inputs = processor(list(images), do_rescale=False, return_tensors="pt")["pixel_values"]
        logits = network(pixel_values=inputs.to(network.dtype)).logits.float()
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return logits.softmax(dim=1)[:, 1]

    return predict


def _write_onnx(
    detector: NetworkDetector, folder: Path, half: bool, temperature: float, facts: dict[str, Any]
) -> None:
    require_onnx()
    with _quiet():
        program: Any = torch.onnx.export(
            ConfidenceMap(detector, temperature, half).eval(),
            (_example(detector),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_open_shapes(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update({name: str(value) for name, value in facts.items()})
    program.save(str(folder / ONNX_FILE))


def _read_onnx(folder: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0]))

    return predict


def _write_torch(
    detector: NetworkDetector, folder: Path, half: bool, temperature: float, facts: dict[str, Any]
) -> None:
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            ConfidenceMap(detector, temperature, half).eval(),
            (_example(detector),),
            dynamic_shapes=_open_shapes(),
        )
        torch.export.save(
            program,
            str(folder / TORCH_FILE),
            extra_files={name: str(value) for name, value in facts.items()},
        )


def _read_torch(folder: Path) -> Predict:
    module: Any = torch.export.load(str(folder / TORCH_FILE)).module()

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        found: Tensor = module(images)
        return found

    return predict


def _example(detector: NetworkDetector) -> Tensor:
    """A batch of no special size, so that nothing is specialised to it."""
    return torch.rand(2, 3, detector.config.size + 22, detector.config.size + 42)


def _open_shapes() -> dict[str, dict[int, Any]]:
    batch, height, width = (
        torch.export.Dim(name, min=low) for name, low in zip(AXES, (1, 2, 2), strict=True)
    )
    return {INPUT: {0: batch, 2: height, 3: width}}


def require_onnx() -> None:
    """Raise `ConfigRefused` where a package that writes or checks ONNX is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigRefused(
            f"writing ONNX needs {', '.join(missing)}; install the extra: pip install 'artifact-clinic[onnx]'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' progress lines and bars, and their warnings about each other's versions."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        if shown:
            transformers_logging.enable_progress_bar()


Writer = Callable[[NetworkDetector, Path, bool, float, dict[str, Any]], None]
WRITERS: dict[str, Writer] = {
    "transformers": _write_transformers,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
READERS: dict[str, Callable[[Path], Predict]] = {
    "transformers": _read_transformers,
    "onnx": _read_onnx,
    "torch": _read_torch,
}
