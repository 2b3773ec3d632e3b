"""The parts of `clinic evidence`, in order. Each takes the work so far and returns a small JSON result.

Each is safe to repeat: it looks for its own rows first, as stages and jobs do, and these resume by
themselves. A part returns None where it waits for people.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dataengine import durable
from dataengine.errors import InputRefused, JobFailed
from dataengine.records import DetectorVersion, GeneratorVersion, Report, digest
from dataengine.records.images import JUDGE
from pipelines.config import RoundRecipe, TreatmentRun, WritePromptsConfig
from pipelines.demo.run import Listening, annotators_at_work
from pipelines.evidence.journal import Journal
from pipelines.evidence.plan import EvidenceRequest
from pipelines.selections.config import ImageQuery
from pipelines.services import detectors, preflight, rounds
from pipelines.services.images import work as selections
from pipelines.services.standalone import treatment, under
from pipelines.services.standalone.comparison import ComparisonRequest
from pipelines.services.standalone.models import find_detector, find_generator
from pipelines.services.studies.lifecycle import NewStudy, open_study
from pipelines.services.training import here
from storage.workspace import Workspace

ACTOR = "clinic evidence"
ROUND, QUEUE = "evidence", "evidence"
"""Name of the round's recipe, and the queue's id."""
HELD_OUT = "held-out-prompts.txt"
TREATED, UNDER = "treated", "under"
POLL_SECONDS, STALLED_SECONDS = 0.3, 300.0
FEW = WritePromptsConfig(
    hard_per_category=1,
    seeds_per_prompt=1,
    treat_per_category=1,
    treat_easy_per_category=0,
    judge_per_category=1,
    judge_easy_per_category=0,
)
"""A survey writes prompts for its hard categories as well; these are not used."""

Result = dict[str, Any]
Serve = Callable[[Workspace], AbstractContextManager[Listening]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work so far."""

    request: EvidenceRequest
    workspace: Workspace
    journal: Journal
    device: str
    serve: Serve
    """Serve the workspace to simulated annotators while a block runs."""

    def done(self, part: str) -> Result:
        """The result of a part that is done."""
        found: Result = self.journal.result(part)
        return found

    @property
    def base(self) -> GeneratorVersion:
        """The generator that is treated."""
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.generators.get(self.done("generator")["id"])

    def detector(self, which: str) -> DetectorVersion:
        """The first or the second detector."""
        part = "detector" if which == "first" else "retrain"
        with self.workspace.catalog(read_only=True) as catalog:
            return catalog.detectors.get(self.done(part)["id"])

    @property
    def used(self) -> DetectorVersion:
        """The detector that treats: the second one unless there is none, or its figures speak against it."""
        return self.detector(self.done("retrain")["used"])


def photos(work: Work, report: Report) -> Result:
    """Import the photographs, as free of artifacts. Raises `InputRefused` where none can be used."""
    from pipelines.exchange.readers.folders import import_folder

    folder = work.request.photos
    if not folder.is_dir():
        raise InputRefused(f"--photos {folder}: there is no such folder; name one with photographs")
    found = import_folder(work.workspace, folder, source="real", licence="", report=report)
    with work.workspace.catalog(read_only=True) as catalog:
        used = catalog.images.count(source="real", status="active")
        captioned = catalog.images.count(source="real", status="active", has_prompt=True)
    if not used:
        first = "".join(f" ({one.name}: {one.reason})" for one in found.refused[:1])
        raise InputRefused(f"--photos {folder} holds no image that can be used{first}; give photographs")
    return {"used": used, "captioned": captioned, "refused": len(found.refused)}


def generator(work: Work, report: Report) -> Result:
    """Register the generator, and see whether its treatment fits onto the device before hours of work.

    Raises `NotFound` and `ModelRefused` for the generator, `ConfigRefused` with the estimate's sentence.
    """
    report(0, 1, "registering the generator")
    version = find_generator(work.workspace, work.request.generator, work.request.licence)
    text = require_memory(work, version.id, report)
    return {"id": version.id, "estimate": text, **model_facts(work.workspace, version)}


