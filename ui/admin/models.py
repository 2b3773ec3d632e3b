"""The tab of models: what browsers may choose from, and the generators and detectors of the workspace."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pandas as pd

from dataengine.records import DetectorVersion, Endpoint, GeneratorVersion
from pipelines.services import detectors, generators
from pipelines.services.admin.endpoint_tests import KIND_HELP, check_endpoint, check_registered
from pipelines.services.endpoints import KINDS, TAGS, add_endpoint, remove_endpoint
from storage.queries.uses import uses_of_detector, uses_of_generator
from storage.workspace import Workspace
from ui.web.access import ADMINS
from ui.web.gradio_kit import READING, SHOWN, acting, checked, plain, when

ENDPOINTS = ("kind", "name", "location", "tags", "registered")
MODELS = ("what", "name", "state", "made", "id")
GENERATOR, DETECTOR = "generator", "detector"
QUIET: dict[str, Any] = {"show_progress": "hidden"}


def models_tab(workspace: Workspace, tab: gr.Tab, allowed_networks: Sequence[str]) -> None:
    """Build the tab inside the open one, and load it when that is opened."""
    gr.Markdown("## What browsers may choose from", container=False)
    endpoints = gr.Dataframe(headers=list(ENDPOINTS), interactive=False, label="Registered", **SHOWN)
    with gr.Row(elem_classes="line"):
        doomed = gr.Dropdown(label="Entry", choices=[], scale=4)
        test_entry = gr.Button("Test", size="sm", min_width=90)
        remove = gr.Button("Remove", variant="stop", size="sm", min_width=90)
    with gr.Row(elem_classes="line"):
        kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="Kind", min_width=130)
        name = gr.Textbox(label="Name", max_length=100, min_width=130)
        location = gr.Textbox(label="Folder, hub id or URL", max_length=500, scale=2, min_width=220)
        tags = gr.Textbox(label="Tags, by commas", max_length=450, min_width=130)
        test = gr.Button("Test", size="sm", min_width=90)
        register = gr.Button("Register", variant="primary", size="sm", min_width=100)
    about = gr.Markdown(help_of(KINDS[0]), container=False, elem_classes="hint")
    gr.Markdown("## Generators and detectors of this workspace", container=False)
    models = gr.Dataframe(headers=list(MODELS), interactive=False, label="Models", **SHOWN)
    chosen = gr.State(None)
    uses = gr.Markdown(
        "Select a row to see what uses a model, or to remove it.", container=False, elem_classes="hint"
    )
    with gr.Row(elem_classes="line", visible=False) as actions:
        reason = gr.Textbox(label="Why (for the audit trail)", max_length=300, scale=3)
        take_off = gr.Button("Remove from the lists", variant="stop", size="sm", min_width=170)
        put_back = gr.Button("Put back on the lists", size="sm", min_width=170)
    registered, versions = [endpoints, doomed], [models, chosen, uses, actions, take_off, put_back]

    @checked(ADMINS, "seeing models")
    def load(request: gr.Request) -> list[Any]:
        return [*endpoint_table(workspace), *model_state(workspace, None)]

    @checked(ADMINS, "seeing models")
    def explain(kind: str, request: gr.Request) -> str:
        return help_of(kind)

    @checked(ADMINS, "registering an endpoint")
    def register_endpoint(kind: str, name: str, location: str, tags: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "registering an endpoint")
        add_endpoint(workspace, kind, name, location, actor, allowed_networks, tags.split(","))
        return endpoint_table(workspace)

    @checked(ADMINS, "removing an endpoint")
    def drop_endpoint(id: str | None, request: gr.Request) -> list[Any]:
        remove_endpoint(workspace, id or "", acting(request, ADMINS, "removing an endpoint"))
        return endpoint_table(workspace)

    @checked(ADMINS, "testing an endpoint")
    def test_form(kind: str, name: str, location: str, request: gr.Request) -> None:
        gr.Info(plain_text(check_endpoint(kind, name, location, allowed_networks)))

    @checked(ADMINS, "testing an endpoint")
    def test_registered(id: str | None, request: gr.Request) -> None:
        gr.Info(plain_text(check_registered(workspace, id or "", allowed_networks)))

    @checked(ADMINS, "seeing models")
    def pick(event: gr.SelectData, request: gr.Request) -> list[Any]:
        return model_state(workspace, (event.row_value[0], event.row_value[4]))

    @checked(ADMINS, "removing a model")
    def remove_model(model: tuple[str, str] | None, reason: str, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "removing a model")
        if model and model[0] == GENERATOR:
            generators.remove_generator(workspace, model[1], actor, reason)
        elif model:
            detectors.retire_detector(workspace, model[1], actor, reason)
        return model_state(workspace, model)

    @checked(ADMINS, "restoring a model")
    def restore_model(model: tuple[str, str] | None, request: gr.Request) -> list[Any]:
        actor = acting(request, ADMINS, "restoring a model")
        if model and model[0] == GENERATOR:
            generators.restore_generator(workspace, model[1], actor)
        elif model:
            detectors.restore_detector(workspace, model[1], actor)
        return model_state(workspace, model)

    tab.select(load, None, [*registered, *versions], api_name="models", **READING)
    kind.input(explain, [kind], [about], api_name=False, **READING)
    form = [kind, name, location]
    test.click(test_form, form, None, api_name="test", **QUIET)
    test_entry.click(test_registered, [doomed], None, api_name="test_registered", **QUIET)
    register.click(register_endpoint, [*form, tags], registered, api_name="register", **QUIET)
    remove.click(drop_endpoint, [doomed], registered, api_name="remove", **QUIET)
    models.select(pick, None, versions, api_name=False, **READING)
    take_off.click(remove_model, [chosen, reason], versions, api_name=False, **QUIET)
    put_back.click(restore_model, [chosen], versions, api_name=False, **QUIET)


def help_of(kind: str) -> str:
    """What a kind is for and what its location looks like, as Markdown."""
    about = KIND_HELP[kind]  # type: ignore[index]
    return f"{plain(about.purpose)} Location: {plain(about.location)}."


def plain_text(text: str) -> str:
    """A text for a toast, which Gradio shows as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def endpoint_table(workspace: Workspace) -> list[Any]:
    """Everything registered, as a table and as choices."""
    with workspace.catalog(read_only=True) as catalog:
        registered = catalog.endpoints.list()
    rows = [
        [one.kind, one.name, shown_location(one), ", ".join(one.settings.get(TAGS, ())), when(one.created)]
        for one in registered
    ]
    choices = [(f"{one.kind} · {one.name}", one.id) for one in registered]
    return [pd.DataFrame(rows, columns=list(ENDPOINTS)), gr.update(choices=choices, value=None)]


