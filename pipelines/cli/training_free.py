"""Commands about what needs no label: dynamics, bayesdiff, highlight, ask, refine, inpaint."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused
from pipelines.cli.command import (
    ACTOR,
    Call,
    Command,
    describe_use,
    named_or_newest_round,
    tracked,
    tracking_argument,
    with_settings,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.diagnosis.config import BayesDiffConfig, HighlighterConfig
    from pipelines.config import RefiningRun


def maps_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of commands that store maps of a round's images by generating them again."""
    parser.add_argument(
        "--round", metavar="ID", help="round whose images are predicted (default: the newest)"
    )
    parser.add_argument("--batch", type=int, default=16, help="images generated per batch (default: 16)")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def dynamics_arguments(parser: argparse.ArgumentParser) -> None:
    maps_arguments(parser)
    parser.add_argument("--image", metavar="ID", help="plot one image only, at --point")
    parser.add_argument(
        "--point", metavar="X,Y", help="plot the dynamics of --image at this pixel instead of storing maps"
    )


def dynamics(call: Call) -> Any:
    """Store score-dynamics maps of a round's generated images, or plot one image's dynamics at a point."""
    from dataengine.diagnosis.config import DynamicsConfig
    from pipelines.services.training_free import plot_dynamics, predict_dynamics

    given = call.options
    config = DynamicsConfig.model_validate(with_settings(DynamicsConfig().model_dump(mode="json"), given.set))
    if bool(given.image) != bool(given.point):
        raise ConfigRefused("--image and --point go together: give both, or neither for a whole round")
    if given.image:
        point = point_of(given.point)
        plotted = plot_dynamics(call.workspace, given.image, point, config, given.device, call.report)
        call.report.close()
        call.say(plotted["picture"])
        return plotted
    summary = predict_dynamics(
        call.workspace, named_or_newest_round(call).id, config, given.batch, given.device, call.report
    )
    call.report.close()
    version = summary.detector
    call.say(f"{version.id} ({version.name}): {summary.suspected} of {summary.images} images have regions")
    if summary.left_out:
        call.say(f"  {summary.left_out} images skipped: no generator of this workspace can regenerate them")
    call.say(f"  share of abnormal positions at each step: {summary.chart}")
    return {
        "detector": version.id,
        "images": summary.images,
        "suspected": summary.suspected,
        "left_out": summary.left_out,
        "picture": summary.chart,
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


def bayesdiff(call: Call) -> Any:
    """Fit the last layer of a round's generators to real images, and store variance maps of its images."""
    from pipelines.services.training_free import predict_variance

    given, config = call.options, bayesdiff_config()
    settings = config.model_validate(with_settings(config().model_dump(mode="json"), given.set))
    found = predict_variance(
        call.workspace, named_or_newest_round(call).id, settings, given.batch, given.device, call.report
    )
    call.report.close()
    for each in found:
        counts = f"{each.suspected} of {each.images} images have regions"
        call.say(f"{each.detector.id} ({each.detector.name}): {counts}")
    return {
        "detectors": [
            {"detector": each.detector.id, "images": each.images, "suspected": each.suspected}
            for each in found
        ]
    }


def bayesdiff_config() -> "type[BayesDiffConfig]":
    from dataengine.diagnosis.config import BayesDiffConfig

    return BayesDiffConfig


def highlight_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", metavar="ID", help="round of the generated images (default: the newest)")
    parser.add_argument(
        "--limit", type=int, default=2000, help="at most N real and N generated images (default: 2000)"
    )
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def highlight(call: Call) -> Any:
    """Train a flaw highlighter on real and generated images and register it as a detector."""
    from pipelines.services.training_free import train_highlighter

    given = call.options
    config = highlighter_config()
    settings = config.model_validate(with_settings(config().model_dump(mode="json"), given.set))
    version = train_highlighter(
        call.workspace, named_or_newest_round(call).id, settings, given.limit, given.device, call.report
    )
    call.report.close()
    metrics = version.metrics["training"]
    call.say(
        f"{version.id}: {version.name} has accuracy {metrics['accuracy']:.2f} on held-out images "
        f"(trained on {metrics['real']} real and {metrics['generated']} generated ones)"
    )
    return {"detector": version.id, **metrics}


def highlighter_config() -> "type[HighlighterConfig]":
    from dataengine.diagnosis.config import HighlighterConfig

    return HighlighterConfig


def ask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or hub id of a VQA model, or the URL of an endpoint")
    parser.add_argument("--round", metavar="ID", help="round whose labels are used (default: the newest)")
    parser.add_argument(
        "--questions",
        metavar="N,N,…",
        default="",
        help="numbers of the questions to compare (default: all 43)",
    )
    parser.add_argument("--limit", type=int, default=200, help="validation images to use (default: 200)")
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="instead, ask question N about all of the round's images and store the verdicts as the "
        "predictions of a detector",
    )
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")


