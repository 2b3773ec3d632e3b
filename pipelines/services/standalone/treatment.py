"""Treat a generator without a round, and write everything into one output folder.

The run is `jobs.treat_generator.treat_job`, as on the desk; its id is a digest of its settings, so that the
same call resumes it. Sheets, tables and the LoRA are written once it has ended.
"""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine import durable
from dataengine.errors import ConfigRefused, InputRefused, NotFound
from dataengine.records import Report, count_of, digest, no_report
from pipelines.config import CLINIC, PromptChoice, TreatmentRun
from pipelines.services import preflight, runs
from pipelines.services.images.work import run_here
from pipelines.services.model_card import lora_files
from pipelines.services.standalone.models import CLINIC_GENERATORS, find_detector, find_generator
from pipelines.services.training.presets import preset_plans
from storage.workspace import Workspace

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.runtime.context import Context

HELD_OUT = 5
"""Every fifth prompt of a file is held out for the comparison, if no others are given."""
CLINIC_REAL = 240
"""Artifact-free images that are drawn of the embedded clinic's world."""
NAMED = 5
"""Refused images that are named; the others are counted."""
STRENGTH_PROMPTS = 4
FIGURES = "figures.json"
BEFORE_AFTER = "before_after.png"
IN_THE_CARD = 8
"""Pairs in the model card's sheet."""
LIMITS = {"psnr": (20.0, True), "ssim": (0.75, True), "lpips": (0.2, False)}
"""Focus-N-Fix's rule for β: PSNR > 20, SSIM > 0.75, LPIPS < 0.2 against the base (True: above)."""
RULE = (
    "the lowest mean confidence, below the base's, among the values with PSNR > 20, SSIM > 0.75 and, where "
    "it was measured, LPIPS < 0.2"
)


@dataclass(frozen=True, kw_only=True)
class TreatmentRequest:
    """What a person asks for: models, method, prompts and images."""

    generator: str
    detector: str = ""
    """"" is the champion of a named workspace."""
    preset: str = "diffdoctor"
    rewards: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    """Prompts of the comparison; () holds out every fifth of `prompts`."""
    categories: tuple[str, ...] = ()
    real: Path | None = None
    """Folder of artifact-free images with captions, for the regularisation."""
    seed: int = 0
    name: str = ""


def read_prompt_file(file: str) -> tuple[str, ...]:
    """The prompts of a file, or of a published set by name. Raises `InputRefused`."""
    from pipelines.exchange.prompt_sets import find_prompts

    return tuple(row.text for row in find_prompts(file))


def plan_treatments(
    workspace: Workspace, request: TreatmentRequest, report: Report = no_report
) -> tuple[list[TreatmentRun], list[str]]:
    """The treatments of the request, with its models registered and its images imported: one, or two that
    follow each other; and notes on images that cannot be used.

    Raises `NotFound`, `ModelRefused` and `ConfigRefused` for what cannot be treated.
    """
    base = find_generator(workspace, request.generator)
    plans = preset_plans(request.preset, base.id, request.rewards)
    detector = find_detector(workspace, request.detector).id if request.detector else None
    treated, judged = choose_prompts(request)
    own = request.generator in CLINIC_GENERATORS
    notes: list[str] = []
    if any(plan.tuning.offline is not None for plan in plans):
        notes = provide_real_images(workspace, request, own, report)
    planned = [
        plan.model_copy(
            update={
                "detector": detector,
                "prompts": treated if treated.source == "given" else _as_in(treated, plan.prompts),
                "judge": judged if judged.source == "given" else _as_in(judged, plan.judge),
                "writer": plan.writer or (CLINIC if own else ""),
                "attributes": plan.attributes or (CLINIC if own else ""),
                "name": request.name,
                "tuning": plan.tuning.model_copy(update={"seed": request.seed}),
            }
        )
        for plan in plans
    ]
    return planned, notes


def _as_in(choice: PromptChoice, preset: PromptChoice) -> PromptChoice:
    """The choice with the preset's number of prompts."""
    return choice.model_copy(update={"per_category": preset.per_category})


