"""Commands that run rounds: `round`, `worker` and `status`."""

import argparse
import time
from typing import TYPE_CHECKING, Any

from dataengine.errors import ConfigRefused, JobFailed
from pipelines.cli.command import (
    ACTOR,
    Call,
    Command,
    named_or_newest_round,
    tracked,
    tracking_argument,
    with_settings,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.records import Round
    from pipelines.worker.config import RayConfig
    from pipelines.worker.local_runner import LocalRunner


FOLLOW_SECONDS = 0.5


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="demo", help="a named recipe (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the whole round (default: 0)")
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="treat by a published objective instead of the recipe's: DiffDoctor, DRaFT, AlignProp, ReFL, "
        "Focus-N-Fix, … as the Treat desk lists them",
    )
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="SCORER",
        help="scorer that --objective raises, which DRaFT, AlignProp, ReFL and Focus-N-Fix need: "
        "clip:LOCATION, pickscore:LOCATION, hpsv2:LOCATION or classifier:LOCATION#LABEL; may be repeated",
    )
    choice_arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def choice_arguments(parser: argparse.ArgumentParser) -> None:
    """The choices of the Rounds desk's form, under the same names."""
    parser.add_argument(
        "--generator",
        action="append",
        default=[],
        metavar="NAME",
        help="draw with this generator, by id or name; may be repeated (default: every untreated one that "
        "reads prompts)",
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=("hard", "detector", "treatment"),
        help="do this part after the survey; may be repeated (default: those of the recipe, usually all)",
    )
    for name, what in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: the recipe's)")
    parser.add_argument(
        "--correction",
        default="",
        metavar="NAME",
        help="correct while drawing: ttc, ttc-champion, ttc-champion-repeated, replacement, clipping, sargd "
        "or everywhere",
    )
    parser.add_argument(
        "--guidance",
        default="",
        metavar="NAME",
        help="guide while drawing: clean, clean-regions, reward or reward-regions",
    )
    parser.add_argument("--dynamics", action="store_true", help="also store maps of score dynamics")
    parser.add_argument(
        "--vqa", default="", metavar="LOCATION", help="also ask this VQA model whether images are broken"
    )
    parser.add_argument("--question", type=int, default=5, help="number of its question (default: 5)")
    parser.add_argument(
        "--second-detector",
        default="",
        metavar="ID",
        help="send images where the champion disagrees with this detector: an id, dynamics, or question",
    )


NUMBERS = {
    "prompts": "survey prompts of each category",
    "images": "images of each survey prompt, by each generator",
    "hard-prompts": "further prompts of each hard category",
    "budget": "images for annotators",
    "steps": "updates of the candidate's training",
    "updates": "updates of the treatment",
}
"""The numbers that a round can be given, and what they count."""


def place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", metavar="ID", help="the round (default: the newest one)")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="run shards in this process or on a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--ray",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the engine ray: num_gpus, num_cpus, actors, ahead; may be repeated",
    )
    parser.add_argument("--device", help="cpu, cuda:0, mps, … (default: the first NVIDIA GPU, else cpu)")
    tracking_argument(parser)


def open_or_start_round(call: Call, new: bool) -> "Round":
    """The round that `--round` names, else the open one, else a new one by the recipe."""
    from pipelines.services.rounds import start_round

    if call.options.round and not new:
        return named_or_newest_round(call)
    with call.workspace.catalog(read_only=True) as catalog:
        open_ones = [row for row in catalog.rounds.list() if row.state in ("running", "waiting")]
    if open_ones and not new:
        return open_ones[-1]
    return start_round(call.workspace, settings_of(call), ACTOR)


def start_checked_round(call: Call) -> "Round":
    """A new round, unless a check speaks against it."""
    from pipelines.config import RoundRecipe
    from pipelines.services import preflight
    from pipelines.services.rounds import start_round

    settings = settings_of(call)
    preflight.require(preflight.round_checks(call.workspace, RoundRecipe.model_validate(settings)))
    return start_round(call.workspace, settings, ACTOR)