def ask(call: Call) -> Any:
    """Rank yes/no questions by how well they separate flawed from clean images, on validation labels."""
    from pipelines.services.training_free import rank_questions

    given = call.options
    numbers = tuple(int(each) for each in given.questions.split(",") if each.strip().isdigit())
    if given.questions and not numbers:
        raise ConfigRefused(f"--questions {given.questions}: expected numbers of questions, such as 5,16,31")
    if given.keep is not None:
        return keep_verdicts(call, given.model, given.keep)
    rows = rank_questions(
        call.workspace,
        named_or_newest_round(call).id,
        given.model,
        numbers,
        given.limit,
        given.device,
        call.report,
    )
    call.report.close()
    for row in rows:
        call.say(
            f"{row['accuracy']:.3f} of {row['images']} correct, {row['unclear']} unclear  "
            f"question {row['number']}: {row['question']}"
        )
    return {"questions": rows}


def keep_verdicts(call: Call, model: str, number: int) -> Any:
    """Ask one question about the round's images and store the verdicts as predictions of a detector."""
    from dataengine.curation.config import QuestionConfig
    from pipelines.services.training_free import predict_question

    config = QuestionConfig(model=model, number=number)
    summary = predict_question(
        call.workspace, named_or_newest_round(call).id, config, call.options.device, call.report
    )
    call.report.close()
    version = summary.detector
    call.say(
        f"{version.id} ({version.name}): {summary.suspected} of {summary.images} images broken, "
        f"{summary.unclear} unclear; select this detector at /curate to browse them"
    )
    return {
        "detector": version.id,
        "images": summary.images,
        "suspected": summary.suspected,
        "unclear": summary.unclear,
    }


