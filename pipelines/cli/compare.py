"""`clinic compare A B` and `clinic judge BEFORE AFTER`: two generators, or two folders of images."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from dataengine.records import count_of
from pipelines.cli.command import Call, Command, OutsideRounds, with_settings

if TYPE_CHECKING:
    from pipelines.config import ComparisonSettings, MeasuresConfig

JUDGE_EXAMPLES = (
    "clinic judge before/ after/ --detector detector/ --out judged",
    "clinic judge before/ after/ --detector clinic --out judged --set lpips=alexnet.safetensors",
)


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw the same prompts with the same seeds by two generators, find artifacts in both, and compare. "
        "--out receives report.json, pairs.csv, comparison.html and pairs.jpg with the worst pairs first, "
        "and the images. Figures: mean and maximum confidence, frequency at 0.5 and at the detector's "
        "operating point, PSNR, SSIM, detail, diversity, and by --set LPIPS, FID, KID, precision, recall, "
        "alignment and preference models; all with 95 % intervals over prompts, and by category or challenge "
        "with a paired t-test. A and B are folders, single .safetensors files, hub ids, clinic-flux, "
        "clinic-sd, or with --workspace ids or names. No workspace is needed. If interrupted, run the same "
        "command again."
    )
    parser.add_argument("before", metavar="A", help="the generator that is compared with, such as the base")
    parser.add_argument("after", metavar="B", nargs="?", default="", help="the generator in question")
    parser.add_argument(
        "--lora-b", type=Path, metavar="FILE", help="a LoRA on B; without B, on the same base as A"
    )
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="prompts as .txt, .csv, .tsv, .json or .jsonl, whose other columns are kept; or partiprompts, "
        "hpdv2 or drawbench, from the folder that CLINIC_PROMPTS names, else from the hub",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use at most N prompts, evenly spaced")
    parser.add_argument("--seeds", type=int, metavar="N", help="images of each prompt (default: 1)")
    shared_arguments(parser)
    under_arguments(parser)


def shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        metavar="WHAT",
        help="a detector's folder or file, clinic, or with --workspace the id or name of a registered one",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder, new or of the same call")


def under_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--under",
        action="store_true",
        help="does B hold where people draw? Frequency by sampler, steps, guidance, size, bfloat16, 8-bit "
        "floats, 8 bits, strength and a second LoRA; the bad cells are named in the report and, with "
        "--workspace, in the LoRA's model card",
    )
    parser.add_argument(
        "--second-lora", type=Path, metavar="FILE", help="with --under: a LoRA that is attached beside B's"
    )
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def compare(call: Call) -> Any:
    """Compare two generators into a folder."""
    from pipelines.services.standalone import comparison

    given = call.options
    out, detector = required(call)
    request = comparison.ComparisonRequest(
        before=given.before,
        after=given.after,
        lora=given.lora_b,
        detector=detector,
        prompts=given.prompts,
        limit=given.limit,
        settings=request_settings(call),
    )
    places = {"workspace": call.named_workspace, "device": given.device, "report": call.report}
    if given.under:
        from pipelines.services.standalone.under import compare_under

        result = compare_under(request, out, second=given.second_lora, **places)
        return say_cells(call, result, out)
    if given.second_lora:
        raise ConfigRefused("--second-lora is one of the conditions of --under; give that as well")
    result = comparison.compare(request, out, **places)
    return say_comparison(call, result, out)


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for two folders of images; the stage's own follow."""
    parser.description = (
        "With BEFORE and AFTER, two folders of images are compared by file name, with the figures of `clinic "
        "compare`; files without a partner, of another size or broken are named and left out. --out receives "
        "report.json, pairs.csv, comparison.html and pairs.jpg. No workspace is needed. Without folders this "
        "is the stage of a round that compares the treated generator with its base."
    )
    parser.add_argument("before", nargs="?", type=Path, metavar="BEFORE", help="folder of images before")
    parser.add_argument("after", nargs="?", type=Path, metavar="AFTER", help="folder of images after")
    shared_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one measure's setting"
    )


def judges_folders(call: Call) -> bool:
    """Whether the command was given folders. Raises `ConfigRefused` for options that do not go together."""
    given = call.options
    if given.before is None:
        if given.out or given.detector or given.set:
            raise ConfigRefused("--out, --detector and --set are for folders of images: name two of them")
        return False
    if given.after is None:
        raise ConfigRefused("name two folders: the images before, and those after")
    if given.round or given.engine != "local":
        raise ConfigRefused("--round and --engine are for a stage of a round; leave them out for folders")
    return True


