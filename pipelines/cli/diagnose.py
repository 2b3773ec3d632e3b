"""`clinic diagnose PATH… --out DIR`: the artifact maps of image files, without a round."""

import argparse
import json
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.records import count_of
from pipelines.cli.command import PRINTED, Call, OutsideRounds

FORMS = ("png", "npz")
EXAMPLES = (
    "clinic diagnose photos/ cat.png --detector detector/ --out diagnosis",
    "clinic diagnose photos/ --detector OWNER/NAME --out diagnosis --maps npz",
    "clinic diagnose photos/ --detector clinic --out diagnosis --json | jq 'select(.state==\"flagged\")'",
    "clinic diagnose photos/ --out diagnosis --workspace workspace",
)
DESCRIPTION = (
    "With PATH, image files and folders are diagnosed, which need no workspace and no round: --out receives "
    "the artifact map and an overlay of every image, report.csv, contact_sheet.jpg, and gallery.html with "
    "the highest confidence first. A file that cannot be used gets a line of the report, and the others go "
    "on. If interrupted, run the same command again to resume; what is done already is not repeated. With "
    "--json each file is one line of JSON, as it is done. With --workspace, images and predictions are "
    "recorded there as well. Without PATH this is a stage of a round, or the diagnosis of a workspace's "
    "images that --images selects."
)


def file_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for image files; the stage's own follow."""
    parser.description = DESCRIPTION
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="image files and folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder, for PATH: new, or to resume")
    parser.add_argument(
        "--maps",
        choices=FORMS,
        help="maps as 8-bit grey PNG, or as npz with the float32 array “confidence”; for PATH (default: png)",
    )


def diagnoses_files(call: Call) -> bool:
    """Whether the command was asked to diagnose files. Raises `ConfigRefused` for options that do not go
    together."""
    given = call.options
    if not given.paths:
        if given.out or given.maps:
            raise ConfigRefused("--out and --maps are for image files: name files or folders to diagnose")
        return False
    if given.out is None:
        raise ConfigRefused("name the folder of the results with --out")
    foreign = {"images": given.images is not None, "round": given.round, "detach": given.detach}
    if wrong := [name for name, there in (foreign | {"set": given.set}).items() if there]:
        raise ConfigRefused(f"--{wrong[0]} is for images of a workspace; leave it out to diagnose files")
    if given.engine != "local":
        raise ConfigRefused("--engine is for a stage of a round; leave it out to diagnose files")
    return True


def diagnose_files(call: Call) -> Any:
    """Diagnose the files into a folder; with --json every file is a line, as it is done."""
    from pipelines.services.standalone.diagnosis import diagnose_files

    given = call.options

    def each(row: dict[str, Any]) -> None:
        if given.json:
            print(json.dumps(row), flush=True)

    result = diagnose_files(
        given.paths,
        given.out,
        given.detector or "",
        workspace=call.named_workspace,
        form=given.maps or "png",
        device=given.device,
        report=call.report,
        each=each,
        begun=call.say,
    )
    call.report.close()
    for note in result["notes"]:
        call.say(f"  note: {note}")
    call.say(
        f"{count_of(result['flagged'], 'image')} flagged, {result['clean']} not, "
        f"{count_of(result['refused'], 'file')} refused; {result['known']} done before"
    )
    call.say_refused(result["refused_files"], result["refused"])
    call.say(f"  {result['report']} lists every file, {result['gallery']} shows the highest confidence first")
    return PRINTED


FILES = OutsideRounds(
    what="of any image files",
    arguments=file_arguments,
    is_asked=diagnoses_files,
    run=diagnose_files,
    examples=EXAMPLES,
)
