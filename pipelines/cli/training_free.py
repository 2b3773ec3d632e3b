"""Commands about what needs no label: dynamics, highlight, ask, refine, inpaint."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import ACTOR, Call, Command, newest, who_draws, with_settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.diagnosis.config import HighlighterConfig
    from pipelines.config import RefiningRun


def dynamics_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", metavar="ID", help="whose images (default: the newest round)")
    parser.add_argument("--image", metavar="ID", help="one image alone, with --point")
    parser.add_argument(
        "--point", metavar="X,Y", help="draw its dynamics at this pixel instead of keeping maps"
    )
    parser.add_argument("--batch", type=int, default=16, help="images drawn at once (default: 16)")
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def dynamics(call: Call) -> Any:
    """Keep maps of score dynamics for a round's drawn images, or plot one image's dynamics at a point."""
    from dataengine.diagnosis.config import DynamicsConfig
    from pipelines.services.training_free import plot_dynamics, predict_dynamics

    given = call.options
    config = DynamicsConfig.model_validate(with_settings(DynamicsConfig().model_dump(mode="json"), given.set))
    if bool(given.image) != bool(given.point):
        raise ConfigRefused("--image and --point belong together: give both, or neither for a whole round")
    if given.image:
        point = point_of(given.point)
        plotted = plot_dynamics(call.workspace, given.image, point, config, given.device, call.report)
        call.report.close()
        call.say(plotted["picture"])
        return plotted
    found = predict_dynamics(call.workspace, newest(call).id, config, given.batch, given.device, call.report)
    call.report.close()
    version = found.detector
    call.say(f"{version.id} ({version.name}): {found.suspected} of {found.images} images have regions")
    if found.left_out:
        call.say(f"  {found.left_out} images were drawn elsewhere, and were left out")
    call.say(f"  abnormal places at each step: {found.chart}")
    return {
        "detector": version.id,
        "images": found.images,
        "suspected": found.suspected,
        "left_out": found.left_out,
        "picture": found.chart,
    }


def point_of(text: str) -> tuple[int, int]:
    """(x, y) of "X,Y". Raises `ConfigRefused`."""
    x, _, y = text.partition(",")
    if not (x.strip().isdigit() and y.strip().isdigit()):
        raise ConfigRefused(f"--point {text}: expected X,Y in pixels, such as 20,31")
    return int(x), int(y)


def dynamics_config() -> "type[BaseModel]":
    from dataengine.diagnosis.config import DynamicsConfig

    return DynamicsConfig


def highlight_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", metavar="ID", help="whose images are the generated ones (default: newest)")
    parser.add_argument("--limit", type=int, default=2000, help="images of either kind (default: 2000)")
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def highlight(call: Call) -> Any:
    """Train a flaw highlighter on real and generated images, and register it as a detector."""
    from pipelines.services.training_free import train_highlighter

    given = call.options
    config = highlighter_config()
    settings = config.model_validate(with_settings(config().model_dump(mode="json"), given.set))
    version = train_highlighter(
        call.workspace, newest(call).id, settings, given.limit, given.device, call.report
    )
    call.report.close()
    told = version.metrics["training"]
    call.say(
        f"{version.id}: {version.name} tells {told['accuracy']:.2f} of held-out images apart "
        f"({told['real']} real and {told['generated']} generated ones learned from)"
    )
    return {"detector": version.id, **told}


def highlighter_config() -> "type[HighlighterConfig]":
    from dataengine.diagnosis.config import HighlighterConfig

    return HighlighterConfig


def ask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or hub id of a VQA model, or the URL of an endpoint")
    parser.add_argument("--round", metavar="ID", help="whose labels count (default: the newest round)")
    parser.add_argument(
        "--questions", metavar="N,N,…", default="", help="numbers of the questions (default: all 43)"
    )
    parser.add_argument("--limit", type=int, default=200, help="validation images asked about (default: 200)")
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="ask question N about all of the round's images instead, and keep the verdicts as a detector's",
    )
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")


def ask(call: Call) -> Any:
    """Choose the yes/no question that tells flawed from clean images best, on labelled validation images."""
    from pipelines.services.training_free import rank_questions

    given = call.options
    numbers = tuple(int(each) for each in given.questions.split(",") if each.strip().isdigit())
    if given.questions and not numbers:
        raise ConfigRefused(f"--questions {given.questions}: expected numbers of questions, such as 5,16,31")
    if given.keep is not None:
        return keep_verdicts(call, given.model, given.keep)
    rows = rank_questions(
        call.workspace, newest(call).id, given.model, numbers, given.limit, given.device, call.report
    )
    call.report.close()
    for row in rows:
        call.say(
            f"{row['accuracy']:.3f} of {row['images']} right, {row['unclear']} unclear  "
            f"question {row['number']}: {row['question']}"
        )
    return {"questions": rows}


def keep_verdicts(call: Call, model: str, number: int) -> Any:
    """Ask one question about the round's images; its verdicts are predictions of a detector of their own."""
    from dataengine.curation.config import QuestionConfig
    from pipelines.services.training_free import predict_question

    config = QuestionConfig(model=model, number=number)
    found = predict_question(call.workspace, newest(call).id, config, call.options.device, call.report)
    call.report.close()
    version = found.detector
    call.say(
        f"{version.id} ({version.name}): {found.suspected} of {found.images} images broken, "
        f"{found.unclear} unclear; Curate shows them by this detector"
    )
    return {
        "detector": version.id,
        "images": found.images,
        "suspected": found.suspected,
        "unclear": found.unclear,
    }


