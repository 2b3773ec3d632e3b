"""`clinic treat GENERATOR`: treat a generator with no round, into one output folder."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import Call, OutsideRounds, tracked, with_settings

if TYPE_CHECKING:
    from pipelines.config import TreatmentRun
    from pipelines.services.standalone.treatment import TreatmentRequest
    from storage.workspace import Workspace

EXAMPLES = (
    "clinic treat clinic-flux --detector clinic --category hand --preset demo --out treated",
    "clinic treat black-forest-labs/FLUX.1-dev --detector doctor/ --prompts prompts.txt --real photos/ "
    "--out treated",
    "clinic treat sd15/ --detector doctor/ --prompts prompts.tsv --preset focus-n-fix-on-detector "
    "--sweep tuning.region.beta=2e-5,6e-5,2e-4 --out betas",
    "clinic treat sd15/ --detector doctor/ --prompts prompts.txt --preset draft --reward pickscore:pick/ "
    "--estimate",
)
RUNS_IN_TURN = ("1-whole-image", "2-regions")
"""Folders of sequential tuning's two runs."""


def treatment_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `clinic treat GENERATOR`."""
    parser.description = (
        "With a GENERATOR: treat it against a detector, without a round. --out receives the LoRA for "
        "diffusers and ComfyUI with a model card (lora/), sheets of pairs before and after (pairs.png, "
        "worse.png), the same seeds over the updates (strip.png) and over the LoRA's strength "
        "(strength.png), and the figures (figures.json, pairs.csv, looks.csv). If interrupted, run the same "
        "command again to resume. Without a GENERATOR: the stage of a round."
    )
    parser.add_argument(
        "generator",
        nargs="?",
        metavar="GENERATOR",
        help="a diffusers pipeline's folder, a single .safetensors file, a hub id, clinic-flux, clinic-sd, "
        "or with --workspace the id or name of a registered one",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder, new or of the same call")
    method_arguments(parser)
    parser.add_argument(
        "--sweep",
        metavar="NAME=A,B,…",
        help="treat once for each value of one setting, and name the best value: the lowest mean confidence "
        "among those with PSNR > 20, SSIM > 0.75 and LPIPS < 0.2 (Focus-N-Fix)",
    )
    parser.add_argument(
        "--estimate", action="store_true", help="print the memory and time that it needs, and stop"
    )
    parser.add_argument(
        "--push-to-hub", metavar="REPO", help="upload the LoRA with its card to this private repository"
    )


def method_arguments(parser: argparse.ArgumentParser) -> None:
    """Detector, prompts, preset and settings of a treatment."""
    parser.add_argument(
        "--detector",
        metavar="WHAT",
        help="a detector's folder or file, clinic, or with --workspace the id or name of a registered one "
        "(default there: the champion)",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="prompts to treat on: .txt, .csv, .tsv, .json, or a published set"
    )
    parser.add_argument(
        "--held-out",
        metavar="FILE",
        help="prompts of the guard and the comparison (default: every fifth of --prompts)",
    )
    parser.add_argument(
        "--category", action="append", default=[], metavar="NAME", help="write prompts for this category"
    )
    parser.add_argument(
        "--preset",
        default="",
        metavar="NAME",
        help="diffdoctor, diffdoctor-without-regularisation, focus-n-fix, focus-n-fix-on-detector, "
        "focus-n-fix-safety, focus-n-fix-misalignment, draft, draft-on-detector, align-prop, refl, "
        "sequential, sequential-on-detector, or a recipe such as demo (default: diffdoctor)",
    )
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="SCORER",
        help="scorer that the preset raises: clip:LOCATION, pickscore:LOCATION, hpsv2:LOCATION "
        "or classifier:LOCATION#LABEL",
    )
    parser.add_argument(
        "--real",
        type=Path,
        metavar="DIR",
        help="artifact-free images for the regularisation, with captions beside them or in metadata.csv",
    )
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    parser.add_argument("--name", default="", help="name of the treated generator")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def is_standalone(call: Call) -> bool:
    """Whether a generator was named. Raises `ConfigRefused` for its options without it, and for a round's
    options with it."""
    given = call.options
    own = {
        "--out": given.out,
        "--detector": given.detector,
        "--prompts": given.prompts,
        "--category": given.category,
        "--preset": given.preset,
        "--sweep": given.sweep,
        "--estimate": given.estimate,
        "--set": given.set,
        "--push-to-hub": given.push_to_hub,
    }
    named = [name for name, value in own.items() if value]
    if not given.generator and named:
        raise ConfigRefused(f"{named[0]} belongs to a treatment without a round: name the GENERATOR to treat")
    if given.generator and (given.round or given.engine != "local"):
        raise ConfigRefused("--round and --engine belong to the stage of a round; leave the GENERATOR out")
    return bool(given.generator)


def treat(call: Call) -> Any:
    """Treat once, in turn, or for each value of a sweep; or estimate what that needs."""
    import tempfile

    from pipelines.services.standalone.output import begun_output, output_workspace

    given = call.options
    if given.sweep and given.push_to_hub:
        raise ConfigRefused("--sweep makes several LoRAs: choose a value first, then push that one")
    setting, values = sweep_of(given.sweep) if given.sweep else ("", [])
    if given.out is None and not given.estimate:
        raise ConfigRefused("name the folder of the results with --out")
    request = request_of(call)
    with ExitStack() as stack:
        out = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with begun_output(out, "treat", recorded(call, request)):
            plans = plans_of(call, request, out, setting, values)
        workspace = stack.enter_context(output_workspace(out, call.named_workspace))
        if given.estimate:
            return estimate(call, workspace, plans[0])
        if setting:
            return sweep(call, workspace, setting, values, plans, out)
        return in_turn(call, workspace, plans, out)


def plans_of(
    call: Call, request: "TreatmentRequest", out: Path, setting: str, values: list[Any]
) -> "list[TreatmentRun]":
    """The treatments to run: of the preset, or one for each value of a sweep."""
    from pipelines.services.standalone.output import output_workspace
    from pipelines.services.standalone.treatment import plan_treatments, require_inputs

    with output_workspace(out, call.named_workspace) as workspace:
        planned, notes = plan_treatments(workspace, request, call.report)
        call.report.close()
        for note in notes:
            call.say(f"  note: {note}")
        plans = [changed(plan, call.options.set) for plan in planned]
        if setting and len(plans) > 1:
            raise ConfigRefused(f"--sweep needs a preset of one run, and {request.preset} has two")
        if setting:
            plans = [changed(plans[0], [f"{setting}={json.dumps(value)}"]) for value in values]
        if not call.options.estimate:
            for plan in plans:
                require_inputs(workspace, plan)
    return plans


def in_turn(call: Call, workspace: "Workspace", plans: "list[TreatmentRun]", out: Path) -> Any:
    """Treat, or treat twice, the second time what the first one made."""
    from pipelines.services.standalone.treatment import push_lora

    found: list[dict[str, Any]] = []
    for number, plan in enumerate(plans):
        if found:
            if found[-1]["treated"] is None:
                call.say("  the first run kept nothing, so the second one was left out")
                break
            plan = plan.model_copy(update={"generator": found[-1]["treated"]})
        folder = out if len(plans) == 1 else out / RUNS_IN_TURN[number]
        found.append(treat_into(call, workspace, plan, folder))
        say_figures(call, found[-1])
    result: dict[str, Any] = found[0] if len(plans) == 1 else {"runs": found}
    call.say(f"  {out} holds {'the LoRA, ' * bool(found[-1]['treated'])}sheets and figures")
    if call.options.push_to_hub:
        folder = out if len(plans) == 1 else out / RUNS_IN_TURN[len(found) - 1]
        result["url"] = push_lora(folder / "lora", call.options.push_to_hub)
        call.say(f"  pushed: {result['url']}")
    return result


def treat_into(call: Call, workspace: "Workspace", plan: "TreatmentRun", folder: Path) -> dict[str, Any]:
    """One treatment with its results in the folder."""
    from pipelines.services.standalone.treatment import run_id, treat_here, write_results

    with tracked(call, run_id(plan), plan.model_dump(mode="json"), call.options.out):
        result = treat_here(workspace, plan, call.options.device, call.report)
    figures = write_results(workspace, result, folder, call.options.device, call.report)
    call.report.close()
    return figures


def sweep(
    call: Call,
    workspace: "Workspace",
    setting: str,
    values: list[Any],
    plans: "list[TreatmentRun]",
    out: Path,
) -> Any:
    """Treat once for each value, and name the best."""
    from pipelines.services.standalone.treatment import sweep_row, write_sweep

    rows: list[dict[str, Any]] = []
    for value, plan in zip(values, plans, strict=True):
        figures = treat_into(call, workspace, plan, out / f"{setting}={folder_name(value)}")
        rows.append(sweep_row(value, figures))
        table = write_sweep(out, setting, rows)
        call.say(f"{setting}={value}: {describe_row(rows[-1])}")
    best = table["best"]
    verdict = (
        f"best: {setting}={best}" if best is not None else "no value lowered the confidence within the limits"
    )
    call.say(f"{verdict}; the rule: {table['rule']}")
    call.say(f"  {out / 'sweep.csv'} lists every value")
    return {**table, "table": str(out / "sweep.csv")}


def folder_name(value: Any) -> str:
    """A value as the name of a folder."""
    return "".join(sign if sign.isalnum() or sign in "-+._" else "_" for sign in str(value))[:80]


def describe_row(row: dict[str, Any]) -> str:
    """A sweep's row in words."""
    names = {"ratio": "confidence × ", "psnr": "PSNR ", "ssim": "SSIM ", "lpips": "LPIPS "}
    parts = [f"{label}{row[name]:.3g}" for name, label in names.items() if row[name] is not None]
    kept = f"kept update {row['kept']} of {row['updates']}"
    return ", ".join([kept, *parts, "within the limits" if row["within"] else "outside the limits"])


