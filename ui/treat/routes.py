"""The API of the treatment desk at /treat. A treatment runs as a durable job; its LoRA can be downloaded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import InputRefused, NotFound
from dataengine.records import (
    STAGE_JOB,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Job,
    Prediction,
    Treatment,
    images,
    round_name,
)
from pipelines.config import TreatmentRun
from pipelines.services import jobs, preflight, queue, runs
from pipelines.services.generators import rename_generator
from pipelines.services.images.playback import frame_ref, playback_of, request_playback
from pipelines.services.locations import check_locations, offers
from pipelines.services.model_card import judged_of, packed
from pipelines.services.standalone.dreambooth import PRESET, likeness_png, offer_treatment
from pipelines.services.standalone.treatment import treatment_strip
from pipelines.services.training.presets import REWARDED, preset_slug, treatment_presets
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.runs.curves import curves_csv
from ui.runs.presets import PresetSettings, settings_of
from ui.runs.routes import Beside, NewName, curves_of, run_routes, run_rows, sample_ref
from ui.treat.instances import instance_routes
from ui.web.access import ENGINEERS
from ui.web.blob_pool import reads_blobs
from ui.web.images import IMMUTABLE, image_response, map_response
from ui.web.sessions import Person, Requires
from ui.web.settings_form import form

TREATING = Requires(ENGINEERS, "treating generators")
Engineer = Annotated[Person, TREATING]
SHOWN = 100
PAIRS = 24
MAX_PROMPTS = 2 << 20
RUN_ID = r"^[\w-]*$"
NEEDS_CHOOSING = "choose a generator first; register one under Treat, or with clinic generators --add FOLDER"


class Prompts(BaseModel):
    """What to generate with and without a treatment: one prompt per line, and seeds per prompt."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=20_000)
    seeds: int = Field(default=1, ge=1, le=8)


