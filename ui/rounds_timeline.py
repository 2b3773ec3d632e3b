"""A round as a timeline: each stage, how long it took, what went in and came out, who is waited for."""

from collections.abc import Callable
from typing import Any

from dataengine.records import Job, Round, now
from pipelines import requests
from storage.catalog import Catalog
from storage.queries.rounds import labellers, stage_jobs, waited_for

Said = dict[str, Any]

INTO = {
    "generate": "survey prompts",
    "diagnose": "survey images",
    "categorize": "survey images",
    "write_prompts": "confidence by category",
    "generate_hard": "prompts for the hard categories",
    "diagnose_hard": "hard images",
    "mine": "images of the hard categories",
    "wait_for_labels": "the images chosen for people",
    "train_teacher": "people’s labels, real pictures, earlier sets",
    "pseudo_label": "images that nobody labelled",
    "publish": "labels, pseudo-labels, real pictures",
    "retrain": "the published set",
    "evaluate": "champion and candidate, validation and benchmark",
    "promote": "their figures on validation",
    "treat": "a generator, the champion, treating prompts",
    "judge": "both generators, held-out prompts and seeds",
}
"""What each stage takes."""


def drew(result: Said) -> str:
    made = ", ".join(f"{count} by {name}" for name, count in result["by_generator"].items())
    return f"{result['images']} images{f': {made}' if made else ''}"


def looked(result: Said) -> str:
    return (
        f"{result['suspected']} of {result['images']} images suspected, mean maximum {result['mean_max']:.2f}"
    )


def kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing"


def figure(result: Said, who: str, name: str) -> float | None:
    """A detector's figure on the validation images that people labelled."""
    found: float | None = result.get(who, {}).get("validation", {}).get(name)
    return found


def arrow(before: float | None, after: float | None) -> str:
    return " → ".join("–" if value is None else f"{value:.4g}" for value in (before, after))


def judged(result: Said) -> str:
    if not result["pairs"]:
        return "nothing to compare"
    mean, frequency = result["mean_confidence"], result["frequency"]
    return (
        f"{result['pairs']} pairs; mean confidence {arrow(mean['before'], mean['after'])}, "
        f"flawed images {arrow(frequency['before'], frequency['after'])}"
    )


OUT: dict[str, Callable[[Said], str]] = {
    "generate": drew,
    "diagnose": looked,
    "categorize": lambda result: kinds(result["categories"]),
    "write_prompts": lambda result: (
        f"hard: {', '.join(result['hard']) or 'none'}; {sum(result['prompts'].values())} prompts"
    ),
    "generate_hard": drew,
    "diagnose_hard": looked,
    "mine": lambda result: f"{result['queued']} images for people",
    "wait_for_labels": lambda result: (
        f"{result['labels']} labels by {result['authors']} people, {result['clean']} of them clean"
    ),
    "train_teacher": lambda result: f"a teacher, from {kinds(result['samples'])}",
    "pseudo_label": lambda result: (
        f"{result['images']} images labelled by the teacher, {result['flawed']} flawed"
    ),
    "publish": lambda result: f"{result['rows']} rows: {kinds(result['composition'])}",
    "retrain": lambda result: f"a candidate, from {kinds(result['samples'])}",
    "evaluate": lambda result: (
        "squared error on validation "
        + arrow(figure(result, "champion", "mse"), figure(result, "candidate", "mse"))
    ),
    "promote": lambda result: (
        "the candidate is champion" if result["promoted"] else f"kept: {'; '.join(result['reasons'])}"
    ),
    "treat": lambda result: f"kept update {result['kept']} of {result['updates']}; {result['stopped']}",
    "judge": judged,
}
"""What each stage's answer says, in a line."""


def came_out(stage: str, result: Said) -> str:
    """A stage's answer in a line; its plain figures where it is none that we know."""
    try:
        return OUT[stage](result)
    except (KeyError, TypeError, ValueError):
        plain = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
        return ", ".join(f"{name} {value}" for name, value in plain.items())