def say_figures(call: Call, figures: dict[str, Any]) -> None:
    """What came of a treatment, for people."""
    call.say(f"kept update {figures['kept']} of {figures['updates']}: {figures['stopped']}")
    judged = figures["judged"]
    if not judged:
        call.say("  nothing was kept: no update within the guard's limits was better than the generator")
        return
    confidence, similarity = judged["mean_confidence"], judged["similarity"]
    change = "ratio undefined"
    if confidence["ratio"] is not None:
        low, high = confidence["interval"]
        change = f"× {confidence['ratio']:.3f} (95 %: {low:.3f} to {high:.3f})"
    call.say(
        f"  mean confidence {confidence['before']:.4f} → {confidence['after']:.4f} on {judged['pairs']} "
        f"held-out pairs, {change}; {figures['worse']} got worse"
    )
    means = {name: similarity[name]["mean"] for name in ("psnr", "ssim", "lpips") if similarity[name]}
    call.say("  " + ", ".join(f"{name.upper()} {value:.3g}" for name, value in means.items()))
    if similarity["note"]:
        call.say(f"  {similarity['note']}")


def estimate(call: Call, workspace: "Workspace", plan: "TreatmentRun") -> Any:
    """Print what the treatment needs."""
    from pipelines.services.standalone.treatment import estimate_here

    found = estimate_here(workspace, plan, call.options.device)
    call.say(found["text"])
    return found


