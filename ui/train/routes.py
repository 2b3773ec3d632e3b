"""The API of the training desk at /train. Training runs as a durable job; a person promotes."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.records import (
    CLINIC,
    STAGE_JOB,
    DetectorVersion,
    Job,
    Snapshot,
    describe_point,
    round_name,
)
from pipelines.config import TrainingRun
from pipelines.services import preflight, queue, runs, training_preview
from pipelines.services.detectors import (
    champion_figures,
    licence_limits,
    objections_to,
    promote_detector,
    rename_detector,
    request_comparison,
    roll_back_champion,
    same_images,
    verdicts_on,
)
from pipelines.services.locations import check_locations, offers
from pipelines.services.training.presets import training_presets
from pipelines.services.training.starts import recipe_choices, start_choices
from storage.workspace import Workspace
from ui.runs.curves import curves_csv
from ui.runs.presets import PresetSettings, settings_of
from ui.runs.routes import Beside, NewName, curves_of, run_routes, run_rows
from ui.train.injection import injection_routes
from ui.web.access import ENGINEERS
from ui.web.sessions import Person, Requires
from ui.web.settings_form import form

TRAINING = Requires(ENGINEERS, "training detectors")
Engineer = Annotated[Person, TRAINING]
DETECTORS_SHOWN = 100
PREVIEW_SECONDS = 60.0
STAGES = {"teacher": ("train_teacher",)}
JOINT_STAGES = ("retrain", "train_teacher")
MADE_FOR = {CLINIC: "the embedded clinic's drawings"}
"""The kinds of images that detectors are made for, in words."""
FIGURES = ("mse", "kl", "kl1m")
REAL_FIGURES = ("mse", "kl1m")
SHOWN_FIGURES = (*FIGURES, "miss", "false_alarm", "pixel_ap", "iou", "auroc")


class Promotion(BaseModel):
    """The new champion, the reason, and the champion that the page showed."""

    model_config = ConfigDict(extra="forbid")

    detector: str = Field(default="", max_length=200)
    reason: str = Field(default="", max_length=1000)
    champion: str | None = Field(default=None, max_length=200)


def train_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/train."""
    routes = APIRouter(prefix="/api/train", dependencies=[TRAINING])
    routes.include_router(run_routes(workspace, runs.TRAINING))
    routes.include_router(injection_routes(workspace))
    previews = AnswerCache(lambda plan: training_preview.snapshot_preview(workspace, plan.publish))

    @routes.get("/overview")
    def show_overview() -> dict[str, Any]:
        return overview(workspace)

    @routes.get("/form")
    def described_form(preset: Annotated[str, Field(max_length=100)] = "") -> dict[str, Any]:
        return training_form(workspace, preset)

    @routes.post("/preview")
    def preview(body: PresetSettings) -> dict[str, Any]:
        return previews.of(plan_of(workspace, body))

    @routes.post("/checks")
    def checks(body: PresetSettings) -> dict[str, Any]:
        plan = plan_of(workspace, body)
        return {"checks": preflight.as_json(preflight.training_checks(workspace, plan))}

    @routes.post("/needs")
    def needs(body: PresetSettings) -> dict[str, Any]:
        plan = plan_of(workspace, body)
        found = preflight.needs(workspace, "train", plan.model_dump(mode="json"))
        return {"checks": preflight.as_json([found])}

    @routes.post("/start")
    def start(body: PresetSettings, person: Engineer) -> dict[str, str]:
        job = runs.start_training(workspace, plan_of(workspace, body), person.name)
        return {"run": job.args["run"]}

    @routes.get("/detectors")
    def detectors() -> dict[str, Any]:
        """Every detector that is offered, the newest first, and which of them is the champion."""
        with workspace.catalog(read_only=True) as catalog:
            champion = catalog.detectors.champion()
            rows = [row_of(one) for one in reversed(catalog.detectors.offered())]
        return {"detectors": rows, "champion": champion and champion.id}

    @routes.get("/snapshots")
    def snapshots() -> dict[str, Any]:
        """Every published training set, the newest first."""
        with workspace.catalog(read_only=True) as catalog:
            return {"snapshots": [snapshot_row(one) for one in reversed(catalog.snapshots.list())]}

    @routes.get("/snapshots/{snapshot_id}")
    def snapshot(snapshot_id: str) -> dict[str, Any]:
        """One training set, and the detectors that were trained on it."""
        with workspace.catalog(read_only=True) as catalog:
            found = catalog.snapshots.get(snapshot_id)
            made = [one.id for one in catalog.detectors.list() if one.snapshot_id == found.id]
        return snapshot_row(found) | {"detectors": made}

    @routes.get("/detectors/{detector_id}")
    def detector(detector_id: str) -> dict[str, Any]:
        return detector_details(workspace, detector_id)

    @routes.get("/detectors/{detector_id}/curves")
    def detector_curves(detector_id: str) -> dict[str, tuple[list[int], list[float]]]:
        return runs.curves(workspace, jobs_behind(workspace, detector_id))

    @routes.get("/detectors/{detector_id}/curves.csv")
    def detector_curves_file(detector_id: str, beside: Beside = ()) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            name = catalog.detectors.get(detector_id).name
        own = {name: runs.curves(workspace, jobs_behind(workspace, detector_id))}
        return curves_csv(own | curves_of(workspace, runs.TRAINING, beside))

    @routes.post("/detectors/{detector_id}/rename")
    def rename(detector_id: str, body: NewName, person: Engineer) -> dict[str, str]:
        return {"name": rename_detector(workspace, detector_id, body.name, person.name).name}

    @routes.post("/detectors/{detector_id}/measure")
    def measure(detector_id: str, person: Engineer) -> dict[str, str]:
        return {"job": request_comparison(workspace, detector_id, person.name).id}

    @routes.post("/promote")
    def promote(body: Promotion, person: Engineer) -> dict[str, str]:
        made = promote_detector(workspace, body.detector, person.name, body.reason, body.champion)
        return {"champion": made.id, "name": made.name}

    @routes.post("/rollback")
    def rollback(body: Promotion, person: Engineer) -> dict[str, str]:
        made = roll_back_champion(workspace, person.name, body.champion)
        return {"champion": made.id, "name": made.name}

    return routes


