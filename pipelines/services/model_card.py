"""A treatment's LoRA as a zip: diffusers format with a model card."""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dataengine.errors import NotFound
from dataengine.records import DetectorVersion, GeneratorVersion, Treatment, describe_point
from dataengine.treatment.config import LoraSettings
from pipelines.services.endpoints import HUB_ID
from storage.catalog import Catalog
from storage.workspace import Workspace

CARD = """---
{base_model}license: {licence}
library_name: diffusers
tags: [lora, text-to-image, artifact-clinic]
---
# {name}

A LoRA for {base}, trained so that an artifact detector finds fewer artifacts in the generated images
(pixel-aware fine-tuning, DiffDoctor), under a quality guard that does not depend on the detector.

| held-out prompts, same seeds | before | after | after / before | 95 % interval |
|---|---|---|---|---|
{rows}

{similarity}{sheets}Kept update {kept} of {updates}: {stopped}.
Detector: {detector}. Its licence: {detector_licence}.
Settings to reproduce it: `treatment.json`.

`pytorch_lora_weights.safetensors` has the keys of diffusers. It is read by {reader}:

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({location})
{reading}
```

`comfyui_lora.safetensors` contains the same matrices under ComfyUI's names.

The weights inherit the licence of the base generator: {licence_text}. The figures come from the detector used
in training, so they are optimistic; a blind study is more reliable.
{under}"""


PIPELINE = "load_lora_weights"
READING = {
    PIPELINE: """pipeline.load_lora_weights("FOLDER OF THIS FILE")""",
    "load_lora_adapter": """denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
prefix = "transformer" if hasattr(pipeline, "transformer") else "unet"
denoiser.load_lora_adapter("FOLDER OF THIS FILE", prefix=prefix)""",
    "peft": """from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
held = load_file("FOLDER OF THIS FILE/pytorch_lora_weights.safetensors")
matrices = {{key.partition(".")[2]: matrix for key, matrix in held.items()}}
layers = sorted({{key.partition(".lora_")[0] for key in matrices}})
inject_adapter_in_model(LoraConfig(r={rank}, lora_alpha={alpha:g}, target_modules=layers), denoiser)
set_peft_model_state_dict(denoiser, matrices)""",
}
"""How a LoRA is loaded, by a word of what reads it (`LoraAdapter.reader`)."""


def packed(workspace: Workspace, treatment_id: str) -> tuple[str, bytes]:
    """File name and bytes of the zip. Raises `NotFound` for a treatment that kept nothing."""
    treated, files = lora_files(workspace, treatment_id)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", treated.name).strip("-.") or "lora"
    return f"{name}-{treated.id[:8]}.zip", body.getvalue()


def lora_files(
    workspace: Workspace, treatment_id: str, sheets: Mapping[str, bytes] = MappingProxyType({})
) -> tuple[GeneratorVersion, dict[str, bytes]]:
    """The treated generator, and its LoRA's files by path: both layouts, card, settings, and `sheets`, PNGs
    by file name that the card shows. Raises `NotFound` for a treatment that kept nothing."""
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment_id)
        if found.treated_id is None:
            raise NotFound("this treatment kept no checkpoint, so there is no LoRA")
        treated = catalog.generators.get(found.treated_id)
        base = catalog.generators.get(found.generator_id)
        detector = catalog.detectors.get(found.detector_id)
        judged = judged_of(catalog, found)
    folder = workspace.checkpoints.fetch(treated.lora or "")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    card = model_card(found, judged, base, treated, detector, tuple(sheets))
    files["README.md"] = card.encode()
    files["treatment.json"] = json.dumps(found.config, indent=1).encode()
    return treated, {**files, **sheets}


def judged_of(catalog: Catalog, found: Treatment) -> dict[str, Any]:
    """Figures on held-out prompts, from the run or its round's judge stage; empty before that."""
    if judged := found.result.get("judged"):
        return dict(judged)
    rows = {one.id: one for one in catalog.rounds.list()}
    return dict(rows[found.round_id].results.get("judge", {})) if found.round_id in rows else {}