def refine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a generator's whole network on this workspace's real pictures: first as usual, then (from the "
        "middle on) with the mean flaw map of its own drawings in its noise and its attention. Without "
        "--generator a new unconditional UNet is trained from random weights. Unconditional UNets (DDPM, "
        "improved DDPM), Stable Diffusion and DiT pipelines can be trained on. What comes out is a stock "
        "diffusers pipeline, registered as a generator. Pictures come from `clinic import FOLDER --source "
        "real`; the demo's workspace has some. Stopped, the same command goes on where it was."
    )
    parser.add_argument(
        "--generator", metavar="ID", default="", help="whose training goes on (default: a new UNet)"
    )
    parser.add_argument("--name", default="", help="name of what comes out")
    parser.add_argument("--limit", type=int, help="most real pictures (default: 20000)")
    parser.add_argument("--worker", action="store_true", help="ask a worker for it and return")
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def refine(call: Call) -> Any:
    """Train here, or ask a worker for it."""
    from pipelines.services.training_free import refine_generator, request_refining

    plan = refining_plan(call)
    if call.options.worker:
        job = request_refining(call.workspace, plan, ACTOR)
        call.say(f"{job.id}: asked for; `clinic status` follows it")
        return {"job": job.id, "run": job.args["run"]}
    made = refine_generator(call.workspace, plan, call.options.device, call.report)
    call.report.close()
    call.say(
        f"{made['generator']}: {made['name']}, from {made['pictures']} pictures, mean map taken "
        f"{made['maps']} times, last loss {made['curve'][-1][1]:.4f}"
    )
    with call.workspace.catalog(read_only=True) as catalog:
        call.say(f"  {who_draws(call, catalog.generators.get(made['generator']))}")
    return made


def refining_plan(call: Call) -> "RefiningRun":
    """The settings with the command's own options in them."""
    from pipelines.config import RefiningRun

    given = call.options
    settings = with_settings(RefiningRun().model_dump(mode="json"), given.set)
    named = {"generator": given.generator, "name": given.name, "limit": given.limit}
    return RefiningRun.model_validate(settings | {name: value for name, value in named.items() if value})


def refining_config() -> "type[BaseModel]":
    from pipelines.config import RefiningRun

    return RefiningRun