def choose_prompts(request: TreatmentRequest) -> tuple[PromptChoice, PromptChoice]:
    """Prompts to treat on, and those held out for the comparison. Raises `ConfigRefused` for none, or too few
    to hold some out."""
    if bool(request.prompts) == bool(request.categories):
        raise ConfigRefused(
            "give the prompts with --prompts FILE, or categories to write them for with --category NAME"
        )
    if request.categories:
        choice = PromptChoice(source="category", categories=request.categories, seed=request.seed)
        return choice, choice.model_copy(update={"seed": request.seed + 1})
    held_out = request.held_out or request.prompts[::HELD_OUT]
    treated = [text for text in request.prompts if text not in set(held_out)]
    if not treated:
        raise ConfigRefused(
            f"of {len(request.prompts)} prompts none is left to treat on once some are held out for the "
            "comparison; give more, or others with --held-out FILE"
        )
    return tuple(PromptChoice(source="given", texts=tuple(texts)) for texts in (treated, held_out))  # type: ignore[return-value]


def provide_real_images(
    workspace: Workspace, request: TreatmentRequest, own: bool, report: Report = no_report
) -> list[str]:
    """Import the artifact-free images that the request names; for the embedded clinic's generators some are
    drawn of its world where there are none. Returns what cannot be used, and why."""
    from pipelines.exchange.readers.folders import import_folder

    folder = request.real
    with workspace.catalog(read_only=True) as catalog:
        known = catalog.images.count(source="real", split="train", status="active", has_prompt=True)
    if folder is None:
        if known or not own:
            return []
        folder = draw_clinic_images(workspace.path / "models" / "clinic-real")
    if not folder.is_dir():
        raise InputRefused(f"--real {folder}: there is no such folder; give one with images and captions")
    imported = import_folder(workspace, folder, source="real", validation=0.0, report=report)
    notes = [f"real image {name} was refused: {reason}" for name, reason in imported.refused[:NAMED]]
    if len(imported.refused) > NAMED:
        notes.append(f"… and {len(imported.refused) - NAMED} more real images were refused")
    with workspace.catalog(read_only=True) as catalog:
        silent = catalog.images.count(source="real", split="train", status="active", has_prompt=False)
    return notes + ([f"{silent} real images have no caption and are not used"] if silent else [])


def draw_clinic_images(folder: Path) -> Path:
    """Draw artifact-free images of the embedded clinic's world into the folder, captions beside them."""
    from dataengine.clinic.world import stream
    from dataengine.images import encode_png

    drawings = stream("photos")
    durable.make_folder(folder)
    for index in range(CLINIC_REAL):
        drawing = drawings[index]
        (folder / f"{index:04}.png").write_bytes(encode_png(drawing.image))
        (folder / f"{index:04}.txt").write_text(drawing.caption, encoding="utf-8")
    return folder


def run_id(plan: TreatmentRun) -> str:
    """The run's id: the same settings resume the same run."""
    return f"treat-{digest(plan.model_dump_json())[:12]}"


def estimate_here(workspace: Workspace, plan: TreatmentRun, device: str | None = None) -> dict[str, Any]:
    """Peak memory and time, as a dict with `verdict`, `text` and figures. Raises `ConfigRefused` while the
    generator is not on this machine."""
    from pipelines.jobs.estimate import estimate_run
    from pipelines.runtime.context import real_context

    context = real_context(workspace, device)
    return estimate_run(context, "treat", plan.model_dump(mode="json"))


def treat_here(
    workspace: Workspace, plan: TreatmentRun, device: str | None = None, report: Report = no_report
) -> dict[str, Any]:
    """Run or resume the treatment in this process; what `treat_job` returns, with `run`."""
    from pipelines.jobs.treat_generator import treat_job

    plan = runs.with_detector(workspace, plan)
    args = {"run": run_id(plan), "settings": plan.model_dump(mode="json")}
    # What a job prints is its log; standard output is the command's result.
    with redirect_stdout(sys.stderr):
        result = run_here(workspace, device, report, lambda context: treat_job(context, args))
    return {**result, "run": args["run"]}


