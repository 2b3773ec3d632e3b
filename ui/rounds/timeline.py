"""A round as a timeline: each stage, its duration, input and output, and who it waits for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from dataengine.records import Job, Round, now
from pipelines.services import queue, rounds
from pipelines.services.detectors import verdict_texts
from storage.catalog import Catalog
from storage.queries.costs import Cost, costs
from storage.queries.rounds import labellers, open_assignments, stage_jobs


def timeline(catalog: Catalog, row: Round) -> list[dict[str, Any]]:
    """Every stage in order. Times come from the stage's jobs; a round run without a worker has none."""
    by_stage: dict[str, list[Job]] = {}
    for job in stage_jobs(catalog, row.id):
        by_stage.setdefault(job.args.get("stage", ""), []).append(job)
    ended, shown = row.created, []
    names = model_names(catalog)
    studies = [study.id for study in catalog.studies.list() if study.round_id == row.id]
    for stage in rounds.describe_stages(row):
        jobs = by_stage.get(stage.name, [])
        began = min((job.started for job in jobs if job.started), default=None)
        finished = max((job.finished for job in jobs if job.finished), default=None)
        state = state_of(row, stage, jobs)
        if stage.people and by_stage and state in ("done", "waiting"):
            began = ended
            following = [job.created for found in by_stage.values() for job in found if job.created >= ended]
            finished = min(following, default=None) if state == "done" else None
        open_job = jobs[-1] if jobs and jobs[-1].state in queue.OPEN else None
        shown.append(
            {
                "name": stage.name,
                "title": stage.title,
                "people": stage.people,
                "state": state,
                "began": began,
                "seconds": None if began is None else max(0.0, (finished or now()) - began),
                "attempts": len(jobs),
                "progress": open_job.progress if open_job else None,
                "takes": stage.takes,
                "gives": named(stage.found, names),
                "links": links_of(stage.name, row, studies),
                "message": message_of(row, stage.name, jobs),
                "job": jobs[-1].id if jobs else None,
            }
        )
        ended = finished or ended
    return shown


def model_names(catalog: Catalog) -> dict[str, str]:
    """What people call detectors and generators, by id."""
    names = {one.id: one.name for one in catalog.detectors.list()}
    return names | {one.id: one.name for one in catalog.generators.list()}


def named(text: str, names: Mapping[str, str]) -> str:
    """The text with names in place of the ids of models."""
    return re.sub(r"[\w.-]+", lambda found: names.get(found.group(), found.group()), text)


def links_of(stage: str, row: Round, studies: Sequence[str]) -> list[dict[str, str]]:
    """Where to see what a stage made: images, detector, treatment, study."""
    result = row.results.get(stage)
    if result is None:
        return []
    images = f"/curate?{urlencode({'view': 'images', 'round': row.id, 'sort': 'newest'})}"
    detector, treated = result.get("detector") or result.get("after"), result.get("treated")
    made = {
        "generate": [("images", images)],
        "generate_hard": [("images", images)],
        "mine": [("images sent to people", f"{images}&state=waiting")],
        "wait_for_labels": [("labelled images", f"{images}&state=unreviewed")],
        "train_teacher": [("teacher", f"/train?detector={detector}")],
        "retrain": [("candidate", f"/train?detector={detector}")],
        "evaluate": [("figures", f"/train?detector={detector}")],
        "promote": [("champion", f"/train?detector={result.get('champion')}")],
        "treat": [("treatment", f"/treat?treatment={result.get('treatment')}")],
        "judge": [
            *[("study", f"/study?view=results&study={id}") for id in studies],
            *([("start a study", f"/study?view=make&after={treated}")] if treated and not studies else []),
        ],
    }
    return [{"text": text, "href": href} for text, href in made.get(stage, []) if not href.endswith("=None")]


def state_of(row: Round, stage: rounds.StageDescription, jobs: list[Job]) -> str:
    """done, queued, running, waiting, failed, cancelled, ahead, or left out."""
    if stage.name in row.results:
        return "done"
    if stage.skipped:
        return "left out"
    if stage.name != row.stage:
        return "ahead"
    return "queued" if row.state == "running" and jobs and jobs[-1].state == "queued" else row.state


def message_of(row: Round, name: str, jobs: list[Job]) -> str:
    """The message of the current stage."""
    if name in row.results or name != row.stage:
        return ""
    return row.message or (jobs[-1].error or jobs[-1].message if jobs else "")


def people(catalog: Catalog, row: Round) -> list[dict[str, Any]]:
    """The annotators of a round's images."""
    return [
        {"name": one.author, "images": one.images, "clean": one.clean, "seconds": one.seconds}
        for one in labellers(catalog, row.id)
    ]


def waiting(catalog: Catalog, row: Round) -> dict[str, Any] | None:
    """Who a waiting round waits for: people with assigned images, and who may take the rest."""
    if row.state != "waiting":
        return None
    reserved, free = open_assignments(catalog, row.id)
    able = [
        user.name
        for user in catalog.users.list()
        if user.active and {"annotator", "curator", "admin"} & set(user.roles)
    ]
    return {"message": row.message, "reserved": reserved, "free": free, "able": able}


def figures(catalog: Catalog) -> list[dict[str, Any]]:
    """What each round changed in the detector and the generator, the oldest first."""
    names, spent = model_names(catalog), {cost.of: cost for cost in costs(catalog)}
    return [
        {**round_figures(row, names), "number": number, "cost": cost_of(spent[row.id])}
        for number, row in enumerate(catalog.rounds.list(), start=1)
    ]


def cost_of(cost: Cost) -> dict[str, Any]:
    """What a round took: seconds of devices by kind, and of people who labelled and voted."""
    return {
        "devices": dict(cost.device_seconds),
        "people": cost.label_seconds + cost.vote_seconds,
        "images": cost.images,
    }


def round_figures(row: Round, names: dict[str, str]) -> dict[str, Any]:
    """One round's figures; None where nothing was measured."""
    measured, promoted = row.results.get("evaluate", {}), row.results.get("promote", {})
    treated, compared = row.results.get("treat", {}), row.results.get("judge", {})

    def beside(name: str) -> list[float | None]:
        on_validation = [measured.get(who, {}).get("validation", {}) for who in ("champion", "candidate")]
        return [(figures | figures.get("operating", {})).get(name) for figures in on_validation]

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
        "moods": {name: one["verdict"] for name, one in promoted.get("verdicts", {}).items()},
        "verdicts": verdict_texts(promoted.get("verdicts", {})),
        "labels": row.results.get("wait_for_labels", {}).get("labels"),
        "hard": row.results.get("write_prompts", {}).get("hard", []),
        "generator": treated.get("treated"),
        "generator_name": names.get(treated.get("treated") or ""),
        "mean_confidence": change("mean_confidence"),
        "frequency": change("flagged") or change("frequency"),
    }