def treat_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/treat."""
    routes = APIRouter(prefix="/api/treat", dependencies=[TREATING])
    routes.include_router(run_routes(workspace, runs.TREATMENT))
    routes.include_router(instance_routes(workspace))

    @routes.get("/overview")
    def show_overview() -> dict[str, Any]:
        return overview(workspace)

    @routes.get("/form")
    def described_form(
        preset: Annotated[str, Field(max_length=100)] = "",
        instance: Annotated[str, Field(max_length=200, pattern=RUN_ID)] = "",
    ) -> dict[str, Any]:
        return treatment_form(workspace, preset, instance)

    @routes.get("/generators")
    def generators() -> dict[str, Any]:
        """Every generator that is offered, the newest first."""
        with workspace.catalog(read_only=True) as catalog:
            offered = list(reversed(catalog.generators.offered()))
        shown = ("id", "name", "parent", "treatment_id", "licence", "created")
        return {"generators": [{name: getattr(one, name) for name in shown} for one in offered]}

    @routes.post("/generators/{generator_id}/rename")
    def rename(generator_id: str, body: NewName, person: Engineer) -> dict[str, str]:
        return {"name": rename_generator(workspace, generator_id, body.name, person.name).name}

    @routes.post("/prompts")
    async def prompts(request: Request) -> dict[str, list[str]]:
        return {"texts": prompts_in(await request.body())}

    @routes.post("/checks")
    def checks(body: PresetSettings) -> dict[str, Any]:
        plan = plan_of(workspace, body)
        return {"checks": preflight.as_json(runs.check_treatment(workspace, plan))}

    @routes.post("/needs")
    def needs(body: PresetSettings) -> dict[str, Any]:
        plan = plan_of(workspace, body)
        found = preflight.needs(workspace, "treat", plan.model_dump(mode="json"))
        return {"checks": preflight.as_json([found])}

    @routes.post("/start")
    def start(body: PresetSettings, person: Engineer) -> dict[str, str]:
        job = runs.start_treatment(workspace, plan_of(workspace, body), person.name)
        return {"run": job.args["run"]}

    @routes.get("/runs/{run_id}/pictures/{sha256}")
    @reads_blobs
    def shown(run_id: str, sha256: str, request: Request) -> Response:
        run = runs.run_of(workspace, runs.TREATMENT, run_id)
        return image_response(workspace, request, sample_ref(workspace, run.id, sha256), "image/png")

    @routes.get("/treatments/{treatment_id}")
    def treatment(treatment_id: str) -> dict[str, Any]:
        return treatment_details(workspace, treatment_id)

    @routes.get("/treatments/{treatment_id}/curves")
    def treatment_curves(treatment_id: str) -> dict[str, tuple[list[int], list[float]]]:
        return runs.curves(workspace, jobs_behind(workspace, treatment_id))

    @routes.get("/treatments/{treatment_id}/curves.csv")
    def treatment_curves_file(treatment_id: str, beside: Beside = ()) -> Response:
        own = {treatment_id: runs.curves(workspace, jobs_behind(workspace, treatment_id))}
        return curves_csv(own | curves_of(workspace, runs.TREATMENT, beside))

    @routes.post("/treatments/{treatment_id}/draw")
    def draw(treatment_id: str, body: Prompts, person: Engineer) -> dict[str, str]:
        with workspace.catalog(read_only=True) as catalog:
            found = catalog.treatments.get(treatment_id)
        if found.treated_id is None:
            raise NotFound("this treatment kept no checkpoint, so there is nothing to generate with")
        prompts = prompts_in(body.text.encode())
        if len(prompts) * body.seeds > PAIRS:
            raise InputRefused(f"at most {PAIRS} pairs can be generated at once; use fewer prompts or seeds")
        args = {"treatment": found.id, "prompts": prompts, "seeds": body.seeds}
        return {"job": jobs.request_job(workspace, "compare", args, person.name).id}

    @routes.get("/treatments/{treatment_id}/draw/{job_id}")
    def drawn(treatment_id: str, job_id: str) -> dict[str, Any]:
        return compared(workspace, treatment_id, job_id)

    @routes.get("/treatments/{treatment_id}/strip.png")
    @reads_blobs
    def strip(treatment_id: str) -> Response:
        return Response(treatment_strip(workspace, treatment_id), media_type="image/png")

    @routes.get("/treatments/{treatment_id}/likeness.png")
    @reads_blobs
    def likeness(treatment_id: str) -> Response:
        with workspace.catalog(read_only=True) as catalog:
            result = catalog.treatments.get(treatment_id).result
        instance = result.get("judged", {}).get("likeness", {}).get("instance", "")
        return Response(likeness_png(workspace, instance, result.get("run", "")), media_type="image/png")

    @routes.get("/playback/{image_id}")
    def playback(image_id: str) -> dict[str, Any]:
        return playback_of(workspace, image_id)

    @routes.post("/playback/{image_id}")
    def play(image_id: str, person: Engineer) -> dict[str, str]:
        return {"job": request_playback(workspace, image_id, person.name).id}

    @routes.get("/playback/{image_id}/frames/{sha256}")
    @reads_blobs
    def frame(image_id: str, sha256: str, request: Request) -> Response:
        return image_response(workspace, request, frame_ref(workspace, image_id, sha256), "image/png")

    @routes.get("/playback/{image_id}/maps/{ref}")
    @reads_blobs
    def frame_map(image_id: str, ref: str) -> Response:
        shown = frame_ref(workspace, image_id, ref)
        return map_response(workspace.maps.get(shown), **{"Cache-Control": IMMUTABLE})

    @routes.get("/runs/{run_id}/looks")
    def looks(run_id: str) -> dict[str, Any]:
        run = runs.run_of(workspace, runs.TREATMENT, run_id)
        return {"prompts": [], "looks": [], **runs.kept_json(workspace, run.id, "looks.json")}

    @routes.get("/runs/{run_id}/looks/{sha256}")
    @reads_blobs
    def look(run_id: str, sha256: str, request: Request) -> Response:
        kept = runs.kept_json(workspace, runs.run_of(workspace, runs.TREATMENT, run_id).id, "looks.json")
        if not any(sha256 in one["images"] for one in kept.get("looks", [])):
            raise NotFound("this run does not keep that image; reload the page")
        return image_response(workspace, request, sha256)

    @routes.get("/treatments/{treatment_id}/lora.zip")
    def lora(treatment_id: str) -> Response:
        name, body = packed(workspace, treatment_id)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(body, headers=headers, media_type="application/zip")

    return routes


def plan_of(workspace: Workspace, body: PresetSettings) -> TreatmentRun:
    """The form's settings, with the detector resolved. Raises `ConfigRefused` naming an invalid field or a
    location that is not registered."""
    if not body.settings.get("generator"):
        raise InputRefused(NEEDS_CHOOSING)
    presets = treatment_presets(str(body.settings["generator"]))
    plan = runs.validated(TreatmentRun, settings_of(body, presets))
    complete = [TreatmentRun.model_validate(one) for name, one in presets.items() if name not in REWARDED]
    check_locations(workspace, plan, complete)
    return runs.with_detector(workspace, plan)


def prompts_in(data: bytes) -> list[str]:
    """One prompt per line. Raises `InputRefused` for another encoding than UTF-8, and without prompts."""
    if len(data) > MAX_PROMPTS:
        raise InputRefused(f"the file has {len(data)} bytes; the limit is {MAX_PROMPTS}. Split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        likely = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1 or Windows-1252"
        raise InputRefused(
            f"the file is not UTF-8 text (byte {error.start} is invalid; it looks like {likely}); save it as "
            "UTF-8 and choose it again"
        ) from None
    if "\x00" in text:
        raise InputRefused("the file is not text: it contains NUL bytes; use UTF-8 with one prompt per line")
    found = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not found:
        raise InputRefused("no prompts found; enter one per line")
    return found


def overview(workspace: Workspace) -> dict[str, Any]:
    """The newest treatments and runs."""
    with workspace.catalog(read_only=True) as catalog:
        found = list(reversed(catalog.treatments.list()))
        names = {one.id: one.name for one in catalog.generators.list()}
        judged = {row.id: row.results.get("judge", {}) for row in catalog.rounds.list()}
    return {
        "treatments": [
            {
                "id": one.id,
                "generator": names.get(one.generator_id, one.generator_id),
                "treated": names.get(one.treated_id or ""),
                "created": one.created,
                "round": one.round_id,
                "kept": one.result.get("kept"),
                "updates": one.result.get("updates"),
                "ratios": ratios(one.result.get("judged") or judged.get(one.round_id or "", {})),
            }
            for one in found[:SHOWN]
        ],
        "more": max(0, len(found) - SHOWN),
        "generators": len(names),
        "runs": run_rows(workspace, runs.TREATMENT),
        "instances": run_rows(workspace, runs.INSTANCE),
        "worker": bool(queue.workers_alive(workspace)),
    }


def ratios(judged: dict[str, Any]) -> dict[str, float]:
    """After over before, by figure."""
    return {
        name: judged[name]["ratio"]
        for name in ("mean_confidence", "max_confidence", "frequency")
        if name in judged and judged[name].get("before")
    }


def treatment_form(workspace: Workspace, preset: str, instance: str = "") -> dict[str, Any]:
    """The form, filled in from a preset, and its choices; for the layers that the run `instance` learned,
    also with that generator and with prompts of its instance."""
    with workspace.catalog(read_only=True) as catalog:
        generators = list(reversed(catalog.generators.offered()))
        detectors = list(reversed(catalog.detectors.offered()))
        categories = sorted(
            {one.category for row in catalog.rounds.list() for one in catalog.hard.of_round(row.id)}
        )
    presets = treatment_presets(generators[-1].id if generators else "")
    usual = [one for one in presets if not instance or preset_slug(one) == PRESET]
    name = preset if preset in presets else usual[0]
    values = presets[name]
    if instance:
        values, learned = offer_treatment(workspace, values, instance)
        generators = [learned, *(one for one in generators if one.id != learned.id)]
    return {
        "fields": form(TreatmentRun, values, offers(workspace)),
        "presets": list(presets),
        "preset": name,
        "choices": {
            "generator": [[one.id, generator_label(one)] for one in generators[:SHOWN]],
            "detector": [[one.id, f"{one.name} · {one.role}"] for one in detectors[:SHOWN]],
        },
        "categories": categories,
    }


def generator_label(version: GeneratorVersion) -> str:
    """A generator's name, and whether a treatment continues its LoRA."""
    return f"{version.name} · continues its LoRA" if version.lora else version.name