def timeline(catalog: Catalog, row: Round) -> list[dict[str, Any]]:
    """Every stage in order. Times come from the stage's jobs; a round run without a worker has none."""
    by_stage: dict[str, list[Job]] = {}
    for job in stage_jobs(catalog, row.id):
        by_stage.setdefault(job.args.get("stage", ""), []).append(job)
    leaves_out, ended, shown = requests.stages_left_out(row), row.created, []
    for name in requests.stage_names():
        jobs = by_stage.get(name, [])
        began = min((job.started for job in jobs if job.started), default=None)
        finished = max((job.finished for job in jobs if job.finished), default=None)
        state = state_of(row, name, jobs, leaves_out)
        if name == "wait_for_labels" and by_stage and state in ("done", "waiting"):
            began = ended
            following = [job.created for found in by_stage.values() for job in found if job.created >= ended]
            finished = min(following, default=None) if state == "done" else None
        open_job = jobs[-1] if jobs and jobs[-1].state in requests.OPEN else None
        shown.append(
            {
                "name": name,
                "state": state,
                "began": began,
                "seconds": None if began is None else max(0.0, (finished or now()) - began),
                "attempts": len(jobs),
                "progress": open_job.progress if open_job else None,
                "takes": INTO.get(name, ""),
                "gives": came_out(name, row.results[name]) if name in row.results else "",
                "message": message_of(row, name, jobs),
                "job": jobs[-1].id if jobs else None,
            }
        )
        ended = finished or ended
    return shown


def state_of(row: Round, name: str, jobs: list[Job], leaves_out: set[str]) -> str:
    """done, queued, running, waiting, failed, cancelled, ahead, or left out."""
    if name in row.results:
        return "done"
    if name in leaves_out:
        return "left out"
    if name != row.stage:
        return "ahead"
    return "queued" if row.state == "running" and jobs and jobs[-1].state == "queued" else row.state


def message_of(row: Round, name: str, jobs: list[Job]) -> str:
    """What the stage says of itself while it is not done."""
    if name in row.results or name != row.stage:
        return ""
    return row.message or (jobs[-1].error or jobs[-1].message if jobs else "")


def people(catalog: Catalog, row: Round) -> list[dict[str, Any]]:
    """Who labelled."""
    return [
        {"name": one.author, "images": one.images, "clean": one.clean, "seconds": one.seconds}
        for one in labellers(catalog, row.id)
    ]


def waiting(catalog: Catalog, row: Round) -> dict[str, Any] | None:
    """For whom a waiting round waits: people with images of their own, and who may take the rest."""
    if row.state != "waiting":
        return None
    reserved, free = waited_for(catalog, row.id)
    able = [
        user.name
        for user in catalog.users.list()
        if user.active and {"annotator", "curator", "admin"} & set(user.roles)
    ]
    return {"message": row.message, "reserved": reserved, "free": free, "able": able}


def figures(catalog: Catalog) -> list[dict[str, Any]]:
    """What each round did to the detector and to the generator, the oldest first."""
    names = {one.id: one.name for one in catalog.detectors.list()}
    names |= {one.id: one.name for one in catalog.generators.list()}
    return [round_figures(row, names) for row in catalog.rounds.list()]


def round_figures(row: Round, names: dict[str, str]) -> dict[str, Any]:
    """One round's line; what it has not measured is None."""
    measured, promoted = row.results.get("evaluate", {}), row.results.get("promote", {})
    treated, compared = row.results.get("treat", {}), row.results.get("judge", {})

    def beside(name: str) -> list[float | None]:
        return [figure(measured, who, name) for who in ("champion", "candidate")]

    def change(name: str) -> list[float | None] | None:
        found = compared.get(name)
        return [found.get("before"), found.get("after")] if isinstance(found, dict) else None

    return {
        "round": row.id,
        "recipe": row.recipe.get("name", ""),
        "state": row.state,
        "stage": row.stage,
        "message": row.message,
        "created": row.created,
        "champion": names.get(promoted.get("champion", ""), promoted.get("champion")),
        "promoted": promoted.get("promoted"),
        "mse": beside("mse"),
        "false_alarm": beside("false_alarm"),
        "miss": beside("miss"),
        "labels": row.results.get("wait_for_labels", {}).get("labels"),
        "hard": row.results.get("write_prompts", {}).get("hard", []),
        "generator": treated.get("treated"),
        "generator_name": names.get(treated.get("treated") or ""),
        "mean_confidence": change("mean_confidence"),
        "frequency": change("frequency"),
    }