def model_card(
    found: Treatment,
    judged: dict[str, Any],
    base: GeneratorVersion,
    treated: GeneratorVersion,
    detector: DetectorVersion,
    sheets: Sequence[str] = (),
) -> str:
    """The LoRA's README, as Markdown, with the sheets of these file names."""
    reader = found.result.get("reader") or f"the pipeline's `{PIPELINE}`"
    reading = next(text for word, text in READING.items() if word in reader)
    lora = LoraSettings.model_validate(found.config.get("lora", {}))
    hub_id = base.location.partition("@")[0] if HUB_ID.fullmatch(base.location.partition("@")[0]) else ""
    return CARD.format(
        base_model=f"base_model: {hub_id}\n" if hub_id else "",
        location=json.dumps(hub_id or f"PATH OR HUB ID OF {line(base.name)}"),
        reader=reader if "`" in reader else f"`{reader}`",
        reading=reading.format(rank=lora.rank, alpha=lora.alpha),
        licence=base.licence.lower() if re.fullmatch(r"[A-Za-z0-9.-]+", base.licence) else "other",
        licence_text=base.licence or "not recorded here",
        name=line(treated.name),
        base=line(base.name),
        detector=f"{line(detector.name)} ({detector.id}), which {describe_point(detector)['text']}",
        detector_licence=line(detector.licence) or "not recorded",
        rows="\n".join(
            row(name, one) for name, one in judged.items() if isinstance(one, dict) and "ratio" in one
        )
        or "| not judged | – | – | – | – |",
        under=under_section(found.result.get("under")),
        kept=found.result.get("kept", "?"),
        updates=found.result.get("updates", "?"),
        stopped=found.result.get("stopped", ""),
        similarity=similarity_line(judged.get("similarity")),
        sheets="".join(f"![{name.partition('.')[0]}]({name})\n\n" for name in sheets),
    )


def under_section(result: dict[str, Any] | None) -> str:
    """Where the LoRA does not hold, as Markdown; "" where `clinic compare --under` has not measured it."""
    if result is None:
        return ""
    cells, limit, detector = result["cells"], result["limit"], line(result["detector"])
    lines = [
        "",
        "## Where it holds",
        "",
        f"Artifact frequency against the base in the same cell, as {detector} finds artifacts "
        f"({result['images']} images of {result['prompts']} prompts each): {result['held']} of {len(cells)} "
        f"conditions are at or below a ratio of {limit:g}.",
        "",
    ]
    bad = [cell for cell in cells if cell["name"] in result["bad"]]
    if bad:
        lines += [
            "It does not hold under:",
            "",
            "| condition | before | after | after / before | 95 % interval |",
            "|---|---|---|---|---|",
            *(row(cell["name"], cell) for cell in bad),
            "",
        ]
    for text in result["advice"]:
        lines += [f"{text[0].upper()}{text[1:]}.", ""]
    return "\n".join(lines)


def similarity_line(figures: dict[str, Any] | None) -> str:
    """How much the images changed, as a sentence; "" where it was not measured."""
    if figures is None:
        return ""
    names = {"psnr": ("PSNR", ".1f", " dB"), "ssim": ("SSIM", ".3f", ""), "lpips": ("LPIPS", ".3f", "")}
    parts = [
        f"{label} {figures[name]['mean']:{form}}{unit}"
        for name, (label, form, unit) in names.items()
        if figures[name] is not None
    ]
    same = f"{figures['identical']} pairs are the same image" if figures["identical"] else ""
    return "Before against after: " + "; ".join(part for part in (", ".join(parts), same) if part) + ".\n\n"


def line(text: str) -> str:
    """The text as one line of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def row(name: str, one: dict[str, Any]) -> str:
    """One figure as a line of the table."""
    known = bool(one["before"])  # a ratio to 0 is undefined, whatever older results say
    before, after = ("–" if value is None else f"{value:.4f}" for value in (one["before"], one["after"]))
    ratio = f"{one['ratio']:.3f}" if known else "–"
    interval = " – ".join(f"{end:.3f}" for end in one["interval"]) if known else "–"
    return f"| {name.replace('_', ' ')} | {before} | {after} | {ratio} | {interval} |"
