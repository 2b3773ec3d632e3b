"""The card of an exported detector: what it was trained on, how it was measured, how to use it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dataengine.licences import forbidden_by
from dataengine.records import CLINIC, DetectorVersion, Snapshot, describe_point
from pipelines.services.model_card import line

FIGURES = {
    "pixel_ap": "average precision of pixels",
    "auroc": "AUROC of images",
    "iou": "IoU",
    "component_precision": "precision of components",
    "component_recall": "recall of components",
    "mse": "squared error",
}
RATES = {"miss": "missed flawed images", "false_alarm": "flagged images without a flaw"}
"""At the operating point."""
SETS = {
    "validation": "validation, on which the operating point was chosen",
    "benchmark": "benchmark, which nothing was chosen or trained on",
}

CARD = """---
{head}
---
# {name}

A segmentation network that gives every pixel of a generated image the confidence that people would mark it as
an artifact: a malformed hand, a fused object, broken writing. It knows one kind, “artifact”, and no classes
of it. Exported by Artifact Clinic as {format}{precision}.

## Use

```python
{snippet}```

{reading}

## Operating point

It {point}. {point_note}

## Intended use

To show where artifacts probably are: to sort or filter generated images, to mask regions for inpainting, to
guide sampling, as a reward or loss for fine-tuning a generator. A person should look before an image is
thrown away because of it. It was not made to tell generated images from photographs, nor to judge the people
or the content that an image shows. {domain}

## Data

{data}

## Figures

{figures}

## Licence

{licence}
"""

SNIPPETS = {
    "transformers": """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

model = AutoModelForSemanticSegmentation.from_pretrained({location})
processor = AutoImageProcessor.from_pretrained({location})
image = Image.open("image.png").convert("RGB")
with torch.no_grad():
    logits = model(processor(image, return_tensors="pt")["pixel_values"].to(model.dtype)).logits.float()
size = (image.height, image.width)
logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
confidence = logits.softmax(1)[0, 1]          # height × width, 0 to 1
mask = confidence >= {component}               # components at the operating point
flagged = bool(confidence.max() >= {flagged})  # the image

pipeline("image-segmentation", model={location})(image)  # masks at 0.5
""",
    "onnx": """import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("detector.onnx")
image = np.asarray(Image.open("image.png").convert("RGB"), dtype=np.float32) / 255
images = image.transpose(2, 0, 1)[None]       # batch × 3 × height × width, RGB, 0 to 1, any size
confidence = session.run(None, {{"images": images}})[0][0]
mask = confidence >= {component}               # components at the operating point
flagged = bool(confidence.max() >= {flagged})  # the image
""",
    "torch": """import numpy as np
import torch
from PIL import Image

