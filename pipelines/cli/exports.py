"""`clinic detectors --export`, and the command that writes nodes for ComfyUI."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import Call, Command

if TYPE_CHECKING:
    from storage.workspace import Workspace

FORMATS = ("transformers", "onnx", "torch")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `clinic detectors` that export one."""
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("ID", "DIR"),
        help="write a detector (id, name, file, folder or “clinic”) to a new folder that opens without "
        "Artifact Clinic, with a model card",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="layout of --export: transformers (only detectors with architecture segformer), onnx (any size "
        "and batch; needs the extra “onnx”), torch (a .pt2 of torch.export); default: transformers",
    )
    parser.add_argument("--half", action="store_true", help="--export stores weights in float16")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="--export divides the logits by the temperature that --calibrate fitted, and converts the "
        "operating point",
    )
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="also upload the export to the hub, private at first"
    )


def export_detector(call: Call) -> Any:
    """Write the detector that `--export` names."""
    from pipelines.services.standalone import detector_exports

    given = call.options
    named, out = given.export
    done = detector_exports.export_detector(
        named,
        Path(out),
        given.format or FORMATS[0],
        workspace=workspace_of(call, named),
        half=given.half,
        calibrated=given.calibrated,
        push_to=given.push_to_hub or "",
    )
    call.say(f"{done.folder}: {', '.join(done.files)}")
    call.say(f"  its maps differ from the detector's by at most {done.difference:.2g}")
    call.say(f"  licence {done.licence or 'not recorded'}")
    if done.url:
        call.say(f"  uploaded to {done.url}")
    return asdict(done)


def workspace_of(call: Call, named: str) -> "Workspace | None":
    """The workspace that knows the detector: the one of `--workspace`, else `./workspace` unless a file,
    folder or a detector without one is named."""
    outside = named in ("clinic", "diffdoctor") or Path(named).expanduser().exists()
    if call.named_workspace is None and outside:
        return None
    return call.workspace


def require_export(call: Call) -> None:
    """Raise `ConfigRefused` for options that belong to `--export` without it."""
    given = call.options
    if any((given.format, given.half, given.calibrated, given.push_to_hub)) and not given.export:
        raise ConfigRefused(
            "--format, --half, --calibrated and --push-to-hub belong to --export ID DIR; give it"
        )


def comfyui_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder below ComfyUI's custom_nodes")
    parser.add_argument(
        "--detector",
        required=True,
        metavar="NAME",
        help="id or name in the workspace, a detector's file or folder, or “clinic”",
    )
    parser.add_argument("--half", action="store_true", help="store the detector's weights in float16")


def export_comfyui(call: Call) -> Any:
    """Write the custom nodes with a detector in them."""
    from pipelines.services.standalone.comfyui import export_comfyui

    given = call.options
    done = export_comfyui(
        given.folder, given.detector, workspace=workspace_of(call, given.detector), half=given.half
    )
    call.say(f"{done.folder}: {', '.join(done.nodes)}")
    call.say("  restart ComfyUI; the nodes are under “artifacts”")
    call.say(f"  the detector's licence: {done.licence or 'not recorded'}")
    return asdict(done)


COMMANDS = (
    Command(
        name="export-comfyui",
        summary="write custom nodes for ComfyUI: detect artifacts, filter by score, guide the sampler",
        run=export_comfyui,
        arguments=comfyui_arguments,
        examples=(
            "clinic export-comfyui ComfyUI/custom_nodes/artifact_clinic --detector ID",
            "clinic export-comfyui nodes --detector clinic",
        ),
    ),
)
