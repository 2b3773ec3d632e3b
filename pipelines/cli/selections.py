"""Work on selections of images, without a round: what `diagnose`, `categorize`, `mine` and `pseudo-label` do
with --images, and the figures of `hard-categories`."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import count_of
from pipelines.cli.command import ACTOR, Call, Command, OutsideRounds, with_settings

if TYPE_CHECKING:
    from dataengine.records import Job
    from pipelines.selections.config import ImageQuery, SelectionRun

NAMES = ("diagnose", "categorize", "mine", "pseudo-label")
"""The stages that also work on a selection."""
DETECTOR_OF = {
    "diagnose": "the detector that predicts",
    "mine": "the detector whose predictions count",
    "pseudo-label": "the detector whose maps become labels",
}
FILTER_HELP = (
    "the images, as in the address of the Curate page: NAME=VALUE with the names category, generator, "
    "detector, low, high, class, state, split, source, round, tag, search"
)


def images_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", nargs="*", metavar="FILTER", help=f"{FILTER_HELP}; without a FILTER, all images"
    )
    parser.add_argument(
        "--search",
        metavar="WORDS",
        help="only images whose prompt has these words: 'hand \"five fingers\" -glove paint*'",
    )


def selection_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """The options that make the stage's command work on a selection instead of a round's images."""
    images_argument(parser)
    if name in DETECTOR_OF:
        files = "; for PATH also a file, a folder, a hub id or “clinic”" * (name == "diagnose")
        parser.add_argument(
            "--detector",
            metavar="ID",
            help=f"{DETECTOR_OF[name]} (default: the champion); without a round{files}",
        )
    if name == "categorize":
        parser.add_argument(
            "--model",
            metavar="LOCATION",
            help="folder or hub id of a VQA model or classifier, URL of an endpoint followed by # and the "
            "model's name, or “clinic”; without a round",
        )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="queue it for a worker and return at once; without a round",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of the work without a round; may be repeated",
    )


def is_selection(call: Call) -> bool:
    """Whether the command was asked to work on a selection of images rather than on a round.

    So it is with any option of a selection, and in a workspace without a round. Raises `ConfigRefused` when a
    round is named as well.
    """
    given = vars(call.options)
    asked = given["images"] is not None or any(
        given.get(name) for name in ("search", "detector", "model", "detach", "set")
    )
    if asked and (given["round"] or given["engine"] != "local"):
        raise ConfigRefused(
            "--round and --engine belong to a stage of a round; for a selection of images leave them out "
            "(--images round=ID selects those that a round generated)"
        )
    if asked or given["round"]:
        return asked
    with call.workspace.catalog(read_only=True) as catalog:
        return not catalog.rounds.list()


def run_selection(name: str, call: Call) -> Any:
    """Do the stage's work on the selected images, here or, with --detach, on a worker."""
    from pipelines.services.images import work

    run = run_of(name, call)
    if call.options.detach:
        return start_on_worker(call, run)
    doing: Callable[..., dict[str, Any]] = getattr(work, f"{name.replace('-', '_')}_images")
    result = doing(call.workspace, run, call.options.device, call.report)
    call.report.close()
    call.say(SUMMARIES[name](result))
    say_result(call, result)
    return result


def start_on_worker(call: Call, run: "SelectionRun") -> "Job":
    """Queue the work for a worker, and say how to follow it."""
    from pipelines.services.images.work import request_work
    from pipelines.services.queue import workers_alive

    job = request_work(call.workspace, run, ACTOR)
    call.say(f"{job.id} is queued; follow it with `clinic status`")
    if not workers_alive(call.workspace):
        call.say("  no worker is running: start one with `clinic worker`")
    return job


def say_result(call: Call, result: dict[str, Any]) -> None:
    """Name the images that were left out or could not be read, and print the result's note."""
    for key, words in (("left_out", "left out"), ("unreadable", "unreadable")):
        named = result.get(f"{key}_images", ())
        for image in named:
            call.say(f"  {words}: {image}")
        if (more := result.get(key, 0) - len(named)) > 0:
            call.say(f"  … and {more} more {words}")
    if result.get("note"):
        call.say(f"  note: {result['note']}")


