"""Commands about what needs no label: dynamics, highlight, ask, refine, inpaint."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import Call, Command, with_settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.diagnosis.config import HighlighterConfig
    from dataengine.records import Image
    from dataengine.treatment.families.family import GeneratorFamily
    from pipelines.config import RefiningRun
    from pipelines.runtime.context import Context


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
    from dataengine.records import threshold_of
    from pipelines.cli.command import tools_for
    from pipelines.detectors import dynamics_charts
    from pipelines.detectors import score_dynamics as stage
    from pipelines.detectors.predict import predict
    from pipelines.runtime.context import Context

    given = call.options
    config = DynamicsConfig.model_validate(with_settings(DynamicsConfig().model_dump(mode="json"), given.set))
    if bool(given.image) != bool(given.point):
        raise ConfigRefused("--image and --point belong together: give both, or neither for a whole round")
    context = Context(call.workspace, tools_for(call), call.report)
    if given.image:
        found = dynamics_charts.at_point(context, given.image, point_of(given.point), config)
        call.report.close()
        call.say(found["picture"])
        return found
    images, left_out = round_images(call)
    version = stage.detector_for(call.workspace, config)
    predictions = predict(context, version.id, images, given.batch)
    call.report.close()
    suspected = sum(prediction.max >= threshold_of(version) for prediction in predictions)
    picture = dynamics_charts.abnormal_chart(call.workspace, version.id)
    call.say(f"{version.id} ({version.name}): {suspected} of {len(images)} images have regions")
    if left_out:
        call.say(f"  {left_out} images were drawn elsewhere, and were left out")
    call.say(f"  abnormal places at each step: {picture}")
    return {
        "detector": version.id,
        "images": len(images),
        "suspected": suspected,
        "left_out": left_out,
        "picture": picture,
    }


def point_of(text: str) -> tuple[int, int]:
    """(x, y) of "X,Y". Raises `ConfigRefused`."""
    x, _, y = text.partition(",")
    if not (x.strip().isdigit() and y.strip().isdigit()):
        raise ConfigRefused(f"--point {text}: expected X,Y in pixels, such as 20,31")
    return int(x), int(y)


def round_images(call: Call) -> "tuple[list[Image], int]":
    """The round's images that can be drawn again, and how many others it has. Raises `ConfigRefused` when
    there is none."""
    from pipelines.cli.command import newest
    from pipelines.detectors.score_dynamics import redrawable

    row = newest(call)
    with call.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(round_id=row.id, status="active")
    drawn = redrawable(images)
    if not drawn:
        raise ConfigRefused(
            f"{row.id} has no image that a generator of this workspace drew; `clinic generate`"
        )
    return drawn, len(images) - len(drawn)


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
    from pipelines.cli.command import newest, tools_for
    from pipelines.jobs.train_highlighter import highlight as stage
    from pipelines.runtime.context import Context

    given = call.options
    config = highlighter_config()
    settings = config.model_validate(with_settings(config().model_dump(mode="json"), given.set))
    context = Context(call.workspace, tools_for(call), call.report)
    version = stage(context, newest(call).id, settings, given.limit)
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
    from pipelines.cli.command import newest, tools_for
    from pipelines.jobs.rank_questions import choose_question
    from pipelines.runtime.context import Context

    given = call.options
    numbers = tuple(int(each) for each in given.questions.split(",") if each.strip().isdigit())
    if given.questions and not numbers:
        raise ConfigRefused(f"--questions {given.questions}: expected numbers of questions, such as 5,16,31")
    context = Context(call.workspace, tools_for(call), call.report)
    if given.keep is not None:
        return kept_verdicts(call, context, given.model, given.keep)
    rows = choose_question(context, newest(call).id, given.model, numbers, given.limit)
    call.report.close()
    for row in rows:
        call.say(
            f"{row['accuracy']:.3f} of {row['images']} right, {row['unclear']} unclear  "
            f"question {row['number']}: {row['question']}"
        )
    return {"questions": rows}


def kept_verdicts(call: Call, context: "Context", model: str, number: int) -> Any:
    """Ask one question about the round's images; its verdicts are predictions of a detector of their own."""
    from dataengine.curation.config import QuestionConfig
    from pipelines.cli.command import newest
    from pipelines.detectors.predict import predict
    from pipelines.detectors.yes_no_question import detector_for

    version = detector_for(call.workspace, QuestionConfig(model=model, number=number))
    row = newest(call)
    with call.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(round_id=row.id, status="active")
    found = predict(context, version.id, images, batch=16)
    call.report.close()
    suspected, unclear = (sum(one.max == value for one in found) for value in (1.0, 0.5))
    call.say(
        f"{version.id} ({version.name}): {suspected} of {len(found)} images broken, {unclear} unclear; "
        "Curate shows them by this detector"
    )
    return {"detector": version.id, "images": len(found), "suspected": suspected, "unclear": unclear}


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
    from dataengine.records import digest
    from pipelines.services.jobs import request_job

    plan = refining_plan(call)
    settings = plan.model_dump(mode="json")
    run = f"refine-{digest(plan.model_dump_json())[:12]}"
    if call.options.worker:
        job = request_job(call.workspace, "refine", {"run": run, "settings": settings}, "command line")
        call.say(f"{job.id}: asked for; `clinic status` follows it")
        return {"job": job.id, "run": run}
    from pipelines.cli.command import tools_for, who_draws
    from pipelines.jobs.refine_generator import refine_job
    from pipelines.runtime.context import Context

    context = Context(call.workspace, tools_for(call), call.report)
    made = refine_job(context, {"run": run, "settings": settings})
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
    from pipelines.exchange.import_options import Wanted
    from pipelines.jobs.inpaint_images import InpaintRequest
    from pipelines.jobs.inpaint_images import inpaint as stage

    given = call.options
    if given.repeats < 1:
        raise ConfigRefused(f"--repeats {given.repeats}: each step is made once or more often")
    sampling = SamplingConfig(steps=given.steps, guidance=given.guidance, batch=given.batch)
    opener, name, reads = chosen_generator(call, given.generator)
    asked = InpaintRequest(
        generator=name,
        reads_prompts=reads,
        sampling=sampling,
        repeats=given.repeats,
        seed=given.seed,
        prompt=given.prompt,
    )
    done = stage(opener, Wanted(path=given.folder, images=given.images), given.out, asked, call.report)
    call.report.close()
    call.say(
        f"{name} drew {done['drawn']} pictures into {done['out']}; {done['unmarked']} without a mark copied, "
        f"{done['there']} there already"
    )
    return done


def chosen_generator(call: Call, given: str) -> "tuple[Callable[[], GeneratorFamily], str, bool]":
    """What opens a registered generator, or one in a folder, which needs no workspace; its name, and whether
    it reads prompts. Raises `NotFound`."""
    from dataengine.treatment.config import WeightsConfig
    from pipelines.cli.command import tools_for
    from pipelines.generators.draw import open_generator
    from pipelines.generators.files import pipeline_of, pipeline_reads_prompts, reads_prompts
    from pipelines.runtime.context import Context

    folder, tools = Path(given).expanduser(), tools_for(call)
    if folder.is_dir():
        opener = partial(tools.open_generator, str(folder), None, WeightsConfig())
        return opener, folder.resolve().name, pipeline_reads_prompts(pipeline_of(folder))
    with call.workspace.catalog(read_only=True) as catalog:
        version = catalog.generators.get(given)
    opener = partial(open_generator, Context(call.workspace, tools, call.report), version)
    return opener, version.name, reads_prompts(call.workspace, version)


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