def shown_location(endpoint: Endpoint) -> str:
    """An endpoint's location; only the server for a webhook, whose path may be a secret."""
    if endpoint.kind != "webhook":
        return endpoint.location
    return f"{urlsplit(endpoint.location).scheme}://{urlsplit(endpoint.location).netloc}/…"


def model_state(workspace: Workspace, chosen: tuple[str, str] | None) -> list[Any]:
    """All generators and detectors, and of the chosen one what uses it and what can be done."""
    with workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
        found: list[tuple[str, GeneratorVersion | DetectorVersion]] = [
            *((GENERATOR, one) for one in catalog.generators.list()),
            *((DETECTOR, one) for one in catalog.detectors.list()),
        ]
        one = next((version for kind, version in found if chosen == (kind, version.id)), None)
        uses_of = uses_of_generator if chosen and chosen[0] == GENERATOR else uses_of_detector
        uses = uses_of(catalog, one.id) if one else []
    rows = [[kind, each.name, state_of(each, champion), when(each.created), each.id] for kind, each in found]
    table = pd.DataFrame(rows, columns=list(MODELS))
    if one is None:
        return [table, None, gr.skip(), gr.update(visible=False), gr.skip(), gr.skip()]
    told = f"**{plain(one.name)}** is used by: {plain(', '.join(uses)) or 'nothing'}. "
    if one.removed is None:
        told += "Removing takes it off the lists: images, maps, treatments and lineage stay."
    off = one.removed is not None
    return [
        table,
        chosen,
        told,
        gr.update(visible=True),
        gr.update(visible=not off),
        gr.update(visible=off),
    ]


def state_of(version: GeneratorVersion | DetectorVersion, champion: DetectorVersion | None) -> str:
    """Whether a version is offered."""
    if version.removed is not None:
        return "removed"
    return "champion" if champion is not None and version == champion else "offered"