def settings_of(call: Call) -> dict[str, Any]:
    """The named recipe with `--objective` and then the `--set` changes applied."""
    from pipelines.services import round_options
    from pipelines.services.training.presets import published_treatment

    given = call.options
    with call.workspace.catalog(read_only=True) as catalog:
        generators = round_options.generator_ids(catalog, given.generator)
    overrides = round_options.RoundOverrides(
        generators=generators,
        **{name: getattr(given, name) for name in (each.replace("-", "_") for each in NUMBERS)},
        correction=given.correction,
        guidance=given.guidance,
        dynamics=given.dynamics,
        question=(given.vqa, given.question) if given.vqa else None,
        second_detector=given.second_detector,
    )
    settings = round_options.recipe(given.recipe, given.seed, given.part, overrides)
    if given.reward and not given.objective:
        raise ConfigRefused("--reward is raised by an --objective, such as DRaFT; name one")
    if given.objective:
        tuning = published_treatment(given.objective, given.reward)
        settings["treat"]["tuning"] = tuning.model_copy(update={"seed": given.seed}).model_dump(mode="json")
    return with_settings(settings, given.set)


def runner_for(call: Call) -> "LocalRunner":
    """A runner of stages in this process, with the real models."""
    from pipelines.worker.local_runner import open_runner

    given = call.options
    return open_runner(call.workspace, given.engine, given.device, call.report, ray_settings(call))


def ray_settings(call: Call) -> "RayConfig":
    """What `--ray` says. Raises `ConfigRefused` for it without the engine `ray`."""
    from pipelines.worker.config import RayConfig

    given = call.options
    if given.ray and given.engine != "ray":
        raise ConfigRefused("--ray needs --engine ray: it says how shards are spread over Ray")
    return RayConfig.model_validate(with_settings(RayConfig().model_dump(), given.ray, "--ray"))


def summarize_result(result: Any) -> str:
    """A stage's result in one line."""
    shown = {name: value for name, value in result.items() if isinstance(value, str | int | float | bool)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


def round_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    place_arguments(parser)
    parser.add_argument(
        "--local", action="store_true", help="run all stages in this process, without a worker"
    )
    parser.add_argument("--detach", action="store_true", help="start the round and return at once")
    parser.add_argument("--cancel", action="store_true", help="cancel the round")
    parser.add_argument(
        "--resume", action="store_true", help="resume a failed or cancelled round, or one whose process died"
    )


def round_command(call: Call) -> Any:
    """Start, follow, cancel or resume a round."""
    from pipelines.services.rounds import cancel_round, resume_round

    given = call.options
    if given.track and not given.local:
        raise ConfigRefused("--track needs --local: the figures of workers are at the desks")
    ray_settings(call)
    if given.cancel:
        return outcome(call, cancel_round(call.workspace, named_or_newest_round(call).id, ACTOR))
    if given.resume:
        row = named_or_newest_round(call)
        resume_round(call.workspace, row.id, ACTOR)
        row = reload_round(call, row.id)
    else:
        row = named_or_newest_round(call) if given.round else start_checked_round(call)
    call.say(f"{row.id}: {row.recipe['name']}, at {row.stage}")
    if given.detach:
        return outcome(call, row)
    return run_here(call, row) if given.local else follow(call, row)


def run_here(call: Call, row: "Round") -> Any:
    """Run every stage in this process; waits while annotators work."""
    from pipelines.worker.local_runner import StageEnded

    reason = ""
    with tracked(call, row.id, row.recipe, call.workspace.path):
        name_section(call, row)
        for step in runner_for(call).run_round(row.id):
            call.report.close()
            if isinstance(step, StageEnded):
                call.say(f"  {step.name}: {summarize_result(step.result)}")
                name_section(call, reload_round(call, row.id))
            elif step.reason != reason:
                reason = step.reason
                call.say(f"  … {reason}")
    return outcome(call, reload_round(call, row.id))


def name_section(call: Call, row: "Round") -> None:
    """Put the stage's name before the figures that a tracker logs."""
    if call.options.track:
        call.report.section = row.stage


def follow(call: Call, row: "Round") -> Any:
    """Print the round's progress in the workers until it ends. Raises `JobFailed` if it failed or was
    cancelled."""
    from pipelines.services.queue import workers_alive

    printed_stages: set[str] = set()
    printed_line = ""
    while True:
        row = reload_round(call, row.id)
        for stage in row.results.keys() - printed_stages:
            printed_stages.add(stage)
            call.report.close()
            call.say(f"  {stage}: {summarize_result(row.results[stage])}")
        if row.state == "done":
            return outcome(call, row)
        if row.state in ("failed", "cancelled"):
            raise JobFailed(f"{row.id} {row.state}: {row.message}; resume it with `clinic round --resume`")
        line = row.message if row.state == "waiting" else ""
        if row.state == "running" and not workers_alive(call.workspace):
            line = "no worker is running: start one with `clinic worker`, or run the round here with --local"
        if line and line != printed_line:
            call.say(f"  … {line}")
        printed_line = line
        show_progress(call, row)
        time.sleep(FOLLOW_SECONDS)


def show_progress(call: Call, row: "Round") -> None:
    from pipelines.services.rounds import stage_job

    with call.workspace.catalog(read_only=True) as catalog:
        job = stage_job(catalog, row)
    if job and job.state == "running":
        call.report(int(1000 * job.progress), 1000, f"{row.stage} {job.message}")


def reload_round(call: Call, round_id: str) -> "Round":
    with call.workspace.catalog(read_only=True) as catalog:
        return catalog.rounds.get(round_id)


def outcome(call: Call, row: "Round") -> Any:
    call.say(f"{row.id} {row.state}{': ' + row.message if row.message else ''}")
    return {"round": row.id, "state": row.state, "stage": row.stage, "results": row.results}


def worker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        help="cpu, cuda:0, mps, …; one worker per device (default: the first NVIDIA GPU, else cpu)",
    )
    parser.add_argument("--no-inference", action="store_true", help="do not serve interactive predictions")
    parser.add_argument(
        "--grace",
        type=float,
        default=25.0,
        metavar="SECONDS",
        help="at SIGTERM, let the task end or reach its next checkpoint within this time, then exit "
        "(default: 25); another worker goes on",
    )
    parser.add_argument("--with-parent", action="store_true", help="exit when standard input is closed")