def require_memory(work: Work, generator_id: str, report: Report) -> str:
    """The estimates of training and treatment in words. Raises `ConfigRefused` where one does not fit."""
    from pipelines.jobs.estimate import estimate_run
    from pipelines.runtime.context import real_context

    settings, context = work.request.settings, real_context(work.workspace, work.device)
    given = work.request.first_detector
    named = {"detector": find_detector(work.workspace, given).id} if given else {}
    plan = settings.treat.model_copy(update={"generator": generator_id, **named})
    untrained = None if given else settings.first.training.detector
    runs: list[tuple[str, Any, Any]] = [] if given else [("train", settings.first, None)]
    runs.append(("treat", plan, untrained))
    said = []
    for kind, run, network in runs:
        report(0, 1, f"estimating what it takes to {kind}")
        found = estimate_run(context, kind, run.model_dump(mode="json"), network)
        preflight.require([preflight.Check(name=kind, verdict=found["verdict"], text=found["text"])])
        said.append(f"To {kind}: {found['text']}")
    return " ".join(said)


def model_facts(workspace: Workspace, version: GeneratorVersion) -> Result:
    """Commit, class, and size and digest of the weights."""
    from pipelines.generators.files import PIPELINE, REVISION, cached_folder, local_folder

    folder = local_folder(workspace, version) or cached_folder(version)
    files = sorted(folder.rglob("*.safetensors")) if folder else []
    hashes = []
    for file in files:
        with file.open("rb") as stream:
            name = file.relative_to(folder).as_posix() if folder else ""
            hashes.append((name, hashlib.file_digest(stream, "sha256").hexdigest()))
    return {
        "revision": version.settings.get(REVISION, ""),
        "pipeline": version.settings.get(PIPELINE, ""),
        "licence": version.licence,
        "digest": digest(hashes) if hashes else "",
        "weights_bytes": sum(file.stat().st_size for file in files),
    }


def detector(work: Work, report: Report) -> Result:
    """The first detector: the one that is given, or one trained on the photographs and on artifacts injected
    into them. It becomes the champion."""
    if work.request.first_detector:
        report(0, 1, "registering the detector")
        found = find_detector(work.workspace, work.request.first_detector)
        _crown(work.workspace, found.id)
        return {"id": found.id, "samples": {}, "injected": 0}
    settings = work.request.settings
    injected = selections.inject_images(work.workspace, settings.inject, work.device, report)
    version, samples = _trained(work, settings.first, report)
    _crown(work.workspace, version.id)
    return {"id": version.id, "samples": samples, "injected": injected["images"] + injected["known"]}


def _trained(work: Work, plan: Any, report: Report) -> tuple[DetectorVersion, dict[str, int]]:
    """Train by the plan; one that an earlier run trained under its name is taken, and measured if that run
    ended before it was."""
    from pipelines.jobs.train_detector import measure_job

    name = plan.training.name
    with work.workspace.catalog(read_only=True) as catalog:
        known = next((one for one in catalog.detectors.list() if one.name == name), None)
    if known is None:
        result = here.train_detector(work.workspace, plan, work.device, report)
        return here.trained_detector(work.workspace, result), result["samples"]
    if not known.metrics:
        selections.run_here(
            work.workspace, work.device, report, lambda context: measure_job(context, {"detector": known.id})
        )
    return known, {}


def _crown(workspace: Workspace, detector_id: str) -> None:
    """Make it the champion where there is none."""
    with workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    if champion is None:
        detectors.promote_detector(workspace, detector_id, ACTOR, "the first detector", None)


def draw(work: Work, report: Report) -> Result:
    """Draw the survey's images, with the detector's maps: a round that ends there."""
    from pipelines.worker.local_runner import open_runner

    with work.workspace.catalog(read_only=True) as catalog:
        row = next((one for one in catalog.rounds.list() if one.recipe["name"] == ROUND), None)
    row = row or rounds.start_round(work.workspace, survey(work).model_dump(mode="json"), ACTOR)
    for _ in open_runner(work.workspace, "local", work.device, report).run_round(row.id):
        pass
    with work.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(round_id=row.id)
        found = catalog.rounds.get(row.id).results["write_prompts"]
    return {"round": row.id, "images": len(images), "hard": found["hard"], "easy": found["easy"]}