def request_of(call: Call) -> "TreatmentRequest":
    """What the command asks for."""
    from pipelines.services.standalone.treatment import TreatmentRequest, read_prompt_file

    given = call.options
    if not given.detector and call.named_workspace is None:
        raise ConfigRefused("name the detector with --detector: a folder, a file, or clinic")
    return TreatmentRequest(
        generator=given.generator,
        detector=given.detector or "",
        preset=given.preset or "diffdoctor",
        rewards=tuple(given.reward),
        prompts=read_prompt_file(given.prompts) if given.prompts else (),
        held_out=read_prompt_file(given.held_out) if given.held_out else (),
        categories=tuple(given.category),
        real=given.real,
        seed=given.seed or 0,
        name=given.name,
    )


def recorded(call: Call, request: "TreatmentRequest") -> dict[str, Any]:
    """Everything that the result depends on."""
    from dataclasses import asdict

    from dataengine.records import digest

    settings = asdict(request) | {"set": list(call.options.set), "sweep": call.options.sweep}
    texts = {name: digest(*settings[name]) for name in ("prompts", "held_out") if settings[name]}
    return settings | texts | {"real": str(request.real) if request.real else None}


def changed(plan: "TreatmentRun", changes: list[str]) -> "TreatmentRun":
    """The plan with `--set` changes applied."""
    from pipelines.config import TreatmentRun

    return TreatmentRun.model_validate(with_settings(plan.model_dump(mode="json"), changes))


def sweep_of(text: str) -> tuple[str, list[Any]]:
    """The setting and its values. Raises `ConfigRefused` for fewer than two."""
    name, _, listed = text.partition("=")
    try:
        values = json.loads(f"[{listed}]")
    except json.JSONDecodeError:
        values = [part.strip() for part in listed.split(",") if part.strip()]
    if not name or len(values) < 2:
        raise ConfigRefused(
            f"--sweep {text}: expected a setting and two values or more, such as "
            "tuning.region.beta=2e-5,6e-5,2e-4"
        )
    return name, values


def treatment_run() -> "type[TreatmentRun]":
    from pipelines.config import TreatmentRun

    return TreatmentRun


STANDALONE = OutsideRounds(
    what="of any generator",
    arguments=treatment_arguments,
    is_asked=is_standalone,
    run=treat,
    examples=EXAMPLES,
    settings=treatment_run,
)
