"""Commands about work: one for each stage, the round as a whole, the worker, and what is going on."""

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict, JobFailed
from pipelines.cli.command import ACTOR, Call, Command, newest, with_settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dataengine.records import Round
    from pipelines.worker.local_runner import LocalRunner


STAGES = {
    "generate": "the generators draw the survey, and later the hard cases",
    "diagnose": "the champion marks where images are broken",
    "categorize": "a VQA model says what each image shows",
    "write-prompts": "which categories are hard, and prompts for them",
    "mine": "choose the few images that teach most, for people to draw on",
    "train-teacher": "train on what people answered",
    "pseudo-label": "the teacher labels the rest",
    "publish": "one immutable training set",
    "retrain": "joint training on true and pseudo labels",
    "evaluate": "champion beside candidate",
    "promote": "the candidate becomes champion, if it passes the gate",
    "treat": "the generator learns where it breaks",
    "judge": "the treated generator against its base",
}
FOLLOW_SECONDS = 0.5


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="demo", help="a named recipe (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random in it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated"
    )


def place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--round", metavar="ID", help="the round (default: the newest one)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where shards run")
    parser.add_argument("--device", help="cpu, cuda:0, … (default: the first GPU, else cpu)")


def stage_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    place_arguments(parser)
    if name == "generate":
        recipe_arguments(parser)
        parser.add_argument("--new", action="store_true", help="begin a new round even if one is open")


def run_stage(name: str, call: Call) -> Any:
    """Run that stage of the round here. Raises `Conflict` when the round stands elsewhere."""
    row = begun(call, new=call.options.new) if name == "generate" else newest(call)
    runner = runner_for(call)
    if row.stage == "wait_for_labels" and name == "train-teacher":
        runner.advance(row.id)
        row = newest(call)
        if row.state == "waiting":
            raise Conflict(f"{row.id}: {row.message}")
    if command_of(row) != name:
        raise Conflict(f"{row.id} stands at {row.stage!r}, not at {name!r}; see `clinic status`")
    runner.advance(row.id)
    call.report.close()
    result = newest(call).results[row.stage]
    call.say(f"{row.id} {row.stage}: {summary(result)}")
    return {"round": row.id, "stage": row.stage, "result": result}


def command_of(row: "Round") -> str:
    """The command that runs the stage that a round stands at: named like its section of the recipe."""
    from pipelines.services import rounds as services_rounds

    sections = {stage.name: stage.section for stage in services_rounds.describe_stages(row)}
    return sections.get(row.stage, row.stage).replace("_", "-")


def begun(call: Call, new: bool) -> "Round":
    """The round that is named or open, or else a new one by the recipe."""
    from pipelines.services.rounds import start_round

    if call.options.round and not new:
        return newest(call)
    with call.workspace.catalog(read_only=True) as catalog:
        open_ones = [row for row in catalog.rounds.list() if row.state in ("running", "waiting")]
    if open_ones and not new:
        return open_ones[-1]
    return start_round(call.workspace, settings_of(call), ACTOR)


def settings_of(call: Call) -> dict[str, Any]:
    """The recipe with its `--set` changes."""
    from pipelines import recipes

    recipe = recipes.named(call.options.recipe, call.options.seed)
    return with_settings(recipe.model_dump(mode="json"), call.options.set)


def runner_for(call: Call) -> "LocalRunner":
    """Runs stages in this process with the real models."""
    from pipelines.worker.local_runner import open_runner

    return open_runner(call.workspace, call.options.engine, call.options.device, call.report)


def summary(result: Any) -> str:
    """A stage's answer in a line."""
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
    parser.add_argument("--detach", action="store_true", help="ask for the round and return")
    parser.add_argument("--cancel", action="store_true", help="stop the round")
    parser.add_argument("--resume", action="store_true", help="go on with a failed or cancelled round")


def round_command(call: Call) -> Any:
    """Begin, follow, cancel or resume a round."""
    from pipelines.services.rounds import cancel_round, resume_round

    given = call.options
    if given.cancel:
        return outcome(call, cancel_round(call.workspace, newest(call).id, ACTOR))
    if given.resume:
        row = newest(call)
        resume_round(call.workspace, row.id, ACTOR)
        row = reload_round(call, row.id)
    else:
        row = newest(call) if given.round else begun(call, new=True)
    call.say(f"{row.id}: {row.recipe['name']}, at {row.stage}")
    if given.detach:
        return outcome(call, row)
    return run_here(call, row) if given.local else follow(call, row)


def run_here(call: Call, row: "Round") -> Any:
    """Every stage in this process; waits for people where they are needed."""
    from pipelines.worker.local_runner import StageEnded

    reason = ""
    for step in runner_for(call).run_round(row.id):
        call.report.close()
        if isinstance(step, StageEnded):
            call.say(f"  {step.name}: {summary(step.result)}")
        elif step.reason != reason:
            reason = step.reason
            call.say(f"  … {reason}")
    return outcome(call, reload_round(call, row.id))