detector = torch.export.load("detector.pt2").module()
image = np.asarray(Image.open("image.png").convert("RGB"), dtype=np.float32) / 255
images = torch.from_numpy(image).permute(2, 0, 1)[None]  # batch × 3 × height × width, RGB, 0 to 1, any size
confidence = detector(images)[0]
mask = confidence >= {component}               # components at the operating point
flagged = bool(confidence.max() >= {flagged})  # the image
""",
}
LIBRARIES = {"transformers": "transformers", "onnx": "onnx", "torch": "pytorch"}


@dataclass(frozen=True, kw_only=True)
class DetectorFacts:
    """What a card says of a detector; of one without a workspace only name, licence and network are known."""

    version: DetectorVersion
    size: int
    """Side in pixels of its square input."""
    antialias: bool
    snapshot: Snapshot | None = None
    classes: tuple[str, ...] = ()
    """What people could mark, when it was trained."""
    temperature: float = 1.0
    """By which the exported logits are divided."""
    flagged: float
    component: float
    """The operating point, in the exported confidence."""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def kept_with_weights(self) -> dict[str, Any]:
        """The facts that travel with the weights, for programs."""
        return {
            "name": self.version.name,
            "detector": self.version.id,
            "flagged": self.flagged,
            "component": self.component,
            "temperature": self.temperature,
            "antialias": self.antialias,
            "snapshot": self.version.snapshot_id or "",
            "licence": self.version.licence,
        }


def detector_card(
    facts: DetectorFacts, format: str, half: bool, difference: float, repository: str = ""
) -> str:
    """The export's README, as Markdown. `difference` is the measured one from the detector's own maps."""
    version = facts.version
    known = re.fullmatch(r"[A-Za-z0-9.-]+", version.licence)
    head = {
        "license": version.licence.lower() if known else "other",
        "library_name": LIBRARIES[format],
        "pipeline_tag": "image-segmentation",
        "tags": ["artifact-detection", "generated-images", "artifact-clinic"],
    }
    location = json.dumps(repository or "FOLDER OF THIS FILE")
    snippet = SNIPPETS[format].format(
        location=location, component=f"{facts.component:.4g}", flagged=f"{facts.flagged:.4g}"
    )
    return CARD.format(
        # JSON is YAML, and quotes what a name could break.
        head="\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()),
        name=line(version.name),
        format={"transformers": "a transformers folder", "onnx": "ONNX", "torch": "torch.export"}[format],
        precision=" in half precision" if half else "",
        snippet=snippet,
        reading=_reading(facts, format, difference),
        point=describe_point(version)["text"],
        point_note=_point_note(facts),
        domain="**It was made for the drawings of the embedded clinic and knows nothing else.**"
        if version.domain == CLINIC
        else "It knows the kinds of images that it was trained on; measure it on your own before relying on "
        "it.",
        data=_data(facts),
        figures=_figures(facts.metrics),
        licence=_licence(version),
    )


def _reading(facts: DetectorFacts, format: str, difference: float) -> str:
    words = (
        f"Its maps differ from the original detector's by at most {difference:.1g}, measured on noise of "
        f"several sizes and batches. Images are squeezed to {facts.size} × {facts.size} pixels, "
        f"{'with' if facts.antialias else 'without'} antialiasing, and the map has the image's size."
    )
    if format == "transformers":
        words += (
            " The two classes have the logits (0, z), so the softmax of the second is the confidence; the "
            "pipeline's mask is where it exceeds 0.5."
        )
        if not facts.antialias:
            words += (
                " **The image processor antialiases and this detector does not**: of images larger than its "
                "input it gives another map than the original. Resize them first with "
                "`torch.nn.functional.interpolate(…, antialias=False)`, or use the ONNX export."
            )
    return words


def _point_note(facts: DetectorFacts) -> str:
    if facts.temperature == 1:
        return "Confidences are not calibrated."
    return (
        f"The exported confidences are calibrated by the temperature {facts.temperature:.4g}, so in them "
        f"these thresholds are {facts.flagged:.4g} for images and {facts.component:.4g} for components."
    )


def _data(facts: DetectorFacts) -> str:
    version, snapshot = facts.version, facts.snapshot
    started = version.metrics.get("training", {}).get("pretrained", "")
    lines = [
        f"Training started from {line(started)}." if started else "Its starting weights are not recorded."
    ]
    if snapshot is None:
        lines.append("Its training data are not recorded here.")
        return " ".join(lines)
    if facts.classes:
        lines.append(f"People marked {', '.join(line(name) for name in facts.classes)}.")
    lines.append(
        f"The training set has {snapshot.rows} rows; its snapshot is `{snapshot.id}`, the SHA-256 of its "
        "sorted rows."
    )
    rows = "\n".join(f"| {line(name)} | {count} |" for name, count in sorted(snapshot.composition.items()))
    return " ".join(lines) + f"\n\n| split/kind | rows |\n|---|---|\n{rows}"


def _figures(metrics: Mapping[str, Any]) -> str:
    tables = []
    for name, title in SETS.items():
        measured = metrics.get(name, {})
        values = measured | {key: measured.get("operating", {}).get(key) for key in RATES}
        rows = [
            f"| {words} | {values[key]:.4f} | {_interval(measured.get('intervals', {}).get(key))} |"
            for key, words in {**RATES, **FIGURES}.items()
            if isinstance(values.get(key), int | float)
        ]
        if rows:
            tables.append(
                f"{title[0].upper()}{title[1:]}; {measured.get('images', '?')} images.\n\n"
                "| figure | value | 95 % interval |\n|---|---|---|\n" + "\n".join(rows)
            )
    return (
        "\n\n".join(tables) or "It was not measured here, so nothing is known of its misses and false alarms."
    )


def _interval(ends: Any) -> str:
    return f"{ends[0]:.4f} – {ends[1]:.4f}" if isinstance(ends, list | tuple) and len(ends) == 2 else "–"


def _licence(version: DetectorVersion) -> str:
    if not version.licence:
        return "Not recorded. Ask whoever trained it before you use or publish it."
    limits = forbidden_by(version.licence)
    return line(version.licence) + (f". **It forbids {limits}.**" if limits else ".")