def survey(work: Work) -> RoundRecipe:
    """The recipe of the survey's round. Of prompts that are given, those held out are not drawn: nothing is
    trained on their images."""
    settings = work.request.settings
    treated = list(given_prompts(work)[0])
    drawing = {"generators": (work.base.id,)} | (
        {"prompts": tuple(treated), "categories": ()} if treated else {}
    )
    return RoundRecipe(
        name=ROUND,
        parts=(),
        writer=settings.treat.writer,
        generate=settings.draw.model_copy(update=drawing),
        write_prompts=FEW.model_copy(update={"statistic": settings.mine.statistic}),
    )


def given_prompts(work: Work) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts of --prompts: those to draw and treat on, and those held out; empty without any."""
    if not work.request.prompts:
        return (), ()
    texts = treatment.read_prompt_file(work.request.prompts)
    request = treatment.TreatmentRequest(generator=work.request.generator, prompts=texts)
    treated, judged = treatment.choose_prompts(request)
    return treated.texts, judged.texts


def mine(work: Work, report: Report) -> Result:
    """Queue the images that teach most, unless nobody is to mark any."""
    from pipelines.jobs.selections import mine_images

    if work.request.labelled_by == "none":
        return {"queued": 0}
    images = ImageQuery(round=work.done("draw")["round"])
    run = work.request.settings.mine.model_copy(update={"images": images, "detector": None})
    found = selections.run_here(
        work.workspace, work.device, report, lambda context: mine_images(context, run, QUEUE)
    )
    return {"queued": found["queued"]}


def labels(work: Work, report: Report) -> Result | None:
    """Wait until the queue is answered; None while it is not. With --labels none what is there is taken."""
    by = work.request.labelled_by
    if by == "simulated" and work.done("mine")["queued"]:
        _let_simulated_annotators_answer(work, report)
    with work.workspace.catalog(read_only=True) as catalog:
        remaining = catalog.queue.remaining(QUEUE)
    return None if remaining and by == "people" else {"by": by, "waited_for": remaining}


def _let_simulated_annotators_answer(work: Work, report: Report) -> None:
    """Serve the queue until it is answered. Raises `JobFailed` where no answer comes any more."""
    total, seed = work.done("mine")["queued"], work.request.settings.draw.seed
    left, changed = total, time.monotonic()
    with (
        work.serve(work.workspace) as server,
        annotators_at_work(work.workspace, QUEUE, server.url, seed),
    ):
        while left:
            time.sleep(POLL_SECONDS)
            with work.workspace.catalog(read_only=True) as catalog:
                now = catalog.queue.remaining(QUEUE)
            left, changed = (now, time.monotonic()) if now != left else (left, changed)
            report(total - left, total, "simulated annotators mark")
            if time.monotonic() - changed > STALLED_SECONDS:
                raise JobFailed(f"the simulated annotators stopped with {left} images left; run this again")


def retrain(work: Work, report: Report) -> Result:
    """Train the second detector on people's labels, and see whether its figures speak against it."""
    with work.workspace.catalog(read_only=True) as catalog:
        given = catalog.labels.of_round(QUEUE)
        images = {image.id: image for image in catalog.images.get_many([one.image_id for one in given])}
    if not any(one.label_map and images[one.image_id].split == "train" for one in given):
        reason = "no label marks an artifact in a training image" if given else "there are no labels"
        return {"used": "first", "reason": reason, "objections": []}
    version, samples = _trained(work, work.request.settings.second, report)
    with work.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    objections = detectors.objections_to(version, champion)
    used = "first" if objections else "second"
    return {"id": version.id, "samples": samples, "used": used, "objections": objections}