def refine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a generator's whole network on this workspace's real images: the first half of the steps as "
        "usual, the second half with the mean flaw map of its own images modulating noise and attention. "
        "Without --generator, a new unconditional UNet is trained from random weights. Training can continue "
        "from unconditional UNets (DDPM, improved DDPM), Stable Diffusion and DiT pipelines. The result is a "
        "standard diffusers pipeline, registered as a generator. Import images with `clinic import FOLDER "
        "--source real`; the demo's workspace has some. If interrupted, run the same command again to resume."
    )
    parser.add_argument(
        "--generator", metavar="ID", default="", help="generator to continue from (default: a new UNet)"
    )
    parser.add_argument("--name", default="", help="name of the new generator")
    parser.add_argument("--limit", type=int, help="maximum number of real images (default: 20000)")
    parser.add_argument("--worker", action="store_true", help="queue it for a worker and return at once")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    tracking_argument(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def refine(call: Call) -> Any:
    """Train in this process, or queue the training for a worker."""
    from pipelines.services.training_free import describe_refining, refine_generator, request_refining

    plan = refining_plan(call)
    if call.options.worker:
        if call.options.track:
            raise ConfigRefused("--track needs the training in this process: leave --worker out")
        job = request_refining(call.workspace, plan, ACTOR)
        call.say(f"{job.id} queued; `clinic status` shows its progress")
        return {"job": job.id, "run": job.args["run"]}
    settings = plan.model_dump(mode="json")
    with tracked(call, f"refine-{plan.name or plan.generator or 'new'}", settings, call.workspace.path):
        refined = refine_generator(call.workspace, plan, call.options.device, call.report)
    call.report.close()
    call.say(
        f"{refined['generator']}: {refined['name']}, trained on {refined['pictures']} images, mean flaw map "
        f"updated {refined['maps']} times, final loss {refined['curve'][-1][1]:.4f}"
    )
    for line in describe_refining(refined):
        call.say(f"  {line}")
    with call.workspace.catalog(read_only=True) as catalog:
        call.say(f"  {describe_use(call, catalog.generators.get(refined['generator']))}")
    return refined


def refining_plan(call: Call) -> "RefiningRun":
    """The settings, with the command's own options applied."""
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
        "Regenerate the masked regions of images and keep every other pixel. FOLDER holds images/ and "
        "masks/: "
        "PNG masks with the names and sizes of the images, black where nothing shall change, as `clinic "
        "export --format masks` writes labels. Works with any generator: known pixels are restored after "
        "each "
        "denoising step (RePaint). OUT receives a PNG for each image and a JSON file with its metadata; "
        "`clinic import OUT` reads both. Images with an empty mask are copied unchanged. All inputs are "
        "validated before anything is generated. If interrupted, run the same command again to resume."
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder with images/ and masks/, or a .zip of it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument(
        "--generator",
        metavar="ID|DIR",
        required=True,
        help="a registered generator (`clinic generators` lists them), or the folder of a diffusers pipeline",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the image files, if not images/"
    )
    parser.add_argument(
        "--prompt",
        default="",
        help="prompt of images that bring none in metadata.csv or in a .txt file of the same name; "
        "unconditional generators need no prompt",
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (default: 20)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: that of the generator)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="RePaint resampling: repetitions of each step, which blend old and new pixels; cost grows in "
        "proportion (default: 3)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--batch", type=int, default=4, help="images generated per batch (default: 4)")
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")


def inpaint(call: Call) -> Any:
    """Regenerate masked regions in this process and write the images to a folder."""
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
        f"{name} wrote {done['drawn']} images to {done['out']}; {done['unmarked']} with an empty mask "
        f"copied, "
        f"{done['there']} already done"
    )
    return done


COMMANDS = (
    Command(
        name="dynamics",
        summary="predict artifact maps from score dynamics, without a trained detector",
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
        name="bayesdiff",
        summary="predict artifact maps from the uncertainty of the denoiser's last layer (BayesDiff)",
        run=bayesdiff,
        arguments=maps_arguments,
        examples=("clinic bayesdiff", "clinic bayesdiff --set samples=4 --set space=latent"),
        settings=bayesdiff_config,
    ),
    Command(
        name="highlight",
        summary="train a flaw highlighter: maps of what distinguishes generated from real images",
        run=highlight,
        arguments=highlight_arguments,
        examples=("clinic highlight --set weights=vgg16.safetensors", "clinic highlight --set lr=0.0003"),
        settings=highlighter_config,
    ),
    Command(
        name="ask",
        summary="rank yes/no questions to a VQA model by how well they find artifacts, on validation",
        run=ask,
        arguments=ask_arguments,
        examples=(
            "clinic ask dandelin/vilt-b32-finetuned-vqa --questions 5,16,31",
            "clinic ask dandelin/vilt-b32-finetuned-vqa --keep 16",
        ),
    ),
    Command(
        name="refine",
        summary="self-refining training of a generator, or of a new one, on real images",
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
        summary="regenerate the masked regions of images, and nothing else",
        run=inpaint,
        arguments=inpaint_arguments,
        examples=(
            "clinic export broken --format masks --labelled",
            "clinic inpaint broken repaired --generator 4f1c… --steps 30",
            "clinic inpaint broken repaired --generator models/sd15 --prompt 'a hand' --repeats 10 --seed 1",
        ),
    ),
)