def plan_of(workspace: Workspace, body: PresetSettings) -> TrainingRun:
    """The form's settings. Raises `ConfigRefused` naming an invalid field or an unregistered location."""
    presets = training_presets(workspace)
    plan = runs.validated(TrainingRun, settings_of(body, presets))
    check_locations(workspace, plan, map(TrainingRun.model_validate, presets.values()))
    return plan


class AnswerCache:
    """A cache of slow answers, keyed by the settings that they depend on; one is computed at a time."""

    def __init__(self, make: Callable[[TrainingRun], dict[str, Any]]) -> None:
        self._make = make
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._making = Lock()

    def of(self, plan: TrainingRun) -> dict[str, Any]:
        """The answer for these settings."""
        key = plan.publish.model_dump_json()
        with self._making:
            made, answer = self._kept.get(key, (0.0, {}))
            if time.monotonic() - made > PREVIEW_SECONDS or not answer:
                answer = self._make(plan)
                self._kept = {key: (time.monotonic(), answer)}
            return answer


def overview(workspace: Workspace) -> dict[str, Any]:
    """The champion, the newest detectors and runs."""
    with workspace.catalog(read_only=True) as catalog:
        versions = list(reversed(catalog.detectors.offered()))
        champion, since = catalog.detectors.champion(), catalog.detectors.champion_since()
        previous = catalog.detectors.previous_champion_id()
        former = None if previous is None else catalog.detectors.get(previous).name
    return {
        "champion": None
        if champion is None
        else {**row_of(champion), "intervals": intervals_of(champion), "since": since, "previous": former},
        "detectors": [row_of(one) for one in versions[:DETECTORS_SHOWN]],
        "more": max(0, len(versions) - DETECTORS_SHOWN),
        "runs": run_rows(workspace, runs.TRAINING),
        "worker": bool(queue.workers_alive(workspace)),
    }


def row_of(version: DetectorVersion) -> dict[str, Any]:
    """A detector as the list shows it."""
    return {
        "id": version.id,
        "name": version.name,
        "role": version.role,
        "created": version.created,
        "round": version.round_id,
        "figures": five(version.metrics, "validation"),
        "rates": rates(version.metrics.get("validation", {})),
        "operating_point": describe_point(version),
        "licence": version.licence,
        "forbids": licence_limits(version),
    }


def snapshot_row(snapshot: Snapshot) -> dict[str, Any]:
    """A training set as the list shows it; `composition` counts its examples by kind."""
    return {
        "id": snapshot.id,
        "rows": snapshot.rows,
        "composition": snapshot.composition,
        "round": snapshot.round_id,
        "parent": snapshot.parent,
        "created": snapshot.created,
    }


def five(metrics: dict[str, Any], split: str) -> dict[str, float | None]:
    """The five metrics (DiffDoctor, Table 1) of a split: three on labelled images, two on real ones."""
    hard, real = metrics.get(split, {}), metrics.get(f"{split}_real", {})
    return {
        **{name: hard.get(name) for name in FIGURES},
        **{f"real_{name}": real.get(name) for name in REAL_FIGURES},
    }