def follow(call: Call, row: "Round") -> Any:
    """Tell how workers get on with the round until it ends. Raises `JobFailed` when it does not end well."""
    from pipelines.services.queue import workers_alive

    told: set[str] = set()
    said = ""
    while True:
        row = reload_round(call, row.id)
        for stage in row.results.keys() - told:
            told.add(stage)
            call.report.close()
            call.say(f"  {stage}: {summary(row.results[stage])}")
        if row.state == "done":
            return outcome(call, row)
        if row.state in ("failed", "cancelled"):
            raise JobFailed(f"{row.id} {row.state}: {row.message}; resume it with `clinic round --resume`")
        line = row.message if row.state == "waiting" else ""
        if row.state == "running" and not workers_alive(call.workspace):
            line = "no worker is alive: start one with `clinic worker`, or run here with --local"
        if line and line != said:
            call.say(f"  … {line}")
        said = line
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
        "--device", help="cpu, cuda:0, …: one worker for each (default: the first GPU, else cpu)"
    )
    parser.add_argument("--no-inference", action="store_true", help="do not offer interactive predictions")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")


def worker(call: Call) -> Any:
    from pipelines.worker.worker import WorkerSettings, run_worker

    given = call.options
    device = {"device": given.device} if given.device else {}
    run_worker(
        WorkerSettings(
            workspace=call.new_workspace.path,
            inference=not given.no_inference,
            with_parent=given.with_parent,
            **device,
        )
    )


def status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=int, default=10, metavar="N", help="how many jobs to show (default: 10)"
    )
    parser.add_argument("--log", metavar="JOB", help="show the end of a job's log instead")
    parser.add_argument("--cancel", metavar="JOB", help="stop a job")
    parser.add_argument("--pause", metavar="JOB", help="let a training or treatment wait, its device free")
    parser.add_argument("--resume", metavar="JOB", help="go on with a paused, failed or cancelled job")


def status(call: Call) -> Any:
    from pipelines.services import jobs
    from pipelines.services.queue import workers_alive
    from storage.queries.overview import overview

    given = call.options
    if given.log:
        text = jobs.read_log(call.workspace, given.log)
        call.say(text or "there is no log of that job")
        return {"log": text}
    if given.cancel:
        jobs.cancel_job(call.workspace, given.cancel, ACTOR)
    if given.pause:
        jobs.pause_job(call.workspace, given.pause, ACTOR)
    if given.resume:
        jobs.resume_job(call.workspace, given.resume, ACTOR)
    with call.workspace.catalog(read_only=True) as catalog:
        counts = overview(catalog)
        rounds = sorted(catalog.rounds.list(), key=lambda row: row.created)
        newest_jobs = catalog.jobs.list(limit=given.jobs)
    workers = workers_alive(call.workspace)
    say_status(call, counts, rounds, newest_jobs, workers)
    return {"overview": counts, "rounds": rounds, "jobs": newest_jobs, "workers": workers}


def say_status(call: Call, overview: Any, rounds: Any, jobs: Any, workers: Any) -> None:
    from pipelines.services.rounds import describe_stages

    images = ", ".join(f"{count} {source}" for source, count in overview.images.items()) or "none yet"
    call.say(f"images    {images}; {overview.labelled} labelled, {overview.waiting} waiting for people")
    call.say(f"champion  {overview.champion or 'none yet'}")
    for row in rounds[-3:]:
        marks = "".join(mark(stage.name, row) for stage in describe_stages(row))
        call.say(f"round     {row.id} [{marks}] {row.stage} {row.state}  {row.message}".rstrip())
    for job in jobs:
        how = f"{job.progress:4.0%}" if job.state == "running" else "    "
        call.say(f"job       {job.id} {job.state} {how} {job.error or job.message}".rstrip())
    for beat in workers:
        call.say(f"worker    {beat.id} pid {beat.pid} on {', '.join(beat.devices)} {beat.job_id or 'idle'}")
    if not workers:
        call.say("worker    none alive: start one with `clinic worker`")


def mark(stage: str, row: "Round") -> str:
    """One character: recorded, here, or still to come."""
    if stage in row.results:
        return "■"
    return "▶" if stage == row.stage else "·"


def whole_recipe() -> "type[BaseModel]":
    from pipelines.config import RoundRecipe

    return RoundRecipe


def stage_command(name: str, what: str) -> Command:
    """The command of one stage, run in this process."""
    return Command(
        name=name,
        summary=f"stage of a round: {what}",
        run=partial(run_stage, name),
        arguments=partial(stage_arguments, name),
        examples=(f"clinic {name}", f"clinic {name} --round round-20260101-120000-abcdef"),
        settings=whole_recipe if name == "generate" else None,
    )


COMMANDS = (
    Command(
        name="worker",
        summary="do the work that desks and commands ask for, until stopped",
        run=worker,
        arguments=worker_arguments,
        examples=("clinic worker", "clinic worker --device cuda:1"),
    ),
    Command(
        name="round",
        summary="run a whole round: through workers, or with --local in this process",
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
        summary="rounds, jobs and workers at a glance",
        run=status,
        arguments=status_arguments,
        examples=(
            "clinic status",
            "clinic status --json",
            "clinic status --log JOB",
            "clinic status --pause JOB",
        ),
    ),
    *(stage_command(name, what) for name, what in STAGES.items()),
)