def worker(call: Call) -> Any:
    from pipelines.worker.worker import WorkerSettings, run_worker

    given = call.options
    device = {"device": given.device} if given.device else {}
    run_worker(
        WorkerSettings(
            workspace=call.new_workspace.path,
            inference=not given.no_inference,
            with_parent=given.with_parent,
            grace_seconds=0.0 if given.with_parent else max(0.0, given.grace),
            **device,
        )
    )


def status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=int, default=10, metavar="N", help="how many jobs to show (default: 10)"
    )
    parser.add_argument("--log", metavar="JOB", help="show the end of a job's log instead")
    parser.add_argument(
        "--costs",
        action="store_true",
        help="show device time, images, labels and people's time by round, training, treatment instead",
    )
    parser.add_argument("--cancel", metavar="JOB", help="cancel a job")
    parser.add_argument("--pause", metavar="JOB", help="pause a training or treatment and free its device")
    parser.add_argument("--resume", metavar="JOB", help="resume a paused, failed or cancelled job")


def status(call: Call) -> Any:
    from pipelines.services import jobs
    from pipelines.services.admin.maintenance import blob_counts, check_stores
    from pipelines.services.queue import workers_alive
    from storage.queries.overview import overview

    given = call.options
    if given.costs:
        return costs(call)
    if given.log:
        text = jobs.read_log(call.workspace, given.log)
        call.say(text or "this job has no log")
        return {"log": text}
    if given.cancel:
        jobs.cancel_job(call.workspace, given.cancel, ACTOR)
    if given.pause:
        jobs.pause_job(call.workspace, given.pause, ACTOR)
    if given.resume:
        jobs.resume_job(call.workspace, given.resume, ACTOR)
    check_stores(call.workspace)
    blobs = blob_counts(call.workspace)
    with call.workspace.catalog(read_only=True) as catalog:
        counts = overview(catalog)
        rounds = sorted(catalog.rounds.list(), key=lambda row: row.created)
        newest_jobs = catalog.jobs.list(limit=given.jobs)
    workers = workers_alive(call.workspace)
    say_status(call, counts, rounds, newest_jobs, workers)
    if blobs and blobs.unknown:
        call.say(
            f"blobs     {blobs.unknown} of {blobs.stored} are not known to this catalog; `clinic gc --trial` "
            "shows what it would clear. If the catalog is an older one, restore the newer one instead"
        )
    if blobs and blobs.missing:
        call.say(f"blobs     {blobs.missing} of images and labels are missing; restore them from a backup")
    return {"overview": counts, "rounds": rounds, "jobs": newest_jobs, "workers": workers, "blobs": blobs}


