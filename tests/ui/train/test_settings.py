"""The form of settings and the curves of runs, in Chromium."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dataengine.records import Job, now
from pipelines.config import TrainingRun
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser


def add_run(workspace: Workspace, id: str, name: str, lr: float, scale: float) -> None:
    settings = TrainingRun().model_dump(mode="json")
    settings["training"] |= {"name": name, "lr": lr}
    args = {"run": id, "settings": settings}
    with workspace.catalog() as catalog:
        catalog.jobs.add(Job(id=f"job-{id}", kind="retrain", args=args, state="cancelled", created=now()))
        catalog.commit()
    folder = workspace.job_files.folder(f"job-{id}")
    folder.mkdir(parents=True)
    lines = [{"time": 1.0, "done": step, "total": 9, "loss": scale / step} for step in range(1, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_settings_say_what_they_are_and_what_was_changed(
    workspace: Workspace, visiting: Callable[..., Page]
) -> None:
    """desks 4.9, 4.10 and 1.9."""
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        page = visiting(where.url, "engineer", "/train")
        page.goto(f"{where.url}/train?new=1&preset=recipe+paper")
        rate = page.locator('[data-path="training.lr"]')
        expect(rate.locator(".name")).to_have_text("Peak learning rate")
        expect(rate.locator("input")).to_have_attribute("title", "above 0 to 1")
        expect(page.locator('[data-path="training.steps"] .unit')).to_have_text("updates")
        expect(page.locator(".resets")).to_be_hidden()
        start = page.get_by_role("button", name="Start training")
        rate.locator("input").fill("1000")
        rate.locator("input").blur()
        expect(rate.locator(".problem")).to_have_text("It must be at most 1")
        expect(start).to_be_disabled()
        expect(page.locator("#why-not")).to_have_text("Correct the marked setting first.")
        assert page.get_by_text("it must be at most 1").count() == 2, "beside the field and in the preflight"
        rate.get_by_role("button", name="Reset to the preset").click()
        expect(rate.locator("input")).to_have_value("0.00006")
        expect(rate.locator("input")).to_be_focused()
        page.get_by_text("All settings").click()
        network = page.locator('fieldset[data-path="training.detector"]')
        expect(network).to_be_hidden()
        page.locator('[data-path="start"] select').select_option("random")
        expect(network).to_be_visible()
        page.locator('[data-path="training.weight_decay"] input').fill("0.5")
        page.locator('[data-path="training.weight_decay"] input').blur()
        page.get_by_role("button", name="Reset 2 changed settings to the preset").click()
        expect(page.locator('[data-path="training.weight_decay"] input')).to_have_value("0.01")
        expect(network).to_be_hidden()
        expect(page.locator(".resets")).to_be_hidden()
        page.get_by_label("Search settings").fill("false alarms")
        expect(page.locator('[data-path="evaluate.operating_point.rule"]')).to_be_visible()
        expect(page.locator('[data-path="training.weight_decay"]')).to_be_hidden()


def test_curves_are_zoomed_smoothed_compared_and_taken_out(
    workspace: Workspace, visiting: Callable[..., Page]
) -> None:
    """desks 4.13, 4.14 and 4.17; under the strict policy, whose breaches would be errors of the page."""
    for place, (id, name) in enumerate([("train-1", "first"), ("train-2", "second")]):
        add_run(workspace, id, name, 10.0 ** -(place + 3), scale=place + 1)
    refused: list[str] = []
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        page = visiting(where.url, "engineer", "/train")
        page.on("console", lambda one: refused.append(one.text) if one.type == "error" else None)
        page.goto(f"{where.url}/train?run=train-1")
        read = page.locator(".read")
        expect(read).to_have_text("step 9loss 0.111")
        expect(page.locator(".hint", has_text="Lower is better.")).to_be_visible()
        plot = page.locator(".plot")
        plot.focus()
        plot.press("Home")
        expect(read).to_have_text("step 1loss 1")
        plot.press("ArrowRight")
        expect(read).to_have_text("step 2loss 0.5")
        page.get_by_label("Smoothing").fill("0.5")
        plot.press("ArrowRight")
        # By hand: the average of 1, 1/2 and 1/3 with weights 1/8, 1/4 and 1/2, over their sum of 7/8.
        average = (1 / 8 + 1 / 8 + 1 / 6) / (7 / 8)
        page.get_by_label("Log axis").check()
        plot.press("Home")
        plot.press("ArrowRight")
        plot.press("ArrowRight")
        expect(read).to_have_text(f"step 3loss {average:.3g}")
        page.get_by_label("Smoothing").fill("0")
        page.get_by_text("Compare with other runs").click()
        page.get_by_label("second").check()
        expect(read).to_contain_text("first · loss")
        expect(read).to_contain_text("second · loss 0.222")
        expect(page.locator(".differences tbody tr")).to_have_text(["training.lr0.0010.0001"])
        with page.expect_download() as found:
            page.get_by_role("link", name="CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(found.value.path()).read_text())))
        assert [(row["run"], float(row["value"])) for row in rows if row["step"] == "4"] == [
            ("first", 0.25),
            ("second", 0.5),
        ]
        with page.expect_download() as found:
            page.get_by_role("button", name="PNG").click()
        assert Path(found.value.path()).read_bytes().startswith(b"\x89PNG")
        expect(page.locator(".standing .note")).to_contain_text("Cancelled. Its checkpoints are kept")
    assert refused == []
