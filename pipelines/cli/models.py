"""Commands about models and judging: generators, detectors, study, build-clinic, check."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataengine.errors import ConfigRefused
from pipelines.cli.check import build_arguments, build_command, build_config, check
from pipelines.cli.command import ACTOR, Call, Command, shared, who_draws
from pipelines.cli.studies import study, study_arguments


def generators_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--add",
        metavar="LOCATION",
        help="first register a diffusers pipeline: a folder, or owner/name[@revision]",
    )
    parser.add_argument("--name", default="", help="its name (default: that of folder or repository)")
    parser.add_argument(
        "--lora", metavar="PATH", type=Path, help="a LoRA that it carries, such as DreamBooth's"
    )
    parser.add_argument(
        "--vary", metavar="ID", help="first register this generator once more, its LoRA at another --strength"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="how far the LoRA counts: 0 base, 1 as trained (default: 0.5)",
    )
    parser.add_argument("--licence", default="", help="its licence, for cards and exports")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="type of its weights in memory (default: float32; FLUX.1 and SDXL want bfloat16)",
    )
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), help="store the denoiser in so few bits (needs a GPU)"
    )


def generators(call: Call) -> Any:
    """Print every generator, after registering one where that was asked for."""
    from dataengine.treatment.config import WeightsConfig
    from pipelines.services.generators import register_generator, vary_strength, weights_in_words

    given = call.options
    if given.add:
        weights = WeightsConfig(precision=given.precision, bits=given.bits)
        added = register_generator(
            call.new_workspace, given.add, given.name, given.licence, weights, given.lora
        )
        call.say(f"registered {added.name}; {who_draws(call, added)}")
    if given.vary:
        varied = vary_strength(call.workspace, given.vary, given.strength)
        call.say(f"registered {varied.name}; {who_draws(call, varied)}")
    with call.workspace.catalog(read_only=True) as catalog:
        found = catalog.generators.list()
    for version in found:
        kind = "base and LoRA" if version.lora else "base"
        call.say(f"{version.id}  {version.name}  {kind}  {weights_in_words(version)}  {version.location}")
    if not found:
        call.say("no generator yet: `clinic generators --add FOLDER` registers a diffusers pipeline")
    return {"generators": [asdict(version) for version in found]}


def detectors_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--add", metavar="PATH", type=Path, help="first register a detector folder or checkpoint"
    )
    parser.add_argument("--name", default="", help="its name (default: its own)")
    parser.add_argument("--licence", default="", help="its licence (default: what its configuration says)")
    parser.add_argument(
        "--split", choices=("validation", "benchmark"), default="validation", help="what is shown"
    )
    parser.add_argument("--round", metavar="ID", help="whose labels count as new (default: the newest round)")
    parser.add_argument(
        "--measure", action="store_true", help="measure every version on today's labels first"
    )
    parser.add_argument(
        "--calibrate", metavar="ID", help="fit this detector's temperature on validation first"
    )
    parser.add_argument(
        "--promote", metavar="ID", help="first make this version champion; needs a frozen benchmark"
    )
    parser.add_argument("--reason", default="", help="why, where the figures speak against it")
    parser.add_argument(
        "--roll-back", action="store_true", help="first make the previous champion champion again"
    )
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")


def detectors(call: Call) -> Any:
    """Print the leaderboard, after measuring or calibrating where that was asked for."""
    from pipelines.cli.command import newest
    from pipelines.services import detectors as services

    given = call.options
    if given.promote and given.roll_back:
        raise ConfigRefused("--promote and --roll-back contradict each other; give one of them")
    if given.add:
        added = services.register_detector(call.new_workspace, given.add, given.name, given.licence)
        call.say(f"{added.id}: {added.name}, licence {added.licence}, {added.role}")
    if given.measure:
        services.measure_detectors(call.workspace, newest(call).id, given.device, call.report)
    if given.calibrate:
        found = services.calibrate_detector(
            call.workspace, newest(call).id, given.calibrate, given.device, call.report
        )
        errors = f"calibration error {found['before']['error']:.4f} → {found['after']['error']:.4f}"
        call.say(
            f"{given.calibrate}: temperature {found['temperature']:.3f}, {errors}; used only where asked for"
        )
    call.report.close()
    if given.promote:
        made = services.promote_detector(
            call.workspace, given.promote, ACTOR, given.reason, champion_id(call)
        )
        call.say(f"{made.id}: {made.name} is champion")
    if given.roll_back:
        restored = services.roll_back_champion(call.workspace, ACTOR, champion_id(call))
        call.say(f"{restored.id}: {restored.name} is champion again")
    rows = services.leaderboard_rows(call.workspace, given.split)
    for line in services.leaderboard_table(rows):
        call.say(line)
    return {"split": given.split, "detectors": rows}


def champion_id(call: Call) -> str | None:
    with call.workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.champion_id()


def benchmarks_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="every benchmark version (the default)", parents=[shared()])
    frozen = actions.add_parser(
        "freeze",
        help="end all change of a draft; without one, draft and freeze the labelled images of split "
        "“benchmark” and its real photos",
        parents=[shared()],
    )
    frozen.add_argument("benchmark", nargs="?", metavar="ID", help="a draft that /curate has settled")
    frozen.add_argument("--name", default="", help="name of a benchmark that is drafted now")


def benchmarks(call: Call) -> Any:
    """Print every benchmark version, after freezing one where that was asked for."""
    from pipelines.services.benchmarks import describe_benchmark, freeze_benchmark, freeze_known

    given = call.options
    if given.action == "freeze":
        if given.benchmark:
            freeze_benchmark(call.workspace, given.benchmark, ACTOR)
        else:
            freeze_known(call.workspace, ACTOR, given.name)
    with call.workspace.catalog(read_only=True) as catalog:
        found = [describe_benchmark(catalog, each) for each in catalog.benchmarks.list()]
    for each in found:
        call.say(
            f"{each['id']}  version {each['version']}  {each['state']}  {each['settled']} of "
            f"{each['images']} images settled  {each['name']}".rstrip()
        )
    if not found:
        call.say("no benchmark yet: draft one at /curate, or freeze what has known labels")
    return {"benchmarks": found}


COMMANDS = (
    Command(
        name="generators",
        summary="every generator version: register a pipeline from a folder or the hub, list",
        run=generators,
        arguments=generators_arguments,
        examples=(
            "clinic generators",
            "clinic generators --add models/sdxl --precision bfloat16",
            "clinic generators --add black-forest-labs/FLUX.1-schnell --precision bfloat16 --bits 4",
        ),
    ),
    Command(
        name="detectors",
        summary="every detector version side by side: register, measure, calibrate, compare",
        run=detectors,
        arguments=detectors_arguments,
        examples=(
            "clinic detectors",
            "clinic detectors --add ad_pytorch_model.bin --name DiffDoctor",
            "clinic detectors --measure --split benchmark",
            "clinic detectors --promote ID --reason 'it finds watermarks'",
            "clinic detectors --roll-back",
        ),
    ),
    Command(
        name="benchmarks",
        summary="every benchmark version: freeze, list",
        run=benchmarks,
        arguments=benchmarks_arguments,
        examples=("clinic benchmarks", "clinic benchmarks freeze", "clinic benchmarks freeze ID"),
    ),
    Command(
        name="study",
        summary="blind judging of before against after: open, close, verdicts",
        run=study,
        arguments=study_arguments,
        examples=("clinic study open", "clinic study", "clinic study close ID"),
    ),
    Command(
        name="build-clinic",
        summary="train the embedded clinic's models anew (hours on two cores)",
        run=build_command,
        arguments=build_arguments,
        examples=("clinic build-clinic --part judge --out build/clinic",),
        settings=build_config,
    ),
    Command(
        name="check",
        summary="is this installation sound?",
        run=check,
        examples=("clinic check", "clinic check --json"),
    ),
)
