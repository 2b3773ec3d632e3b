"""`clinic evidence`: treat a real model from photographs to a blind study, and write what came of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import Call, with_settings

if TYPE_CHECKING:
    from pipelines.evidence.config import EvidenceRun
    from pipelines.evidence.parts import Serve
    from pipelines.evidence.plan import EvidenceRequest

EXAMPLES = (
    "clinic evidence --generator black-forest-labs/FLUX.1-schnell --photos photos --prompts prompts.txt "
    "--out evidence",
    "clinic evidence --generator sd15/ --photos photos --detector doctor/ --labels none --name SD-1.5 "
    "--out evidence",
    "clinic evidence --generator sd15/ --photos photos --estimate",
    "clinic evidence --generator clinic-flux --photos photos --out evidence --recipe cpu-smoke",
)


def evidence_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `clinic evidence`."""
    parser.description = (
        "One whole treatment of a model on this machine, as one command that can be stopped and given again: "
        "import photographs as free of artifacts, train a first detector on them and on artifacts injected "
        "into them, draw images, choose those that teach most, wait until people marked them, train a second "
        "detector, treat the generator, compare on held-out prompts and under other samplers, sizes and "
        "precisions, open a blind study. --out receives evidence.json (figures with intervals, hours, "
        "memory, labels, minutes, votes; no person, no path), evidence.html (a page with images before and "
        "after), treated/ with the LoRA, and under/. Where people are needed it says what they do, and ends: "
        "give the same command again to go on, and once more when votes have come in."
    )
    parser.add_argument(
        "--generator",
        required=True,
        metavar="ID",
        help="a hub id, a diffusers pipeline's folder, a single .safetensors file, clinic-flux or clinic-sd",
    )
    parser.add_argument(
        "--photos", required=True, type=Path, metavar="DIR", help="photographs without artifacts, any number"
    )
    parser.add_argument(
        "--prompts",
        default="",
        metavar="FILE",
        help="prompts as .txt, .csv, .tsv, .json, or a published set; every fifth is held out for the "
        "comparison (default: written for categories)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder, new or of the same call")
    parser.add_argument(
        "--detector",
        default="",
        metavar="WHAT",
        help="begin with this detector, a folder, a file, or clinic, instead of training one on the "
        "photographs; injected artifacts are a weak start",
    )
    parser.add_argument(
        "--labels",
        choices=("people", "none", "simulated"),
        help="who marks images: people; none, which goes on with the labels there are; or, for clinic-flux "
        "and clinic-sd, simulated annotators (default: people, there simulated)",
    )
    parser.add_argument(
        "--budget", type=int, metavar="N", help="images to mark (default: 200, or the recipe's)"
    )
    parser.add_argument(
        "--preset", default="", metavar="NAME", help="objective, as of `clinic treat` (default: diffdoctor)"
    )
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="settings of the whole: photo, paper, demo, cpu-smoke (default: photo, demo for clinic-flux)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of everything (default: 0)")
    parser.add_argument(
        "--name", default="", help="what the evidence calls the generator (default: its hub id)"
    )
    parser.add_argument("--licence", default="", metavar="NAME", help="licence of the generator's weights")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--estimate", action="store_true", help="print the memory and time that it needs, and stop"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def evidence(call: Call, serve: "Serve") -> Any:
    """Run or resume it; `serve` serves the workspace to simulated annotators."""
    from pipelines.evidence.run import estimate_evidence, run_evidence

    given = call.options
    if call.named_workspace is not None:
        raise ConfigRefused("--workspace: the evidence keeps a workspace of its own in --out; leave it out")
    if given.out is None and not given.estimate:
        raise ConfigRefused("name the folder of the results with --out")
    request = request_of(call)
    if given.estimate:
        text = estimate_evidence(request, given.device, call.report)
        call.report.close()
        call.say(text)
        return {"estimate": text}

    def say(text: str) -> None:
        call.report.close()
        call.say(f"  {text}")

    outcome = run_evidence(request, serve, given.device, call.report, say)
    call.report.close()
    call.say(f"{outcome.evidence.state}: {outcome.page} shows it, {outcome.json} holds the figures")
    for line in outcome.next:
        call.say(f"  {line}")
    return {
        "state": outcome.evidence.state,
        "json": outcome.json,
        "page": outcome.page,
        "next": outcome.next,
        "evidence": outcome.evidence.model_dump(mode="json"),
    }


def request_of(call: Call) -> "EvidenceRequest":
    """What the command asks for."""
    from pipelines.evidence.config import EvidenceRun
    from pipelines.evidence.plan import EvidenceRequest, default_settings, preset_named

    given = call.options
    defaults = default_settings(given.generator, given.recipe, given.preset, given.seed)
    settings = defaults.model_dump(mode="json")
    if given.budget is not None:
        settings["mine"]["mine"]["budget"] = given.budget
    return EvidenceRequest(
        generator=given.generator,
        photos=given.photos,
        out=given.out or Path(),
        prompts=given.prompts,
        detector=given.detector,
        labels=given.labels,
        preset=preset_named(given.generator, given.recipe, given.preset),
        name=given.name,
        licence=given.licence,
        settings=EvidenceRun.model_validate(with_settings(settings, given.set)),
    )


def evidence_settings() -> "type[EvidenceRun]":
    from pipelines.evidence.config import EvidenceRun

    return EvidenceRun
