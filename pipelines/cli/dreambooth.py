"""`clinic dreambooth`: teach a generator an instance, and treat those layers."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli import treat
from pipelines.cli.command import Call, Command, tracked, tracking_argument, with_settings

if TYPE_CHECKING:
    from pipelines.services.standalone.dreambooth import InstanceRequest
    from pipelines.services.standalone.treatment import TreatmentRequest
    from storage.workspace import Workspace


def dreambooth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a LoRA on images of one instance (DreamBooth), with images of its class for prior "
        "preservation, then treat those layers against a detector. --out receives the instance's LoRA "
        "(instance-lora/) and, with --detector, everything that `clinic treat` writes, with the likeness to "
        "the instance on unseen prompts before and after treating (likeness.png, figures.json). If "
        "interrupted, run the same command again to resume."
    )
    parser.add_argument("generator", metavar="GENERATOR", help="as for `clinic treat`")
    parser.add_argument("images", type=Path, metavar="INSTANCE_DIR", help="images of the instance")
    parser.add_argument(
        "--prompt", required=True, help='names the instance by a rare word, such as "a sks dog"'
    )
    parser.add_argument("--class-prompt", required=True, help='says what it is, such as "a dog"')
    parser.add_argument(
        "--class-images", type=int, default=200, metavar="N", help="images of the class (default: 200)"
    )
    parser.add_argument("--updates", type=int, help="updates of learning (default: 500)")
    parser.add_argument(
        "--learn",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of learning, such as learning.learning_rate=5e-5; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="output folder")
    parser.add_argument(
        "--encoder",
        default="",
        metavar="LOCATION",
        help="image encoder of transformers that measures the likeness, such as DINO or CLIP",
    )
    parser.add_argument(
        "--guard-likeness",
        action="store_true",
        help="the guard also limits the change of the likeness, as it does that of preference scores",
    )
    treat.method_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    tracking_argument(parser)


def dreambooth(call: Call) -> Any:
    """Learn, and treat if a detector is named."""
    from pipelines.services.standalone.dreambooth import (
        learn_here,
        plan_instance,
        require_instance,
        write_instance_lora,
    )
    from pipelines.services.standalone.output import begun_output, output_workspace

    given = call.options
    if given.guard_likeness and not given.encoder:
        raise ConfigRefused("--guard-likeness needs the --encoder that measures it")
    request = request_of(call)
    out = given.out
    with (
        begun_output(out, "dreambooth", recorded(call, request)),
        output_workspace(out, call.named_workspace) as workspace,
    ):
        plan = plan_instance(workspace, request)
        plan = type(plan).model_validate(with_settings(plan.model_dump(mode="json"), given.learn))
        for note in require_instance(workspace, plan):
            call.say(f"  note: {note}")
    with output_workspace(out, call.named_workspace) as workspace:
        with tracked(call, f"instance-{out.name}", plan.model_dump(mode="json"), out):
            learned = learn_here(workspace, plan, given.device, call.report)
        call.report.close()
        folder = write_instance_lora(workspace, learned["learned"], out / "instance-lora")
        call.say(f"{learned['name']}: learned; {folder} holds its LoRA")
        for line in learned.get("refused", []):
            call.say(f"  refused: {line}")
        result = {**learned, "lora": str(folder)}
        if given.detector or call.named_workspace is not None:
            result["treatment"] = treat_layers(call, workspace, request, learned)
    return result


def treat_layers(
    call: Call, workspace: "Workspace", request: "InstanceRequest", learned: dict[str, Any]
) -> dict[str, Any]:
    """Treat the instance's layers, and measure what that costs in likeness."""
    from pipelines.services.standalone.dreambooth import with_instance, write_likeness
    from pipelines.services.standalone.treatment import (
        plan_treatments,
        require_inputs,
        run_id,
        treat_here,
        write_results,
    )

    given, out = call.options, call.options.out
    plans, notes = plan_treatments(
        workspace, treatment_request(call, request, learned["learned"]), call.report
    )
    for note in notes:
        call.say(f"  note: {note}")
    if len(plans) > 1:
        raise ConfigRefused(f"--preset {given.preset} has two runs; dreambooth treats once")
    given_instance = with_instance(plans[0].model_dump(mode="json"), learned["run"])
    plan = type(plans[0]).model_validate(given_instance)
    if given.guard_likeness:
        plan = plan.model_copy(update={"scorers": (f"likeness:{given.encoder}#{request.images}",)})
    plan = treat.changed(plan, given.set)
    require_inputs(workspace, plan)
    with tracked(call, run_id(plan), plan.model_dump(mode="json"), out):
        result = treat_here(workspace, plan, given.device, call.report)
    figures = write_results(workspace, result, out, given.device, call.report)
    call.report.close()
    treat.say_figures(call, figures)
    likeness = figures.get("likeness")
    if likeness is None:
        return figures
    write_likeness(workspace, learned["run"], result["run"], out)
    if "note" in likeness:
        call.say(f"  {likeness['note']}")
    else:
        low, high = likeness["interval"]
        call.say(
            f"  likeness {likeness['before']:.3f} → {likeness['after']:.3f} on {likeness['pairs']} unseen "
            f"pairs, × {likeness['ratio']:.3f} (95 %: {low:.3f} to {high:.3f})"
        )
    return figures


def request_of(call: Call) -> "InstanceRequest":
    from pipelines.services.standalone.dreambooth import InstanceRequest

    given = call.options
    return InstanceRequest(
        generator=given.generator,
        images=given.images,
        instance_prompt=given.prompt,
        class_prompt=given.class_prompt,
        class_images=given.class_images,
        updates=given.updates,
        seed=given.seed or 0,
        name=given.name,
        encoder=given.encoder,
    )


def treatment_request(call: Call, request: "InstanceRequest", learned: str) -> "TreatmentRequest":
    """The treatment of the generator that has learned the instance; its own scenes unless there are
    prompts."""
    from pipelines.services.standalone.dreambooth import PRESET, scene_prompts
    from pipelines.services.standalone.treatment import TreatmentRequest, read_prompt_file

    given = call.options
    treated, unseen = scene_prompts(request.instance_prompt, request.class_prompt)
    prompts = read_prompt_file(given.prompts) if given.prompts else () if given.category else treated
    held_out = read_prompt_file(given.held_out) if given.held_out else () if given.category else unseen
    return TreatmentRequest(
        generator=learned,
        detector=given.detector or "",
        preset=given.preset or PRESET,
        rewards=tuple(given.reward),
        prompts=prompts,
        held_out=held_out,
        categories=tuple(given.category),
        real=given.real,
        seed=given.seed or 0,
    )


def recorded(call: Call, request: "InstanceRequest") -> dict[str, Any]:
    """Everything that the result depends on."""
    given = call.options
    names = (
        *("detector", "prompts", "held_out", "category", "preset", "reward", "set", "learn"),
        *("guard_likeness", "real"),
    )
    settings = asdict(request) | {name: getattr(given, name) for name in names}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


COMMANDS = (
    Command(
        name="dreambooth",
        summary="teach a generator an instance (DreamBooth), and treat those layers against a detector",
        run=dreambooth,
        arguments=dreambooth_arguments,
        examples=(
            "clinic dreambooth black-forest-labs/FLUX.1-dev my-dog/ --prompt 'a sks dog' --class-prompt "
            "'a dog' --detector doctor/ --encoder facebook/dinov2-base --out dog",
            "clinic dreambooth clinic-flux hands/ --prompt 'sks hand' --class-prompt 'an open hand' "
            "--updates 60 --class-images 16 --out hand",
        ),
    ),
)
