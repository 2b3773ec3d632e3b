"""Treat: fine-tune a generator against the champion on the worker; before and after, and the LoRA."""

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from dataengine.errors import InputRefused
from dataengine.images import decode
from pipelines.config import PromptChoice, TreatmentRun
from pipelines.services import preflight, runs
from pipelines.services.model_card import packed
from pipelines.services.standalone.treatment import HELD_OUT
from pipelines.services.training.presets import RECIPE, REWARDED, treatment_presets
from storage.workspace import Workspace
from ui.gradio.context import ANY, SMALL, AppContext, check_lines, person, worker_note
from ui.gradio.runs import POLL_SECONDS, curve_of, is_open, no_curve, run_choices, status_text
from ui.gradio.tabs.diagnose import generator_choices
from ui.runs.presets import PresetSettings
from ui.treat import routes as treat_desk
from ui.web.access import ENGINEERS
from ui.web.gradio_kit import checked, plain, short

SEEING, TREATING = "seeing treatments", "treating generators"
SHOWN = 12
FIGURES = {
    "mean_confidence": "mean confidence",
    "max_confidence": "highest confidence",
    "frequency": "share of flagged images",
}


def build(context: AppContext, tab: gr.Tab) -> None:
    """The tab's components and events."""
    workspace, kind = context.workspace, runs.TREATMENT
    pairs = gr.State([])
    note = gr.Markdown()
    with gr.Row(equal_height=False):
        preset = gr.Dropdown([], label="Method", **ANY, scale=2)
        generator = gr.Dropdown([], label="Generator", **ANY, scale=2)
    with gr.Row(equal_height=False):
        categories = gr.Dropdown(
            [], multiselect=True, label="Categories", info="prompts are written for them", **ANY
        )
        texts = gr.Textbox(
            label="Or your prompts", info="one per line; every fifth is held out", lines=3, max_length=20_000
        )
    with gr.Row():
        estimate = gr.Button("Estimate")
        start = gr.Button("Treat", variant="primary")
    checks = gr.Markdown()
    with gr.Row(elem_classes="line"):
        run = gr.Dropdown([], label="Run", **ANY, scale=3)
        cancel = gr.Button("Cancel", scale=1)
    status = gr.Markdown("No treatment yet.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=2):
            name = gr.Dropdown([], label="Curve", visible=False, **ANY)
            curve = gr.LinePlot(x="step", y="value", height=240, show_label=False, visible=False)
            figures = gr.Markdown()
            lora = gr.DownloadButton("Download the LoRA", interactive=False)
        with gr.Column(scale=3):
            slider = gr.ImageSlider(
                label="Left before, right after",
                interactive=False,
                format="png",
                height=360,
                elem_classes="crisp",
            )
            gallery = gr.Gallery(
                label="Held-out prompts, after",
                columns=6,
                height=170,
                interactive=False,
                allow_preview=False,
                format="png",
                elem_classes="crisp",
            )
    if context.desks:
        gr.Markdown(
            "All settings and the strip over the updates are on [the Treat desk](../treat). "
            "A [blind study](../study) says what people see."
        )
    timer = gr.Timer(POLL_SECONDS, active=False)

    @checked(ENGINEERS, SEEING)
    def show(
        preset: str | None,
        generator: str | None,
        categories: list[str] | None,
        run: str | None,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        chosen = form(workspace, preset, generator, categories or [])
        return worker_note(workspace), *chosen, run_choices(workspace, kind, run)

    @checked(ENGINEERS, SEEING)
    def predict(
        preset: str | None,
        generator: str | None,
        categories: list[str] | None,
        texts: str,
        request: gr.Request,
    ) -> str:
        plan = plan_of(workspace, preset, generator, categories or [], texts)
        needs = preflight.needs(workspace, "treat", plan.model_dump(mode="json"))
        return check_lines([*runs.check_treatment(workspace, plan), needs])

    @checked(ENGINEERS, TREATING)
    def treat(
        preset: str | None,
        generator: str | None,
        categories: list[str] | None,
        texts: str,
        request: gr.Request,
    ) -> Any:
        plan = plan_of(workspace, preset, generator, categories or [], texts)
        job = runs.start_treatment(workspace, plan, person(request, ENGINEERS, TREATING))
        return run_choices(workspace, kind, job.args["run"])

    @checked(ENGINEERS, SEEING)
    def watch(run: str | None, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        return standing(workspace, run, name)

    @checked(ENGINEERS, TREATING)
    def stop(run: str | None, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        actor = person(request, ENGINEERS, TREATING)
        runs.cancel_run(workspace, runs.run_of(workspace, kind, run or ""), actor)
        return standing(workspace, run, name)

    @checked(ENGINEERS, SEEING)
    def result(run: str | None, request: gr.Request) -> tuple[Any, ...]:
        return outcome(workspace, run)

    @checked(ENGINEERS, SEEING)
    def choose(pairs: list[list[str]], request: gr.Request, event: gr.SelectData) -> Any:
        return tuple(pixels(workspace, id) for id in pairs[event.index])

    quiet = {"show_progress": "hidden"}
    asked, seen = [preset, generator, categories, texts], [status, name, curve, timer]
    results = [figures, pairs, slider, gallery, lora]
    listed = [note, preset, generator, categories, run]
    tab.select(
        show,
        [preset, generator, categories, run],
        listed,
        api_name="treatments",
        **quiet,
    )
    estimate.click(predict, asked, [checks], api_name="estimate_treatment")
    start.click(treat, asked, [run], api_name="start_treatment")
    run.change(watch, [run, name], seen, api_name="treatment_status", **quiet)
    name.input(watch, [run, name], seen, api_visibility="private", **quiet)
    timer.tick(watch, [run, name], seen, api_visibility="private", concurrency_limit=None, **quiet)
    cancel.click(stop, [run, name], seen, api_name="cancel_treatment", **quiet)
    # The results are read when the state changes, not at every tick.
    status.change(result, [run], results, api_name="treatment_result", **quiet)
    gallery.select(choose, [pairs], [slider], api_visibility="private", **quiet)


def form(
    workspace: Workspace, preset: str | None, generator: str | None, categories: list[str]
) -> tuple[Any, Any, Any]:
    """Methods, generators and categories to choose from; what is chosen stays."""
    small = RECIPE + SMALL
    names = [one for one in treatment_presets("") if one not in REWARDED]
    first = names[0] if preflight.on_a_gpu(workspace) else small
    methods = gr.update(choices=[(one.removeprefix(RECIPE), one) for one in names], value=preset or first)
    with workspace.catalog(read_only=True) as catalog:
        rounds = catalog.rounds.list()
        hard = sorted({one.category for row in rounds for one in catalog.hard.of_round(row.id) if one.hard})
        known = sorted({one.category for one in catalog.images.find(limit=2000) if one.category})
    all_known = gr.update(choices=sorted({*hard, *known}), value=categories or hard)
    return methods, generator_choices(workspace, generator), all_known


def plan_of(
    workspace: Workspace, preset: str | None, generator: str | None, categories: list[str], texts: str
) -> TreatmentRun:
    """The treatment that the form describes. Raises `InputRefused` for missing choices and prompts."""
    presets = treatment_presets(generator or "")
    if preset not in presets:
        raise InputRefused("no method is chosen; choose one from the list")
    settings = presets[preset] | {"generator": generator}
    treated, judged = prompts_of(settings, categories, texts)
    settings |= {"prompts": treated.model_dump(mode="json"), "judge": judged.model_dump(mode="json")}
    return treat_desk.plan_of(workspace, PresetSettings(settings=settings))


def prompts_of(
    settings: dict[str, Any], categories: list[str], texts: str
) -> tuple[PromptChoice, PromptChoice]:
    """Prompts to treat on and held-out ones: given, for categories, or the preset's."""
    both = PromptChoice.model_validate(settings["prompts"]), PromptChoice.model_validate(settings["judge"])
    if texts.strip():
        given = treat_desk.prompts_in(texts.encode())
        if len(given) < 2:
            raise InputRefused("two prompts or more are needed: one is held out for the comparison")
        held = set(given[::HELD_OUT])
        split = [text for text in given if text not in held], [text for text in given if text in held]
        return tuple(PromptChoice(source="given", texts=tuple(part)) for part in split)  # type: ignore[return-value]
    if categories:
        change = {"source": "category", "categories": tuple(categories)}
        return tuple(one.model_copy(update=change) for one in both)  # type: ignore[return-value]
    return both


def standing(workspace: Workspace, run_id: str | None, name: str | None) -> tuple[Any, ...]:
    """State, curve, and whether to look again."""
    if not run_id:
        return "No treatment yet.", *no_curve(), gr.update(active=False)
    status = runs.run_status(workspace, runs.run_of(workspace, runs.TREATMENT, run_id))
    figures, points = curve_of(workspace, runs.TREATMENT, run_id, name)
    return status_text(status), figures, points, gr.update(active=is_open(status))


def outcome(workspace: Workspace, run_id: str | None) -> tuple[Any, ...]:
    """Figures, pairs and the LoRA of a run that has ended; nothing before."""
    job = runs.run_of(workspace, runs.TREATMENT, run_id).job if run_id else None
    treatment = job.result.get("treatment") if job else None
    if treatment is None:
        return "", [], None, [], gr.update(value=None, interactive=False)
    found = treat_desk.treatment_details(workspace, treatment)
    pairs = [[row["before"], row["after"]] for row in found["pairs"][:SHOWN]]
    after = [(pixels(workspace, row["after"]), row["prompt"]) for row in found["pairs"][:SHOWN]]
    first = tuple(pixels(workspace, id) for id in pairs[0]) if pairs else None
    button = gr.update(value=None, interactive=False)
    if found["treated"] is not None:
        button = gr.update(value=lora_file(workspace, treatment), interactive=True)
    return in_words(found), pairs, first, after, button


def in_words(found: dict[str, Any]) -> str:
    """Held-out figures and what was kept, as Markdown."""
    rows = [
        f"- {words}: {short(one.get('before'))} → {short(one.get('after'))}"
        for name, words in FIGURES.items()
        if (one := found["judged"].get(name))
    ]
    kept = f"Kept update {found['kept']} of {found['updates']}: {plain(found['stopped'])}."
    if found["treated"] is None:
        kept = f"No update was kept: {plain(found['stopped'])}."
    return "\n".join(["**On held-out prompts**", "", *rows, "", kept])


def pixels(workspace: Workspace, image_id: str) -> Any:
    """An image of the catalog, uint8 HW3."""
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
    return decode(workspace.blobs.get(image.sha256))


def lora_file(workspace: Workspace, treatment_id: str) -> str:
    """The LoRA's zip as a file, which Gradio copies into its cache."""
    name, body = packed(workspace, treatment_id)
    path = Path(tempfile.mkdtemp(prefix="clinic-lora-")) / name
    path.write_bytes(body)
    return str(path)
