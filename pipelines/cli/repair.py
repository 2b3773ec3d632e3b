"""`clinic repair`: redraw the artifacts of image files, or of images of the catalog."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import count_of
from pipelines.cli.command import ACTOR, Call, Command, with_settings
from pipelines.cli.selections import FILTER_HELP, query_of

if TYPE_CHECKING:
    from pipelines.selections.config import RepairRun


def repair_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Find the artifacts of images with a detector and have a generator redraw them, with the rest of the "
        "image in view. A result is taken only if the detector no longer finds an artifact there, nothing "
        "new appears, and a second detector does not find it worse; else the original stays. All pixels "
        "outside the redrawn regions keep their values. IMAGES are files and folders, which need not be "
        "imported: --out receives a PNG of every repaired image, a copy of every other one, report.csv, and "
        "gallery.html with before and after. With --images, images of the catalog are repaired, and people "
        "accept or reject the results at /curate, tab Repairs. If interrupted, run the same command again to "
        "resume."
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="IMAGES", help="image files and folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder, for IMAGES")
    parser.add_argument(
        "--images", nargs="*", metavar="FILTER", help=f"{FILTER_HELP}; without a FILTER, all images"
    )
    parser.add_argument(
        "--generator", metavar="ID", help="the generator that redraws (`clinic generators` lists them)"
    )
    parser.add_argument(
        "--detector",
        metavar="ID",
        help="the detector that finds artifacts, at its operating point (default: the champion)",
    )
    parser.add_argument(
        "--chooser",
        metavar="ID",
        help="the detector that chooses among the candidates (default: another one than --detector, a "
        "teacher first)",
    )
    parser.add_argument(
        "--prompt",
        help="prompt of images that bring none, in the file itself, in a .txt or .json file of the same "
        "name, in metadata.csv, or in the catalog",
    )
    parser.add_argument(
        "--class",
        dest="label_class",
        metavar="CLASS",
        help="with --images: only artifacts that people's labels mark with this class, by name or number",
    )
    parser.add_argument("--seed", type=int, help="random seed of the candidates (default: 0)")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--detach", action="store_true", help="with --images: queue it for a worker and return at once"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def repair(call: Call) -> Any:
    """Repair files into a folder, or images of the catalog as proposals."""
    from pipelines.services.images.repairs import choose_models

    given = call.options
    _check_options(given)
    run = repair_run(call)
    models = choose_models(call.workspace, run)
    chooser = models.chooser.name if models.chooser else "nobody else"
    call.say(f"{models.generator.name} redraws what {models.detector.name} finds; {chooser} chooses")
    for note in models.notes:
        call.say(f"  note: {note}")
    return _repair_files(call, run) if given.paths else _repair_selection(call, run)


def _repair_files(call: Call, run: "RepairRun") -> Any:
    from pipelines.services.images.repairs import repair_files

    given = call.options
    result = repair_files(call.workspace, run, given.paths, given.out, given.device, call.report)
    call.report.close()
    call.say(f"{_counts(result)}; {result['known']} were done before")
    call.say_refused(result["refused_files"], result["refused"])
    call.say(f"  {result['report']} lists every image, {result['gallery']} shows before and after")
    return result


def _repair_selection(call: Call, run: "RepairRun") -> Any:
    from pipelines.services.images.repairs import repair_images, request_repair
    from pipelines.services.queue import workers_alive

    if call.options.detach:
        job = request_repair(call.workspace, run, ACTOR)
        call.say(f"{job.id} is queued; follow it with `clinic status`")
        if not workers_alive(call.workspace):
            call.say("  no worker is running: start one with `clinic worker`")
        return job
    result = repair_images(call.workspace, run, call.options.device, call.report)
    call.report.close()
    call.say(_counts(result))
    call.say_refused(result["refused_images"], result["refused"])
    if result["repaired"]:
        call.say("  accept or reject them at /curate, tab Repairs; then `clinic study open --repairs`")
    return result


def _counts(result: dict[str, Any]) -> str:
    return (
        f"{count_of(result['repaired'], 'image')} repaired, {result['unchanged']} left as they were, "
        f"{result['refused']} refused; {result['regions_repaired']} of "
        f"{count_of(result['regions'], 'region')} redrawn"
    )


def _check_options(given: argparse.Namespace) -> None:
    """Refuse options that do not go together. Raises `ConfigRefused`."""
    if bool(given.paths) == (given.images is not None):
        raise ConfigRefused("give image files or folders, or a selection of the catalog with --images")
    if given.paths and given.out is None:
        raise ConfigRefused("name the folder of the results with --out")
    if given.paths and given.detach:
        raise ConfigRefused("--detach needs --images: a worker on another machine may not see these files")
    if given.paths and given.label_class:
        raise ConfigRefused(
            "--class needs --images: the detector marks artifacts without classes, so only people's labels "
            "of images in the catalog name them"
        )
    if given.images is not None and given.out is not None:
        raise ConfigRefused("--out is for image files; results of --images are proposed at /curate")


def repair_run(call: Call) -> "RepairRun":
    """The settings, with the command's own options applied."""
    from pipelines.selections.config import RepairRun

    given = call.options
    settings = with_settings(RepairRun().model_dump(mode="json"), given.set)
    if given.images is not None:
        settings["images"] |= query_of(call).model_dump(exclude_unset=True)
    named = {"generator": given.generator, "detector": given.detector, "chooser": given.chooser}
    settings |= {name: value for name, value in named.items() if value}
    if given.prompt is not None:
        settings["prompt"] = given.prompt
    if given.label_class:
        settings["label_class"] = _class_number(call, given.label_class)
    if given.seed is not None:
        settings["repair"]["seed"] = given.seed
    return RepairRun.model_validate(settings)


def _class_number(call: Call, named: str) -> int:
    """The number of a label class given by name or number. Raises `ConfigRefused`."""
    with call.workspace.catalog(read_only=True) as catalog:
        names = list(catalog.classes.names())
    if named in names:
        return names.index(named) + 1
    if named.isdigit() and 1 <= int(named) <= len(names):
        return int(named)
    raise ConfigRefused(f"--class {named}: there is no such label class; they are {', '.join(names)}")


def repair_config() -> "type[RepairRun]":
    from pipelines.selections.config import RepairRun

    return RepairRun


COMMANDS = (
    Command(
        name="repair",
        summary="redraw the artifacts of images, and keep a result only if it is better",
        run=repair,
        arguments=repair_arguments,
        examples=(
            "clinic repair holiday/ cat.png --generator 4f1c… --out repaired",
            "clinic repair cat.png --generator 4f1c… --out repaired --prompt 'a cat on a chair' "
            "--set repair.draws=8",
            "clinic repair --images state=approved class=1 --generator 4f1c… --class hand",
        ),
        settings=repair_config,
    ),
)