def treatment_details(workspace: Workspace, treatment_id: str) -> dict[str, Any]:
    """A treatment's results: figures, the kept checkpoint and why, pairs, lineage."""
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment_id)
        base, treated, detector = models_of(catalog, found)
        judged = judged_of(catalog, found)
        pairs = before_and_after(catalog, found)
        numbers = catalog.rounds.numbers()
    return {
        "id": found.id,
        "created": found.created,
        "base": {"id": found.generator_id, "name": base.name if base else found.generator_id},
        "treated": None if treated is None else {"id": treated.id, "name": treated.name},
        "detector": {"id": found.detector_id, "name": detector.name if detector else found.detector_id},
        "round": found.round_id and round_name(numbers, found.round_id),
        "run": found.result.get("run"),
        "kept": found.result.get("kept"),
        "updates": found.result.get("updates"),
        "stopped": found.result.get("stopped", ""),
        "looks": found.result.get("looks", []),
        "curve": found.result.get("curve", []),
        "strip": bool(found.result.get("looks") and found.result.get("run")),
        "judged": judged,
        "pairs": pair_rows(flawed_first(pairs)),
        "worse": pair_rows(worse_first(pairs)),
        "config": found.config,
        "licence": base.licence if base else "",
    }


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """Images of one prompt and seed, and the detector's predictions of both, where there are any."""

    before: Image
    after: Image
    seen: tuple[Prediction | None, Prediction | None]

    @property
    def rise(self) -> float | None:
        """How much the mean confidence rose; None where it is not known."""
        before, after = self.seen
        return None if before is None or after is None else after.mean - before.mean


