"""Collect `evidence.json` from what the parts left: figures and facts, at whatever point the work stands."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataengine.records import CLINIC as CLINIC_DOMAIN
from dataengine.records import DetectorVersion, digest, threshold_of
from pipelines.evidence.machine import machine, product
from pipelines.evidence.parts import PARTS, QUEUE, Work, given_prompts
from pipelines.evidence.schema import (
    Cell,
    Change,
    DetectorFigures,
    Detectors,
    Evidence,
    Marking,
    Model,
    Part,
    Photos,
    Question,
    State,
    Study,
    Treatment,
    Under,
)
from pipelines.services.standalone.comparison import OFF_ITS_WORLD
from pipelines.services.studies import results

SECONDS, GIGABYTE = 3600.0, 1e9
LOCAL = "a local model"
PATH = re.compile(r"(?<![\w:/])(?:~|[A-Za-z]:)?[/\\][\w.@+~ -]+(?:[/\\][\w.@+~-]+)+[/\\]?")
"""What looks like a place on a machine, in the words of an error or a setting."""
HUB = re.compile(r"[\w.-]+/[\w.-]+")
SIMULATED = "the labels come from simulated annotators, a network of the embedded clinic, and not from people"
NO_LABELS = "nobody marked any image: the detector that treated learned from injected artifacts, or was given"
ONE_RATES = (
    "the detector that treated also rates the result, so its figures are optimistic; the study decides"
)
NOT_REGULARISED = "no photograph has a caption, so the treatment ran without its regularisation on images"


def collect(work: Work, state: State) -> Evidence:
    """Everything that is known now."""
    done = {name: work.journal.result(name) for name, _, _ in PARTS}
    parts = tuple(_part(work, name) for name, _, _ in PARTS)
    prompts = given_digest(work)
    return Evidence(
        state=state,
        created=_moment(work.journal.created),
        updated=datetime.now(UTC).isoformat(timespec="seconds"),
        product=product(),
        machine=machine(work.device),
        model=_model(work, done["generator"]) if done["generator"] else None,
        seed=work.request.settings.draw.seed,
        settings=settings_of(work),
        prompts=prompts[0],
        prompts_digest=prompts[1],
        parts=parts,
        hours=round(sum(part.hours for part in parts), 4),
        photos=_photos(done["photos"], done["detector"]) if done["photos"] else None,
        labels=_labels(work) if done["labels"] else None,
        detectors=_detectors(work, done) if done["detector"] else None,
        treatment=_treatment(work, done["treat"]) if done["treat"] else None,
        under=_under(done["under"]) if done["under"] else None,
        study=_study(work, done["study"]["id"]) if done["study"] else None,
        notes=tuple(notes(work, done)),
    )


def _part(work: Work, name: str) -> Part:
    row = work.journal.row(name)
    result = row.get("result")
    state = "done" if result is not None else "begun" if row else "to come"
    if (name == "mine" and result == {"queued": 0}) or (name == "retrain" and result and "id" not in result):
        state = "left out"
    if name in ("under", "study") and result == {}:
        state = "left out"
    return Part.model_validate(
        {
            "name": name,
            "state": state,
            "hours": round(float(row.get("seconds", 0.0)) / SECONDS, 4),
            "host_gb_peak": _rounded(row.get("host_gb_peak")),
            "device_gb_peak": _rounded(row.get("device_gb_peak")),
            "runs": int(row.get("runs", 0)),
        }
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _model(work: Work, found: Mapping[str, Any]) -> Model:
    return Model(
        name=public_name(work),
        revision=found["revision"],
        pipeline=found["pipeline"],
        licence=found["licence"] or ("Apache-2.0" if work.request.is_clinic else ""),
        digest=found["digest"],
        weights_gb=round(found["weights_bytes"] / GIGABYTE, 3),
    )


def public_name(work: Work) -> str:
    """What the evidence calls the generator: nothing that only this machine knows, unless --name says it."""
    named = work.request.generator
    if work.request.name:
        return work.request.name
    on_hub = HUB.fullmatch(named.partition("@")[0]) and not Path(named).expanduser().exists()
    return named.partition("@")[0] if on_hub or work.request.is_clinic else LOCAL


def given_digest(work: Work) -> tuple[int, str]:
    """How many prompts were given, and their digest; (0, "") where they are written."""
    treated, judged = given_prompts(work)
    texts = [*treated, *judged]
    return len(texts), digest(*texts) if texts else ""


def settings_of(work: Work) -> dict[str, object]:
    """The settings without locations and prompts."""
    found = work.request.settings.model_dump(mode="json")
    for choice in (found["treat"]["prompts"], found["treat"]["judge"]):
        choice.pop("texts")
    found["draw"].pop("prompts")
    return {name: without_places(value) for name, value in found.items()}


def without_places(value: Any) -> Any:
    """JSON with every path in its strings replaced by "…"."""
    if isinstance(value, dict):
        return {name: without_places(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(one) for one in value]
    return PATH.sub("…", value) if isinstance(value, str) else value


def _photos(found: Mapping[str, Any], trained: Mapping[str, Any] | None) -> Photos:
    return Photos(**found, injected=(trained or {}).get("injected", 0))


def _labels(work: Work) -> Marking:
    with work.workspace.catalog(read_only=True) as catalog:
        given = catalog.labels.of_round(QUEUE)
    by = work.done("labels")["by"]
    kinds = {label.source for label in given}
    return Marking(
        by="simulated" if "simulated" in kinds else "people" if given else by,
        asked=work.done("mine")["queued"],
        given=len(given),
        clean=sum(label.clean for label in given),
        people=len({label.author for label in given}),
        minutes=round(sum(label.lead_seconds for label in given) / 60, 1),
    )


def _detectors(work: Work, done: Mapping[str, Any]) -> Detectors:
    second = done["retrain"] or {}
    return Detectors(
        first=_figures(work.detector("first"), done["detector"]["samples"]),
        second=_figures(work.detector("second"), second["samples"]) if "id" in second else None,
        used=second.get("used", "first"),
        objections=tuple(without_places(second.get("objections", []))),
    )


def _figures(version: DetectorVersion, samples: Mapping[str, int]) -> DetectorFigures:
    labelled, real = (version.metrics.get(name) or {} for name in ("validation", "validation_real"))
    at = labelled.get("operating") or {}
    alarms = at.get("false_alarm")
    if alarms is None:
        alarms = (real.get("operating") or {}).get("false_alarm")
    return DetectorFigures(
        name=without_places(version.name),
        licence=version.licence,
        samples=dict(samples),
        validation=int(labelled.get("images", 0)) + int(real.get("images", 0)),
        pixel_ap=labelled.get("pixel_ap"),
        miss=at.get("miss"),
        false_alarm=alarms,
        threshold=threshold_of(version),
    )


def _treatment(work: Work, found: Mapping[str, Any]) -> Treatment:
    judged = found["judged"] or {}
    alike = judged.get("similarity") or {}
    return Treatment(
        objective=work.request.preset,
        updates=found["updates"],
        kept=found["kept"] if found["treated"] else None,
        stopped=without_places(found["stopped"]),
        pairs=judged.get("pairs", 0),
        prompts=judged.get("prompts", 0),
        worse=found["worse"],
        figures={name: change for name, one in judged.items() if (change := change_of(one)) is not None},
        similarity={name: (alike.get(name) or {}).get("mean") for name in ("psnr", "ssim", "lpips")},
    )


def change_of(one: Any) -> Change | None:
    """A figure with a value before and after; None for anything else."""
    if not isinstance(one, Mapping) or "before" not in one:
        return None
    interval, ratio, difference = one.get("interval"), one.get("ratio"), one.get("difference")
    if "drop" in one:
        difference = 0.0 - one["drop"]
        interval = interval and (0.0 - interval[1], 0.0 - interval[0])
    known = ratio is not None or difference is not None
    return Change(
        before=one["before"],
        after=one["after"],
        ratio=ratio,
        interval=(interval[0], interval[1]) if interval is not None and known else None,
        difference=difference,
    )


def _under(found: Mapping[str, Any]) -> Under:
    names = list(Cell.model_fields)
    return Under(
        limit=found["limit"],
        prompts=found["prompts"],
        cells=tuple(Cell.model_validate({name: cell[name] for name in names}) for cell in found["cells"]),
        held=found["held"],
        left_out=tuple(one["name"] for one in found["left_out"]),
    )


def _study(work: Work, study_id: str) -> Study:
    with work.workspace.catalog(read_only=True) as catalog:
        study = catalog.studies.get(study_id)
        votes = [vote for vote in catalog.votes.of_study(study.id) if vote.pair < len(study.pairs)]
        figures = results.results_of(catalog, study)
    seconds = {(vote.rater, vote.pair): vote.seconds for vote in votes}
    names = list(Question.model_fields)
    return Study(
        pairs=len(study.pairs),
        votes=len(votes),
        raters=len({vote.rater for vote in votes}),
        left_out=len(figures["left_out"]),
        minutes=round(sum(seconds.values()) / 60, 1),
        questions=tuple(
            Question.model_validate({name: one[name] for name in names}) for one in figures["questions"]
        ),
    )


def notes(work: Work, done: Mapping[str, Any]) -> Sequence[str]:
    """What a reader must know of the figures."""
    said = []
    if done["detector"] and work.detector("first").domain == CLINIC_DOMAIN and not work.request.is_clinic:
        said.append(OFF_ITS_WORLD)
    if done["labels"]:
        marking = _labels(work)
        said += [SIMULATED] * (marking.by == "simulated") + [NO_LABELS] * (not marking.given)
    if done["treat"] and done["treat"]["judged"]:
        said += [ONE_RATES] + [NOT_REGULARISED] * (
            work.request.settings.treat.tuning.offline is not None and not done["treat"]["regularised"]
        )
    return said
