"""`clinic inject`: artifacts injected into clean images, with exact label maps."""

import argparse
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import INJECTION_KINDS, NO_START
from pipelines.cli.command import Call, Command, with_settings
from pipelines.cli.selections import images_argument, query_of, say_result, start_on_worker

if TYPE_CHECKING:
    from pipelines.selections.config import InjectionRun


SOURCES = ("operations", "redraw")
"""The values of `InjectionRun.source`, which is not loaded for the help."""


def inject_arguments(parser: argparse.ArgumentParser) -> None:
    images_argument(parser)
    parser.add_argument(
        "--source",
        choices=SOURCES,
        default="operations",
        help="where artifacts come from: operations on pixels, or a region redrawn short and noisy by a "
        f"generator (default: operations). {NO_START}",
    )
    parser.add_argument("--generator", metavar="ID", help="the generator that redraws")
    parser.add_argument(
        "--kinds", metavar="KIND,…", help=f"kinds of operations (default: all: {', '.join(INJECTION_KINDS)})"
    )
    parser.add_argument(
        "--copies", type=int, help="images made of each clean one, each with another artifact (default: 1)"
    )
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument("--detach", action="store_true", help="queue it for a worker and return at once")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def inject(call: Call) -> Any:
    """Inject artifacts into the selected clean images, here or, with --detach, on a worker."""
    from pipelines.services.images.work import inject_images

    run = run_of(call)
    if call.options.detach:
        return start_on_worker(call, run)
    result = inject_images(call.workspace, run, call.options.device, call.report)
    call.report.close()
    kinds = ", ".join(f"{count} {kind}" for kind, count in result["kinds"].items())
    call.say(
        f"{result['images']} images with an injected artifact{f' ({kinds})' if kinds else ''}, "
        f"{result['known']} were there; {result['clean']} of {result['selected']} selected images are clean"
    )
    say_result(call, result)
    call.say("  a training takes them with publish.injected_limit; they count in no other figure")
    return result


def run_of(call: Call) -> "InjectionRun":
    """The settings of the injection, from the command's options."""
    from pipelines.selections.config import InjectionRun

    given = call.options
    settings = with_settings(InjectionRun().model_dump(mode="json"), given.set)
    settings["images"] |= query_of(call).model_dump(exclude_unset=True)
    settings |= {"source": given.source, "generator": given.generator}
    if given.kinds is not None:
        if given.source != "operations":
            raise ConfigRefused("--kinds belongs to --source operations; a generator's flaws have no kinds")
        settings["injection"]["kinds"] = kinds_of(given.kinds)
    if given.copies is not None:
        settings["copies"] = given.copies
    if given.seed is not None:
        settings["injection"]["seed"] = given.seed
    return InjectionRun.model_validate(settings)


def kinds_of(words: str) -> list[str]:
    """The kinds of "KIND,…". Raises `ConfigRefused` for an unknown one."""
    kinds = [kind.strip() for kind in words.split(",")]
    if unknown := [kind for kind in kinds if kind not in INJECTION_KINDS]:
        raise ConfigRefused(
            f"--kinds: there is no kind {unknown[0]!r}; choose from {', '.join(INJECTION_KINDS)}"
        )
    return kinds


def injection_run() -> "type[InjectionRun]":
    from pipelines.selections.config import InjectionRun

    return InjectionRun


COMMANDS = (
    Command(
        name="inject",
        summary="inject artifacts into clean images, with exact label maps, for training detectors",
        run=inject,
        arguments=inject_arguments,
        settings=injection_run,
        examples=(
            "clinic inject --images source=real",
            "clinic inject --images source=real --kinds warp,double --copies 2 --seed 1",
            "clinic inject --images source=real --source redraw --generator tiny-flux --detach",
        ),
    ),
)