def inpaint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw anew what masks mark, and leave every other pixel as it is. FOLDER holds images/ and masks/: "
        "PNG masks of the pictures' names and sizes, black where nothing is to change, as `clinic export "
        "--format masks` writes people's labels. Any generator can do it: known pixels are put back after "
        "each of its steps (RePaint). OUT gets a PNG for each picture, and beside it a JSON file that says "
        "how it was made; `clinic import OUT` takes both. A picture without a mark is copied as it is. "
        "Everything is looked at before anything is drawn. Stopped, the same command goes on where it was."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images/ and masks/, or a .zip of them")
    parser.add_argument("out", type=Path, metavar="OUT", help="where the drawn pictures go")
    parser.add_argument(
        "--generator",
        metavar="ID|DIR",
        required=True,
        help="a registered generator (`clinic generators` lists them), or the folder of a diffusers pipeline",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the pictures lie, if not in images/"
    )
    parser.add_argument(
        "--prompt",
        default="",
        help="what pictures show that bring no prompt; others have it in metadata.csv, or in a .txt beside "
        "them. Unconditional generators need none",
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default: 20)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the generator's own)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="times that each step is made, so that old and new come to fit; costs as much (default: 3)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one draws otherwise (default: 0)")
    parser.add_argument("--batch", type=int, default=4, help="pictures drawn at once (default: 4)")
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")


def inpaint(call: Call) -> Any:
    """Draw here, into a folder."""
    from dataengine.treatment.config import SamplingConfig
    from pipelines.services.training_free import inpaint_folder

    given = call.options
    name, done = inpaint_folder(
        given.folder,
        given.out,
        given.generator,
        lambda: call.workspace,
        SamplingConfig(steps=given.steps, guidance=given.guidance, batch=given.batch),
        images=given.images,
        repeats=given.repeats,
        seed=given.seed,
        prompt=given.prompt,
        device=given.device,
        report=call.report,
    )
    call.report.close()
    call.say(
        f"{name} drew {done['drawn']} pictures into {done['out']}; {done['unmarked']} without a mark copied, "
        f"{done['there']} there already"
    )
    return done


COMMANDS = (
    Command(
        name="dynamics",
        summary="artifact maps by score dynamics, without a trained detector",
        run=dynamics,
        arguments=dynamics_arguments,
        examples=(
            "clinic dynamics",
            "clinic dynamics --set form=paper --set stop=0.48",
            "clinic dynamics --image 3f2c… --point 20,31",
        ),
        settings=dynamics_config,
    ),
    Command(
        name="highlight",
        summary="train a flaw highlighter: maps of what gives generated images away",
        run=highlight,
        arguments=highlight_arguments,
        examples=("clinic highlight --set weights=vgg16.safetensors", "clinic highlight --set lr=0.0003"),
        settings=highlighter_config,
    ),
    Command(
        name="ask",
        summary="which yes/no question to a VQA model finds artifacts best, on validation",
        run=ask,
        arguments=ask_arguments,
        examples=(
            "clinic ask dandelin/vilt-b32-finetuned-vqa --questions 5,16,31",
            "clinic ask dandelin/vilt-b32-finetuned-vqa --keep 16",
        ),
    ),
    Command(
        name="refine",
        summary="self-refining training of a generator on real pictures, or of a new one",
        run=refine,
        arguments=refine_arguments,
        examples=(
            "clinic refine --set refining.steps=2000",
            "clinic refine --set network.side=64 --set network.variance=learned --worker",
            "clinic refine --generator 4f1c… --set refining.reverse=0.05",
            "clinic refine --set refining.refinement=0",
        ),
        settings=refining_config,
    ),
    Command(
        name="inpaint",
        summary="draw anew what masks mark in pictures, and nothing else",
        run=inpaint,
        arguments=inpaint_arguments,
        examples=(
            "clinic export broken --format masks --labelled",
            "clinic inpaint broken mended --generator 4f1c… --steps 30",
            "clinic inpaint broken mended --generator models/sd15 --prompt 'a hand' --repeats 10 --seed 1",
        ),
    ),
)