def treat(work: Work, report: Report) -> Result:
    """Treat the generator, and compare it with its base on held-out prompts."""
    plan = treatment_plan(work)
    treatment.require_inputs(work.workspace, plan)
    result = treatment.treat_here(work.workspace, plan, work.device, report)
    figures = treatment.write_results(work.workspace, result, work.request.out / TREATED, work.device, report)
    kept = ("treatment", "treated", "kept", "updates", "stopped", "judged", "worse")
    more = {"run": result["run"], "regularised": plan.tuning.offline is not None}
    return {name: figures.get(name) for name in kept} | more


def treatment_plan(work: Work) -> TreatmentRun:
    """The treatment's settings with models and prompts. Its regularisation on images is left out where no
    photograph has a caption."""
    request, settings = work.request, work.request.settings.treat
    treated, judged = given_prompts(work)
    found = work.done("draw")
    asked = treatment.TreatmentRequest(
        generator=work.base.id,
        detector=work.used.id,
        prompts=treated,
        held_out=judged,
        categories=() if treated else tuple(found["hard"] or found["easy"]),
        seed=settings.tuning.seed,
        name=f"{work.base.name} treated",
    )
    chosen, held_out = treatment.choose_prompts(asked)
    tuning = settings.tuning
    if not work.done("photos")["captioned"] and tuning.offline is not None:
        tuning = tuning.model_copy(update={"offline": None})
    return settings.model_copy(
        update={
            "generator": work.base.id,
            "detector": work.used.id,
            "name": asked.name,
            "tuning": tuning,
            "prompts": chosen.model_copy(update={"per_category": settings.prompts.per_category}),
            "judge": held_out.model_copy(update={"per_category": settings.judge.per_category}),
            "writer": settings.writer or ("clinic" if request.is_clinic else ""),
        }
    )


def compare(work: Work, report: Report) -> Result:
    """The comparison under other conditions, on held-out prompts."""
    from pipelines.exchange.prompt_sets import find_prompts, thinned
    from pipelines.jobs.treat_generator import PROMPTS

    found, settings = work.done("treat"), work.request.settings
    if found["treated"] is None:
        return {}
    stored = work.workspace.job_files.get(found["run"], PROMPTS)
    file = work.request.out / HELD_OUT
    durable.write_text(file, "\n".join(" ".join(text.split()) for text in stored["judge"]) + "\n")
    prompts = [row.text for row in thinned(find_prompts(str(file)), settings.under_prompts)]
    base = work.base
    with work.workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(found["treated"])
    asked = ComparisonRequest(
        before=work.request.generator,
        after=treated.id,
        detector=work.used.id,
        prompts=HELD_OUT,
        settings=settings.under,
    )
    result = under.compare_models_under(
        work.workspace,
        (base, treated, work.used),
        asked,
        prompts,
        work.request.out / UNDER,
        device=work.device,
        report=report,
    )
    kept = ("limit", "prompts", "cells", "held", "left_out")
    return {name: result[name] for name in kept}


def study(work: Work, report: Report) -> Result:
    """Open the blind study of the held-out pairs; the one that is open is taken."""
    found, settings = work.done("treat"), work.request.settings.study
    if found["treated"] is None:
        return {}
    with work.workspace.catalog(read_only=True) as catalog:
        known = next((one for one in catalog.studies.list() if one.after_id == found["treated"]), None)
    if known is None:
        asked = NewStudy(
            name="Before and after",
            before=work.base.id,
            after=found["treated"],
            purpose=JUDGE,
            pairs=settings.pairs,
            design=settings.design,
        )
        known = open_study(work.workspace, asked, ACTOR)
    return {"id": known.id, "pairs": len(known.pairs)}


PARTS: tuple[tuple[str, str, Callable[[Work, Report], Result | None]], ...] = (
    ("photos", "import the photographs", photos),
    ("generator", "open the generator, estimate memory and time", generator),
    ("detector", "the first detector", detector),
    ("draw", "draw and diagnose images", draw),
    ("mine", "choose the images to mark", mine),
    ("labels", "labels", labels),
    ("retrain", "the detector from people's labels", retrain),
    ("treat", "treat, and compare on held-out prompts", treat),
    ("under", "compare under other conditions", compare),
    ("study", "open the blind study", study),
)
"""Name, title and function of every part, in order."""