def require_inputs(workspace: Workspace, plan: TreatmentRun) -> None:
    """Raises `ConfigRefused` when a check of the treatment fails, in the command's words."""
    for check in runs.check_treatment(workspace, runs.with_detector(workspace, plan)):
        if check.verdict == "bad" and check.name == "real images":
            raise ConfigRefused(
                "the regularisation of this preset needs artifact-free images with captions: give a folder "
                "with --real DIR, or take --preset diffdoctor-without-regularisation"
            )
        preflight.require([check])


def write_results(
    workspace: Workspace,
    result: dict[str, Any],
    out: Path,
    device: str | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Write the run's LoRA, sheets and tables into `out`, and return its figures and the files' paths. Work
    that draws images is left out where its file is there."""
    from pipelines.jobs.treat_generator import LOOKS, PAIRS
    from pipelines.reports import treatment as sheets

    run, treatment = result["run"], result["treatment"]
    files = workspace.job_files
    rows, looks = files.get(run, PAIRS) or [], files.get(run, LOOKS) or {}
    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment)
    durable.make_folder(out)
    written: dict[str, Path] = {}

    def keep(name: str, data: bytes) -> None:
        durable.write_bytes(out / name, data)
        written[name] = out / name

    strip = sheets.look_strip(workspace, looks, found.result)
    if strip is not None:
        keep("strip.png", png(strip))
    keep("looks.csv", sheets.looks_csv(found.result.get("looks", [])).encode())

    def keep_sheet(name: str, shown: Sequence[Mapping[str, Any]], title: str, lead: str) -> None:
        keep(name, png(sheets.pair_sheet(workspace, found.detector_id, shown, title, lead)))

    if rows:
        first, worse = sheets.flawed_first(rows), sheets.worse_first(rows)
        keep("pairs.csv", sheets.pairs_csv(rows).encode())
        lead = (
            f"{count_of(len(rows), 'held-out pair')} of one prompt and seed, the most artifacts before first"
        )
        keep_sheet("pairs.png", first, "Before and after", lead)
        lead = f"{len(worse)} of {count_of(len(rows), 'pair')}, the largest rise of mean confidence first"
        keep_sheet("worse.png", worse, "Pairs that got worse", lead)
    figures = figures_of(found.result, rows)
    keep(FIGURES, (json.dumps({**figures, "config": found.config}, indent=1) + "\n").encode())
    if found.treated_id is not None:
        keep_lora(workspace, treatment, rows, out / "lora")
        written["lora"] = out / "lora"
        if not (out / "strength.png").is_file():
            strengths(workspace, result, rows, out / "strength.png", device, report)
        written["strength.png"] = out / "strength.png"
    return {**figures, "files": {name: str(path) for name, path in written.items()}}


def treatment_strip(workspace: Workspace, treatment_id: str) -> bytes:
    """The same seeds over the updates of a run outside rounds, as PNG. Raises `NotFound` where the run kept
    no looks."""
    from pipelines.jobs.treat_generator import LOOKS
    from pipelines.reports.treatment import look_strip

    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment_id)
    looks = workspace.job_files.get(found.result.get("run", ""), LOOKS) if found.result.get("run") else None
    strip = look_strip(workspace, looks or {}, found.result)
    if strip is None:
        raise NotFound("this treatment kept no images of its updates")
    return png(strip)


def figures_of(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is quoted of a treatment."""
    names = ("treatment", "generator", "detector", "treated", "kept", "updates", "stopped", "looks", "judged")
    worse = sum(row["mean_after"] > row["mean_before"] for row in rows)
    likeness = (result.get("judged") or {}).get("likeness")
    measured = {"likeness": likeness} if likeness else {}
    return {**{name: result.get(name) for name in names}, "worse": worse, **measured}


def keep_lora(workspace: Workspace, treatment: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the LoRA with its card and the sheet of pairs into the folder."""
    from pipelines.reports import treatment as sheets

    with workspace.catalog(read_only=True) as catalog:
        found = catalog.treatments.get(treatment)
    shown = sheets.flawed_first(rows)[:IN_THE_CARD]
    lead = "held-out prompts, the same seeds; artifacts as the detector of the treatment sees them"
    sheet = png(sheets.pair_sheet(workspace, found.detector_id, shown, "Before and after", lead))
    _, files = lora_files(workspace, treatment, {BEFORE_AFTER: sheet} if rows else {})
    for name, data in files.items():
        durable.make_folder((folder / name).parent)
        durable.write_bytes(folder / name, data)


def strengths(
    workspace: Workspace,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    file: Path,
    device: str | None,
    report: Report,
) -> None:
    """Draw the held-out prompts with most artifacts at several strengths of the LoRA into one image."""
    from dataengine.treatment.config import TreatmentConfig
    from pipelines.generators.strengths import draw_strengths
    from pipelines.reports.treatment import flawed_first, strength_sheet

    with workspace.catalog(read_only=True) as catalog:
        treated = catalog.generators.get(result["treated"])
        config = TreatmentConfig.model_validate(catalog.treatments.get(result["treatment"]).config)
    prompts = list(dict.fromkeys(row["prompt"] for row in flawed_first(rows)))[:STRENGTH_PROMPTS]
    if not prompts:
        return

    def draw(context: "Context") -> dict[str, Any]:
        images = draw_strengths(context, treated, prompts, config.sampling)
        durable.write_bytes(file, png(strength_sheet(images, prompts)))
        return {}

    run_here(workspace, device, report, draw)


def push_lora(folder: Path, repository: str) -> str:
    """Upload a LoRA's folder to the hub; returns the commit's URL. Raises `InputRefused`."""
    from pipelines.exchange.writers.hub import push_folder

    if not folder.is_dir():
        raise NotFound("no checkpoint was kept, so there is no LoRA to push")
    return push_folder(folder, repository, "model")


def png(image: "Image.Image") -> bytes:
    """A PIL image as PNG."""
    body = io.BytesIO()
    image.save(body, "PNG", optimize=True)
    return body.getvalue()


# ---- sweeps ------------------------------------------------------------------------------------------------


def sweep_row(value: Any, figures: Mapping[str, Any]) -> dict[str, Any]:
    """One value of a sweep: what it gained and what it changed, and whether it is inside Focus-N-Fix's
    limits."""
    judged = figures["judged"] or {}
    similarity = judged.get("similarity") or {}
    confidence = judged.get("mean_confidence") or {}
    row: dict[str, Any] = {"value": value, "kept": figures["kept"], "updates": figures["updates"]}
    row |= {"mean_before": confidence.get("before"), "mean_after": confidence.get("after")}
    row |= {"ratio": confidence.get("ratio"), "worse": figures["worse"]}
    row |= {name: (similarity.get(name) or {}).get("mean") for name in LIMITS}
    row["within"] = figures["treated"] is not None and within_limits(row)
    return row


def within_limits(row: Mapping[str, Any]) -> bool:
    """Whether what was measured is inside `LIMITS`. PSNR is missing where every pair is the same image, SSIM
    for images below its window, LPIPS without weights."""
    return all(
        row[name] is None or (row[name] > limit if above else row[name] < limit)
        for name, (limit, above) in LIMITS.items()
    )


def best_value(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The value of `RULE`; None if no value lowered the confidence within the limits."""
    judged = [row for row in rows if row["within"] and row["mean_after"] is not None]
    eligible = [row for row in judged if row["mean_after"] < row["mean_before"]]
    return min(eligible, key=lambda row: row["mean_after"])["value"] if eligible else None


def write_sweep(out: Path, setting: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the table of a sweep as CSV and JSON, and return it with the best value by `RULE`."""
    from dataengine.csv_files import as_csv

    found = {"setting": setting, "rule": RULE, "best": best_value(rows), "rows": list(rows)}
    names = list(rows[0])
    table = as_csv(names, ([_cell(row[name]) for name in names] for row in rows))
    durable.write_text(out / "sweep.csv", table)
    durable.write_text(out / "sweep.json", json.dumps(found, indent=1) + "\n")
    return found


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
