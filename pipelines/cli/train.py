"""`clinic train IMAGES --masks MASKS --out DIR`: train a detector on folders, without a round."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cli.command import Call, Command, tracking_argument, with_settings
from pipelines.cli.retrain import training_run

if TYPE_CHECKING:
    from pipelines.config import TrainingRun

SHOWN = 20
DEFAULT_RECIPE = "photo"


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a detector on a folder of images and a folder of masks of the same names, which need no "
        "workspace and no round, and measure it on images that are held back. --out receives the detector's "
        "folder with its card, report.json, curves, and a contact sheet of validation images with map and "
        "mask. White marks an artifact; class numbers and palettes are read as well; an empty mask says that "
        "its image is free of artifacts. What is refused is listed in problems.csv and never counted as "
        "clean. If interrupted, run the same command again to resume. With --workspace, images and detector "
        "are recorded there, and all its labels are trained on."
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="folder of their masks")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="output folder: new, or to resume"
    )
    parser.add_argument(
        "--real", type=Path, metavar="DIR", help="folder of photographs, which are free of artifacts"
    )
    parser.add_argument(
        "--clean", action="store_true", help="take images without a mask as free of artifacts"
    )
    parser.add_argument(
        "--start",
        metavar="WHAT",
        help="a detector's folder or hub id, “clinic”, an encoder's weights (“imagenet”, “nvidia/mit-b0” to "
        "“nvidia/mit-b5”, which are non-commercial, a file, or a folder that transformers saved), or "
        "“random” (default: the recipe's)",
    )
    parser.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME",
        help=f"settings of the training: photo, paper, demo, … (default: {DEFAULT_RECIPE})",
    )
    parser.add_argument("--name", default="", help="name of the detector (default: the recipe's)")
    parser.add_argument(
        "--licence", default="", help="licence of the images; the detector inherits its limits"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.15,
        help="share of the images that is held back; near-duplicates stay together (default: 0.15)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of split and training (default: 0)")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )
    tracking_argument(parser)


def train(call: Call) -> Any:
    """Train, measure and write the detector."""
    from pipelines.services.standalone.training import PROBLEMS, MaskTraining, train_on_masks

    given = call.options
    request = MaskTraining(
        images=given.images,
        masks=given.masks,
        out=given.out,
        plan=plan_of(call),
        real=given.real,
        clean=given.clean,
        licence=given.licence,
        validation=given.validation,
        workspace=call.named_workspace,
        track=given.track or "",
    )
    result = train_on_masks(request, given.device, call.report, call.say)
    call.report.close()
    named = result["data"]["refused_files"]
    call.say_refused(named[:SHOWN], len(named))
    counts = (f"{sum(part.values())} {name}" for name, part in result["data"]["sets"].items())
    call.say(f"{result['detector']['name']}: {', '.join(counts)} images; {figures_of(result)}")
    call.say(f"  it {result['operating_point']['text']}")
    folder = given.out / result["detector"]["folder"]
    call.say(f"  use it with `clinic diagnose FOLDER --detector {folder} --out DIR`")
    if named:
        call.say(f"  full list of what was refused: {given.out / PROBLEMS}")
    return result


def figures_of(result: dict[str, Any]) -> str:
    """The figures on validation images, in a line."""
    found = result["figures"].get("validation", {})
    words = {"pixel_ap": "pixel AP", "auroc": "AUROC", "mse": "squared error"}
    shown = [f"{words[name]} {found[name]:.3f}" for name in words if found.get(name) is not None]
    return ", ".join(shown) or "no validation images, so no figures"


def plan_of(call: Call) -> "TrainingRun":
    """The settings of the training, from the command's options."""
    from pipelines import recipes
    from pipelines.config import TrainingRun

    given = call.options
    plan = recipes.training_named(given.recipe, given.seed)
    settings = with_settings(plan.model_dump(mode="json"), given.set)
    if given.start:
        settings["start"] = given.start
    if given.name:
        settings["training"]["name"] = given.name
    return TrainingRun.model_validate(settings)


COMMANDS = (
    Command(
        name="train",
        summary="train a detector on a folder of images and a folder of masks",
        run=train,
        arguments=train_arguments,
        examples=(
            "clinic train images --masks masks --out detector",
            "clinic train images --masks masks --real photos --out detector --set training.steps=2000",
            "clinic train images --masks masks --start OWNER/NAME --recipe paper --out detector",
        ),
        settings=training_run,
    ),
)