def flawed_first(pairs: Sequence[ShownPair]) -> list[ShownPair]:
    """The pairs with the highest confidence before."""
    highest = {pair.before.id: pair.seen[0].max if pair.seen[0] else 0.0 for pair in pairs}
    return sorted(pairs, key=lambda pair: (-highest[pair.before.id], pair.before.id))[:PAIRS]


def worse_first(pairs: Sequence[ShownPair]) -> list[ShownPair]:
    """The pairs that got worse, the largest rise of the mean confidence first."""
    worse = [pair for pair in pairs if pair.rise is not None and pair.rise > 0]
    return sorted(worse, key=lambda pair: (-(pair.rise or 0.0), pair.before.id))[:PAIRS]


def pair_rows(pairs: Sequence[ShownPair]) -> list[dict[str, Any]]:
    """Pairs as the page shows them."""
    return [
        {
            "prompt": pair.before.prompt,
            "seed": pair.before.seed,
            "before": pair.before.id,
            "after": pair.after.id,
            "rise": pair.rise,
        }
        for pair in pairs
    ]


def compared(workspace: Workspace, treatment_id: str, job_id: str) -> dict[str, Any]:
    """The state of a job that generates with and without a treatment, and its pairs."""
    with workspace.catalog(read_only=True) as catalog:
        job, found = catalog.jobs.get(job_id), catalog.treatments.get(treatment_id)
        if job.args.get("treatment") != found.id:
            raise NotFound(f"job {job_id} does not belong to this treatment")
        prompts = job.args["prompts"]
        pairs = flawed_first(before_and_after(catalog, found, prompts)) if job.state == "succeeded" else []
    return {"state": job.state, "message": job.error or job.message, "pairs": pair_rows(pairs)}


def models_of(
    catalog: Catalog, found: Treatment
) -> tuple[GeneratorVersion | None, GeneratorVersion | None, DetectorVersion | None]:
    """The generator before and after, and the detector, where they are known."""
    generators = {one.id: one for one in catalog.generators.list()}
    detectors = {one.id: one for one in catalog.detectors.list()}
    base, treated = generators.get(found.generator_id), generators.get(found.treated_id or "")
    return base, treated, detectors.get(found.detector_id)


def before_and_after(catalog: Catalog, found: Treatment, prompts: Collection[str] = ()) -> list[ShownPair]:
    """Images of the treated generator, each with the base generator's of the same prompt and seed, of these
    prompts or of any, with the predictions of the treatment's detector."""
    if found.treated_id is None:
        return []
    treated = catalog.images.find(generator_id=found.treated_id, limit=None if prompts else 10 * PAIRS)
    asked = [one for one in treated if one.prompt in prompts]
    treated = asked if prompts else [one for one in treated if one.purpose != images.COMPARED]
    purposes = {one.purpose for one in treated}
    base = catalog.images.find(generator_id=found.generator_id, purpose=purposes) if purposes else []
    by_key = {(one.prompt, one.seed): one for one in base}
    pairs = [(by_key[one.prompt, one.seed], one) for one in treated if (one.prompt, one.seed) in by_key]
    ids = [image.id for pair in pairs for image in pair]
    seen = {one.image_id: one for one in catalog.predictions.of(found.detector_id, ids)}
    return [
        ShownPair(before=before, after=after, seen=(seen.get(before.id), seen.get(after.id)))
        for before, after in pairs
    ]


def jobs_behind(workspace: Workspace, treatment_id: str) -> list[Job]:
    """The jobs of the run, or of the round's stage, that made a treatment; a command's run has none."""
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment_id)
        of_stages = catalog.jobs.list(kind=STAGE_JOB) if found.round_id else []
    if found.round_id is not None:
        wanted = {"round_id": found.round_id, "stage": "treat"}
        return [one for one in of_stages if one.args == wanted]
    made = (
        run
        for run in runs.runs(workspace, runs.TREATMENT, limit=1_000_000)
        if run.id == found.result.get("run")
    )
    return [job for run in made for job in run.jobs]