def judge_folders(call: Call) -> Any:
    """Compare two folders of images into a folder."""
    from pipelines.config import MeasuresConfig
    from pipelines.services.standalone import comparison

    given = call.options
    out, detector = required(call)
    settings = with_settings(MeasuresConfig().model_dump(mode="json"), given.set)
    result = comparison.judge_folders(
        given.before,
        given.after,
        detector,
        out,
        measures=MeasuresConfig.model_validate(settings),
        workspace=call.named_workspace,
        device=given.device,
        report=call.report,
    )
    return say_comparison(call, result, out)


def required(call: Call) -> tuple[Path, str]:
    """The output folder and the detector. Raises `ConfigRefused` where one is not named."""
    given = call.options
    if given.out is None:
        raise ConfigRefused("name the folder of the results with --out")
    if not given.detector:
        raise ConfigRefused("name a detector with --detector: its folder, its file, or clinic")
    return given.out, given.detector


def request_settings(call: Call) -> "ComparisonSettings":
    """Seeds, sampling, measures and conditions, with the command's own options applied."""
    from pipelines.config import ComparisonSettings, SamplingConfig

    settings = ComparisonSettings().model_dump(mode="json")
    # Those that are not set are each generator's own.
    settings["sampling"] = dict.fromkeys(SamplingConfig.model_fields)
    settings = with_settings(settings, call.options.set)
    settings["sampling"] = {name: value for name, value in settings["sampling"].items() if value is not None}
    if call.options.seeds is not None:
        settings["seeds"] = call.options.seeds
    return ComparisonSettings.model_validate(settings)


def say_cells(call: Call, result: dict[str, Any], out: Path) -> Any:
    """Print the cells, bad ones first, and where everything lies."""
    call.report.close()
    call.say(f"{result['after']} against {result['before']}, artifact frequency by condition:")
    for cell in sorted(result["cells"], key=lambda cell: -(cell["ratio"] or 0.0)):
        if cell["ratio"] is None:
            text = cell["verdict"]
        else:
            low, high = cell["interval"]
            text = f"× {cell['ratio']:.2f} ({low:.2f} to {high:.2f})  {cell['verdict']}"
        call.say(f"  {cell['name']:28} {cell['before']:.3f} → {cell['after']:.3f}  {text}")
    call.say(f"{result['held']} of {len(result['cells'])} cells hold at a ratio of {result['limit']:g}")
    for text in result["advice"]:
        call.say(f"  {text}")
    for one in result["left_out"]:
        call.say(f"  not drawn: {one['name']}, since {one['reason']}")
    call.say(f"  {out / 'under.html'} shows every cell, {out / 'cells.csv'} lists them")
    return result


def say_comparison(call: Call, result: dict[str, Any], out: Path) -> Any:
    """Print the main figures and where everything lies."""
    call.report.close()
    figures = result["figures"]
    call.say(f"{count_of(result['pairs'], 'pair')}: {result['before']} against {result['after']}")
    for name, label in (
        ("mean_confidence", "mean confidence"),
        ("flagged", "flagged images"),
        ("frequency", "frequency at 0.5"),
    ):
        one = figures[name]
        change = "ratio undefined"
        if one["ratio"] is not None:
            low, high = one["interval"]
            change = f"× {one['ratio']:.3f} ({low:.3f} to {high:.3f})"
        call.say(f"  {label:18} {one['before']:.4f} → {one['after']:.4f}  {change}")
    for note in result["notes"]:
        call.say(f"  note: {note}")
    for one in result["left_out"][:20]:
        call.say(f"  left out: {one['file']}: {one['reason']}")
    if len(result["left_out"]) > 20:
        call.say(f"  … and {len(result['left_out']) - 20} more")
    call.say(f"  {out / 'comparison.html'} shows the worst pairs first, {out / 'pairs.csv'} lists all")
    return result


def comparison_settings() -> "type[ComparisonSettings]":
    from pipelines.config import ComparisonSettings

    return ComparisonSettings


def measures_settings() -> "type[MeasuresConfig]":
    from pipelines.config import MeasuresConfig

    return MeasuresConfig


FOLDERS = OutsideRounds(
    what="of two folders of images",
    arguments=judge_arguments,
    is_asked=judges_folders,
    run=judge_folders,
    examples=JUDGE_EXAMPLES,
    settings=measures_settings,
)
COMMANDS = (
    Command(
        name="compare",
        summary="compare two generators on the same prompts and seeds, without a round",
        run=compare,
        arguments=compare_arguments,
        examples=(
            "clinic compare clinic-flux --lora-b lora/ --detector clinic --prompts prompts.txt --out out",
            "clinic compare BASE --lora-b lora.safetensors --under --detector detector/ --prompts drawbench "
            "--limit 50 --out under",
            "clinic compare BASE B --detector detector/ --prompts partiprompts --limit 200 --out compared",
            "clinic compare BASE B --detector detector/ --prompts prompts.tsv --out compared "
            "--set measures.alignment=VQA-MODEL --set 'measures.scorers=[\"program:imagereward\"]'",
        ),
        settings=comparison_settings,
    ),
)
