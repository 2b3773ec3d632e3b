"""Commands about models and their evaluation: generators, detectors, benchmarks, study, build-clinic,
check."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import DetectorVersion, GeneratorVersion
from pipelines.cli.check import build_arguments, build_command, build_config, check
from pipelines.cli.command import ACTOR, Call, Command, describe_use, shared
from pipelines.cli.exports import export_arguments, export_detector, require_export
from pipelines.cli.studies import study, study_arguments

V = TypeVar("V", DetectorVersion, GeneratorVersion)


def generators_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--add",
        metavar="LOCATION",
        help="register a diffusers pipeline: a folder, a single .safetensors or .gguf file, "
        "owner/name[@revision] on the hub, or a .pt checkpoint of guided-diffusion",
    )
    parser.add_argument(
        "--config",
        metavar="PATH",
        type=Path,
        help="for a single file the pipeline folder of its class, with configs, tokenizers and what the file "
        "lacks (default: beside the file, else the one in the hub's cache); for a .pt checkpoint the JSON "
        "file with its flags (default: flags.json beside it); for --estimate the folder with the settings",
    )
    parser.add_argument(
        "--estimate",
        metavar="CLASS",
        help="predict the memory to draw, diagnose and treat with this pipeline class, such as FluxPipeline, "
        "from the settings under --config: config.json of each part, in a folder of its name; nothing is "
        "downloaded, loaded or registered",
    )
    parser.add_argument(
        "--name", default="", help="name of the new generator (default: that of folder or repository)"
    )
    parser.add_argument(
        "--lora", metavar="PATH", type=Path, help="LoRA weights to load into it, such as DreamBooth's"
    )
    parser.add_argument(
        "--distilled",
        action=argparse.BooleanOptionalAction,
        help="it is distilled to few steps (FLUX.1-schnell, Turbo, Lightning), or not: treatments leave the "
        "offline regularisation out, and it is drawn in few steps (default: as its files say)",
    )
    parser.add_argument(
        "--vary", metavar="ID", help="register this generator again, with its LoRA at another --strength"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="scale of the LoRA: 0 base, 1 as trained (default: 0.5)",
    )
    parser.add_argument(
        "--remove",
        metavar="NAME",
        help="take a generator, by id or name, off the lists; its images and treatments stay",
    )
    parser.add_argument("--restore", metavar="NAME", help="put a removed generator back on the lists")
    rename_argument(parser, "generator")
    parser.add_argument("--reason", default="", help="reason for --remove, for the audit log")
    parser.add_argument("--licence", default="", help="licence, for model cards and exports")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the weights in memory (default: float32; use bfloat16 for FLUX.1 and SDXL)",
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(4, 8),
        help="quantise the denoiser's weights to this many bits (needs a GPU)",
    )
    parser.add_argument(
        "--steps", type=int, help="denoising steps that rounds draw it with (default: its pipeline's own)"
    )
    parser.add_argument(
        "--guidance", type=float, help="guidance scale that rounds draw it with (default: its pipeline's own)"
    )
    parser.add_argument(
        "--size", type=int, help="side in pixels that rounds draw it with (default: its pipeline's own)"
    )


def rename_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--rename", nargs=2, metavar=("NAME", "NEW"), help=f"give a {what}, by id or name, another name"
    )


def generators(call: Call) -> Any:
    """Register a generator if requested, then print every generator."""
    from dataengine.treatment.config import UsualSampling, WeightsConfig
    from pipelines.services import generators as services

    given = call.options
    if given.estimate:
        return estimated(call)
    if given.add:
        weights = WeightsConfig(precision=given.precision, bits=given.bits)
        side = given.size
        usual = UsualSampling(steps=given.steps, guidance=given.guidance, height=side, width=side)
        added = services.register_generator(
            call.new_workspace,
            given.add,
            given.name,
            given.licence,
            weights,
            given.lora,
            ACTOR,
            configs=given.config,
            distilled=given.distilled,
            usual=usual,
        )
        call.say(f"registered {added.name}; {describe_use(call, added)}")
        if given.distilled is None and (note := services.distillation_note(added)):
            call.say(f"  note: {note}")
    if given.vary:
        varied = services.vary_strength(call.workspace, given.vary, given.strength)
        call.say(f"registered {varied.name}; {describe_use(call, varied)}")
    with call.workspace.catalog(read_only=True) as catalog:
        versions = catalog.generators.list()
    if given.remove:
        chosen = version_named(versions, given.remove, "generator")
        removed = services.remove_generator(call.workspace, chosen.id, ACTOR, given.reason)
        call.say(f"removed {removed.name}; `clinic generators --restore {removed.id}` puts it back")
    if given.restore:
        chosen = version_named(versions, given.restore, "generator")
        restored = services.restore_generator(call.workspace, chosen.id, ACTOR)
        call.say(f"restored {restored.name}; {describe_use(call, restored)}")
    if given.rename:
        chosen = version_named(versions, given.rename[0], "generator")
        renamed = services.rename_generator(call.workspace, chosen.id, given.rename[1], ACTOR)
        call.say(f"{chosen.name} is now called {renamed.name}")
    with call.workspace.catalog(read_only=True) as catalog:
        versions = catalog.generators.list()
    for version in versions:
        kind = "base and LoRA" if version.lora else "base"
        words = services.weights_in_words(version) + ("" if version.removed is None else ", removed")
        call.say(f"{version.id}  {version.name}  {kind}  {words}  {version.location}")
    if not versions:
        call.say("no generator yet: `clinic generators --add FOLDER` registers a diffusers pipeline")
    return {"generators": [asdict(version) for version in versions]}


def estimated(call: Call) -> Any:
    """Print what a class needs."""
    from pipelines.services.generators import predict_needs

    kind, folder = call.options.estimate, call.options.config
    if folder is None:
        raise ConfigRefused("--estimate needs the settings of the model: give their folder with --config")
    needs = predict_needs(kind, folder)
    call.say(f"{kind}, predicted, one image at a time:")
    for need in needs:
        call.say(need["text"])
    return {"class": kind, "needs": needs}


def detectors_arguments(parser: argparse.ArgumentParser) -> None:
    from pipelines.exchange.formats import BOX_COORDINATES

    parser.add_argument(
        "--add",
        metavar="PATH|URL",
        help="register a detector folder or a file of weights, or http://HOST:PORT/v1#MODEL, a "
        "vision-language model that is asked for boxes with importance",
    )
    parser.add_argument(
        "--coordinates",
        choices=BOX_COORDINATES,
        default="",
        help="for a URL: what the numbers of its boxes mean (default: 0-1000)",
    )
    parser.add_argument("--name", default="", help="name of the new detector (default: the one it brings)")
    parser.add_argument(
        "--licence", default="", help="licence of the new detector (default: the one in its configuration)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "benchmark"),
        default="validation",
        help="split whose metrics are shown (default: validation)",
    )
    parser.add_argument(
        "--round",
        metavar="ID",
        help="round whose labels --measure and --calibrate use (default: the newest)",
    )
    parser.add_argument("--measure", action="store_true", help="evaluate every version on the current labels")
    parser.add_argument(
        "--calibrate",
        metavar="ID",
        help="fit this detector's temperature on the validation split, and choose its operating point anew",
    )
    parser.add_argument(
        "--promote", metavar="ID", help="make this version the champion; needs a frozen benchmark"
    )
    parser.add_argument(
        "--reason",
        default="",
        help="reason for a promotion, required if the metrics got worse, or for --retire",
    )
    parser.add_argument("--roll-back", action="store_true", help="make the previous champion champion again")
    parser.add_argument(
        "--retire",
        metavar="NAME",
        help="take a detector, by id or name, off the lists, so that it cannot be champion; its maps and "
        "figures stay",
    )
    parser.add_argument("--restore", metavar="NAME", help="put a retired detector back on the lists")
    rename_argument(parser, "detector")
    export_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")


def detectors(call: Call) -> Any:
    """Export, or register, measure, calibrate, promote or retire as requested and print the leaderboard."""
    from pipelines.cli.command import named_or_newest_round
    from pipelines.services import detectors as services

    given = call.options
    require_export(call)
    if given.export:
        return export_detector(call)
    if given.promote and given.roll_back:
        raise ConfigRefused("--promote and --roll-back exclude each other; give one of them")
    if given.add:
        if given.add.startswith(("http://", "https://")):
            added = services.register_boxes(call.new_workspace, given.add, given.coordinates, given.name)
        else:
            path = Path(given.add)
            added = services.register_detector(call.new_workspace, path, given.name, given.licence)
        call.say(f"{added.id}: {added.name}, licence {added.licence}, {added.role}")
    if given.measure:
        services.measure_detectors(call.workspace, named_or_newest_round(call).id, given.device, call.report)
    if given.calibrate:
        fit = services.calibrate_detector(
            call.workspace, named_or_newest_round(call).id, given.calibrate, given.device, call.report
        )
        errors = f"calibration error {fit['before']['error']:.4f} → {fit['after']['error']:.4f}"
        call.say(
            f"{given.calibrate}: temperature {fit['temperature']:.3f}, {errors}; stored, but not applied to "
            "predictions"
        )
    call.report.close()
    if given.promote:
        for line in services.promotion_verdicts(call.workspace, given.promote):
            call.say(line)
        promoted = services.promote_detector(
            call.workspace, given.promote, ACTOR, given.reason, champion_id(call)
        )
        call.say(f"{promoted.id}: {promoted.name} is champion")
    if given.roll_back:
        restored = services.roll_back_champion(call.workspace, ACTOR, champion_id(call))
        call.say(f"{restored.id}: {restored.name} is champion again")
    with call.workspace.catalog(read_only=True) as catalog:
        versions = catalog.detectors.list()
    if given.retire:
        chosen = version_named(versions, given.retire, "detector")
        retired = services.retire_detector(call.workspace, chosen.id, ACTOR, given.reason)
        call.say(f"retired {retired.name}; `clinic detectors --restore {retired.id}` puts it back")
    if given.restore:
        chosen = version_named(versions, given.restore, "detector")
        restored = services.restore_detector(call.workspace, chosen.id, ACTOR)
        call.say(f"restored {restored.name}")
    if given.rename:
        chosen = version_named(versions, given.rename[0], "detector")
        renamed = services.rename_detector(call.workspace, chosen.id, given.rename[1], ACTOR)
        call.say(f"{chosen.name} is now called {renamed.name}")
    rows = services.leaderboard_rows(call.workspace, given.split)
    for line in services.leaderboard_table(rows):
        call.say(line)
    with call.workspace.catalog(read_only=True) as catalog:
        retired_ones = [one for one in catalog.detectors.list() if one.removed is not None]
    for one in retired_ones:
        call.say(f"retired: {one.id}  {one.name}")
    return {"split": given.split, "detectors": rows, "retired": [asdict(one) for one in retired_ones]}


def version_named(versions: Sequence[V], named: str, what: str) -> V:
    """The version with that id, else the only one of that name. Raises `NotFound`, and `ConfigRefused` for a
    name that several have."""
    found = [one for one in versions if one.id == named] or [one for one in versions if one.name == named]
    if not found:
        raise NotFound(f"there is no {what} {named!r}; `clinic {what}s` lists them")
    if len(found) > 1:
        raise ConfigRefused(
            f"several {what}s are named {named!r}; give an id: {', '.join(one.id for one in found)}"
        )
    return found[0]


def champion_id(call: Call) -> str | None:
    with call.workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.champion_id()


def benchmarks_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list benchmark versions (the default)", parents=[shared()])
    frozen = actions.add_parser(
        "freeze",
        help="freeze a draft, so that it never changes again; without ID, freeze the labelled images and the "
        "real photos of split “benchmark”",
        parents=[shared()],
    )
    frozen.add_argument(
        "benchmark", nargs="?", metavar="ID", help="a draft whose images were settled at /curate"
    )
    frozen.add_argument("--name", default="", help="name of the new benchmark, without ID")


def benchmarks(call: Call) -> Any:
    """Freeze a benchmark if requested, then print every benchmark version."""
    from pipelines.services.benchmarks import describe_benchmark, freeze_benchmark, freeze_known

    given = call.options
    if given.action == "freeze":
        if given.benchmark:
            freeze_benchmark(call.workspace, given.benchmark, ACTOR)
        else:
            freeze_known(call.workspace, ACTOR, given.name)
    with call.workspace.catalog(read_only=True) as catalog:
        versions = [describe_benchmark(catalog, each) for each in catalog.benchmarks.list()]
    for each in versions:
        call.say(
            f"{each['id']}  version {each['version']}  {each['state']}  {each['settled']} of "
            f"{each['images']} images settled  {each['name']}".rstrip()
        )
    if not versions:
        call.say("no benchmark yet: draft one at /curate, or run `clinic benchmarks freeze`")
    return {"benchmarks": versions}


COMMANDS = (
    Command(
        name="generators",
        summary="list generators; register a diffusers pipeline from a folder or the hub; remove one",
        run=generators,
        arguments=generators_arguments,
        examples=(
            "clinic generators",
            "clinic generators --add models/sdxl --precision bfloat16",
            "clinic generators --add mine.safetensors --config models/sdxl --precision bfloat16",
            "clinic generators --estimate FluxPipeline --config settings/flux",
            "clinic generators --remove sdxl --reason 'its licence ended'",
            "clinic generators --add black-forest-labs/FLUX.1-schnell --precision bfloat16 --bits 4",
        ),
    ),
    Command(
        name="detectors",
        summary="leaderboard of detectors; register, measure, calibrate, promote, roll back, retire, export",
        run=detectors,
        arguments=detectors_arguments,
        examples=(
            "clinic detectors",
            "clinic detectors --add ad_pytorch_model.bin --name DiffDoctor",
            "clinic detectors --add http://127.0.0.1:8000/v1#qwen3-vl --coordinates 0-1000",
            "clinic detectors --measure --split benchmark",
            "clinic detectors --promote ID --reason 'it finds watermarks'",
            "clinic detectors --roll-back",
            "clinic detectors --retire ID",
            "clinic detectors --export ID my-detector --push-to-hub OWNER/NAME",
            "clinic detectors --export models/my-detector my-onnx --format onnx --half",
        ),
    ),
    Command(
        name="benchmarks",
        summary="list benchmark versions, or freeze one",
        run=benchmarks,
        arguments=benchmarks_arguments,
        examples=("clinic benchmarks", "clinic benchmarks freeze", "clinic benchmarks freeze ID"),
    ),
    Command(
        name="study",
        summary="blind studies of a generator before and after treatment: open, close, results",
        run=study,
        arguments=study_arguments,
        examples=("clinic study open", "clinic study", "clinic study close ID"),
    ),
    Command(
        name="build-clinic",
        summary="retrain the embedded clinic's models (hours on two cores)",
        run=build_command,
        arguments=build_arguments,
        examples=("clinic build-clinic --part judge --out build/clinic",),
        settings=build_config,
    ),
    Command(
        name="check",
        summary="verify the installation, and name what GPU, hub, PostgreSQL, S3 and Label Studio lack",
        run=check,
        examples=("clinic check", "clinic check --json"),
    ),
)