def run_of(name: str, call: Call) -> "SelectionRun":
    """The settings of the work, from the command's options."""
    given, kind = call.options, settings_of(name)()
    settings = with_settings(kind().model_dump(mode="json"), given.set)
    settings["images"] |= query_of(call).model_dump(exclude_unset=True)
    if getattr(given, "detector", None):
        settings["detector"] = given.detector
    if getattr(given, "model", None):
        settings["categorize"]["model"] = given.model
    return kind.model_validate(settings)


def query_of(call: Call) -> "ImageQuery":
    from pipelines.services.images.filters import parse_query

    return parse_query(call.options.images or (), getattr(call.options, "search", None))


def settings_of(name: str) -> "Callable[[], type[SelectionRun]]":
    """Gives the configuration of the stage's work on a selection."""

    def found() -> "type[SelectionRun]":
        from pipelines.services.images.work import KINDS

        return next(run for run, kind in KINDS.items() if kind == name)

    return found


def _diagnosed(result: dict[str, Any]) -> str:
    return (
        f"{count_of(result['images'], 'image')} predicted by {result['name']}, {result['suspected']} "
        f"flagged; {result['known']} of {result['selected']} predicted before"
    )


def _categorized(result: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in result["categories"].items())
    got = f"{result['answered']} of {result['asked']} images without a category got one"
    line = f"{got if result['asked'] else 'every image had a category already'}: {counts}"
    return line + f", {result['uncategorised']} without one" * bool(result["uncategorised"])


def _mined(result: dict[str, Any]) -> str:
    hard = f"hard categories: {', '.join(result['hard'])}" if result["hard"] else "no category is hard"
    line = f"{result['queued']} of {result['considered']} candidates queued as {result['round']}; {hard}"
    return line + f"; {count_of(result['unpredicted'], 'image')} without a prediction yet" * bool(
        result["unpredicted"]
    )


def _pseudo_labelled(result: dict[str, Any]) -> str:
    return f"{count_of(result['images'], 'pseudo-label')} by {result['name']}, {result['flawed']} flawed"


SUMMARIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "diagnose": _diagnosed,
    "categorize": _categorized,
    "mine": _mined,
    "pseudo-label": _pseudo_labelled,
}


def hard_arguments(parser: argparse.ArgumentParser) -> None:
    images_argument(parser)
    parser.add_argument(
        "--detector", metavar="ID", help="the detector whose predictions count (default: the champion)"
    )


def hard_categories(call: Call) -> Any:
    """Print how confident the detector is in each category, and which categories are hard."""
    from pipelines.services.images.work import hard_categories

    report = hard_categories(call.workspace, query_of(call), call.options.detector)
    for row in report["categories"]:
        call.say(
            f"{row['category']:<24} {row['images']:>7} images  mean {row['mean']:.3f}  {row['verdict']}"
            + ("" if row["p"] is None else f"  p {row['p']:.3f}")
        )
    if not report["categories"]:
        call.say(
            "none of these images has both a category and a prediction; run `clinic categorize` and "
            "`clinic diagnose` first"
        )
    return report


EXAMPLES = {
    "diagnose": (
        "clinic diagnose --images source=imported",
        "clinic diagnose --images --detector ID --detach",
    ),
    "categorize": (
        "clinic categorize --images source=imported --model http://127.0.0.1:8000/v1#qwen",
        "clinic categorize --images --model clinic",
    ),
    "mine": ("clinic mine --images source=imported --set mine.budget=100",),
    "pseudo-label": ("clinic pseudo-label --images source=imported state=unlabelled",),
}


def selection_of(name: str) -> OutsideRounds:
    """The stage's work on a selection of images."""
    return OutsideRounds(
        what="of any images",
        arguments=partial(selection_arguments, name),
        is_asked=is_selection,
        run=partial(run_selection, name),
        examples=EXAMPLES[name],
        settings=settings_of(name),
    )


COMMANDS = (
    Command(
        name="hard-categories",
        summary="the detector's confidence by category, and which categories are hard",
        run=hard_categories,
        arguments=hard_arguments,
        examples=("clinic hard-categories", "clinic hard-categories --images source=imported split=train"),
    ),
)