def costs(call: Call) -> Any:
    from dataengine.records import round_name
    from dataengine.records.counts import format_duration
    from storage.queries.costs import costs as read_costs

    with call.workspace.catalog(read_only=True) as catalog:
        found = read_costs(catalog)
        numbers = catalog.rounds.numbers()
    for cost in found:
        name = round_name(numbers, cost.of) if cost.kind == "round" else cost.kind
        devices = ", ".join(
            f"{format_duration(seconds)} of {kind}" for kind, seconds in cost.device_seconds.items()
        )
        parts = [devices or "no device time recorded"]
        if cost.kind == "round":
            parts.append(f"{cost.images} images")
            parts.append(f"{cost.labels} labels in {format_duration(cost.label_seconds)}")
            parts.append(f"{cost.votes} votes in {format_duration(cost.vote_seconds)}")
        call.say(f"{name:9} {cost.of}  {'; '.join(parts)}")
    if not found:
        call.say("nothing has run yet: start a round with `clinic round`")
    return {"costs": found}


def say_status(call: Call, overview: Any, rounds: Any, jobs: Any, workers: Any) -> None:
    from pipelines.services.rounds import describe_stages

    images = ", ".join(f"{count} {source}" for source, count in overview.images.items()) or "none yet"
    labelled = f"{overview.labelled} labelled" + f" and {overview.synthetic} by the demo" * bool(
        overview.synthetic
    )
    call.say(f"images    {images}; {labelled}, {overview.waiting} waiting for annotation")
    call.say(f"champion  {overview.champion or 'none yet'}")
    for row in rounds[-3:]:
        marks = "".join(stage_mark(stage.name, row) for stage in describe_stages(row))
        call.say(f"round     {row.id} [{marks}] {row.stage} {row.state}  {row.message}".rstrip())
    for job in jobs:
        progress = f"{job.progress:4.0%}" if job.state == "running" else "    "
        call.say(f"job       {job.id} {job.state} {progress} {job.error or job.message}".rstrip())
    for beat in workers:
        call.say(f"worker    {beat.id} pid {beat.pid} on {', '.join(beat.devices)} {beat.job_id or 'idle'}")
    if not workers:
        call.say("worker    none running: start one with `clinic worker`")


def stage_mark(stage: str, row: "Round") -> str:
    """One character: stage done, current, or still to come."""
    if stage in row.results:
        return "■"
    return "▶" if stage == row.stage else "·"


def whole_recipe() -> "type[BaseModel]":
    from pipelines.config import RoundRecipe

    return RoundRecipe


COMMANDS = (
    Command(
        name="worker",
        summary="run queued jobs (rounds, training, treatment) until stopped; safe to kill at any time",
        run=worker,
        arguments=worker_arguments,
        examples=("clinic worker", "clinic worker --device cuda:1"),
    ),
    Command(
        name="round",
        summary="run a whole round: in workers, or with --local in this process",
        run=round_command,
        arguments=round_arguments,
        examples=(
            "clinic round --recipe demo --local",
            "clinic round --recipe demo --set treat.tuning.learning_rate=5e-5",
            "clinic round --cancel",
            "clinic round --resume",
        ),
        settings=whole_recipe,
    ),
    Command(
        name="status",
        summary="show rounds, jobs and workers; cancel, pause or resume a job",
        run=status,
        arguments=status_arguments,
        examples=(
            "clinic status",
            "clinic status --json",
            "clinic status --costs",
            "clinic status --log JOB",
            "clinic status --pause JOB",
        ),
    ),
)