def intervals_of(version: DetectorVersion, split: str = "validation") -> dict[str, Any]:
    """95 % intervals of the five metrics."""
    return five(
        {
            key: found.get("intervals", {})
            for key, found in version.metrics.items()
            if key in (split, f"{split}_real")
        },
        split,
    )


def training_form(workspace: Workspace, preset: str) -> dict[str, Any]:
    """The form, filled in from a preset, and its choices."""
    presets = training_presets(workspace)
    name = preset if preset in presets else next(iter(presets))
    plan = TrainingRun.model_validate(presets[name])
    starts = start_choices(workspace, plan)
    return {
        "fields": form(TrainingRun, presets[name], offers(workspace)),
        "presets": list(presets),
        "preset": name,
        "recipes": recipe_choices(workspace),
        "starts": starts,
        "choices": {"start": [[one.value, one.name] for one in starts if one.value]},
    }


def detector_details(workspace: Workspace, detector_id: str) -> dict[str, Any]:
    """What a promotion needs: figures compared with the champion's, calibration, worst images, lineage."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
        champion = catalog.detectors.champion()
        parent = next((one.name for one in catalog.detectors.list() if one.id == version.parent), None)
        frozen = catalog.benchmarks.newest_frozen() is not None
        numbers = catalog.rounds.numbers()
        measuring = [
            job for job in catalog.jobs.list(queue.OPEN, "measure") if job.args["detector"] == version.id
        ]
    other = None
    if champion is not None and champion.id != version.id:
        other = champion_figures(version, champion)
    return {
        **row_of(version),
        "champion": None if champion is None else {"id": champion.id, "name": champion.name},
        "measured": split_figures(version.metrics),
        "beside": None
        if other is None
        else {
            split: {**found, "comparable": same_images(version.metrics, other, split)}
            for split, found in split_figures(other).items()
        },
        "measuring": bool(measuring),
        "calibration": version.metrics.get("calibration"),
        "worst": version.metrics.get("worst", {}),
        "verdicts": verdicts_on(version, champion),
        "objections": objections_to(version, champion),
        "benchmark_frozen": frozen,
        "lineage": {
            "goes on from": parent or start_of(version),
            "snapshot": version.snapshot_id,
            "round": version.round_id and round_name(numbers, version.round_id),
            "encoder weights": version.metrics.get("training", {}).get("pretrained")
            or "none, or not recorded",
            "licence": version.licence or "not recorded",
            "made for": MADE_FOR.get(version.domain, "not recorded"),
        },
        "config": version.config,
    }


def start_of(version: DetectorVersion) -> str:
    """What a detector without a parent began with."""
    if pretrained := version.metrics.get("training", {}).get("pretrained"):
        return f"encoder weights {pretrained}"
    return "random weights" if version.snapshot_id else "random weights, or another workspace"


def split_figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """By split, figures with intervals, and rates by category."""
    return {
        split: {
            "images": found.get("images"),
            "figures": {key: (found | rates(found)).get(key) for key in SHOWN_FIGURES},
            "intervals": found.get("intervals", {}) | found.get("operating", {}).get("intervals", {}),
            "categories": {
                name: {key: one.get(key) for key in ("images", "clean", "mse", "false_alarm", "miss")}
                for name, one in found.get("categories", {}).items()
            },
        }
        for split, found in metrics.items()
        if split in ("validation", "validation_real", "benchmark", "benchmark_real")
    }


def rates(found: dict[str, Any]) -> dict[str, Any]:
    """Misses and false alarms of a set at the detector's operating point; empty if measured before it had
    one."""
    operating = found.get("operating", {})
    return {name: operating[name] for name in ("false_alarm", "miss") if name in operating}


def jobs_behind(workspace: Workspace, detector_id: str) -> list[Job]:
    """The jobs that trained a detector: of its round's stage, or of its run."""
    with workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
        of_stages = catalog.jobs.list(kind=STAGE_JOB) if version.round_id else []
    if version.round_id is None:
        of_runs = (run.jobs for run in runs.runs(workspace, runs.TRAINING) if made(run, detector_id))
        return list(next(of_runs, ()))
    for stage in STAGES.get(version.role, JOINT_STAGES):
        if found := [one for one in of_stages if one.args == {"round_id": version.round_id, "stage": stage}]:
            return found
    return []


def made(run: runs.Run, detector_id: str) -> bool:
    """Whether the run trained that detector."""
    return any(job.result.get("detector") == detector_id for job in run.jobs)
