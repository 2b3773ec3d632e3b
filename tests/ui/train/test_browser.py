"""A retraining outlives its page and its worker; its candidate is promoted and rolled back, in Chromium."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pipelines.services import runs
from storage.accounts import create_user
from tests.pipelines.rig import crew, until
from tests.ui.browsing import PASSWORD
from tests.ui.world import REAL
from ui.config import ServerConfig
from ui.server import background

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

STATE = ".standing .state"


def test_a_retraining_survives_page_and_worker_and_is_promoted(
    world: Path, tmp_path: Path, visiting: Callable[..., Page]
) -> None:
    shutil.copytree(world, tmp_path / "world")
    with crew(tmp_path / "world", "sqlite", CLINIC_LEASE_SECONDS="3") as team:
        with team.workspace.catalog() as catalog:
            create_user(catalog, "eve", PASSWORD, ["engineer"], "test")
            catalog.commit()

        def so_far(state: str, steps: int = 0) -> bool:
            (run,) = runs.runs(team.workspace, runs.TRAINING)
            assert run.job.state in ("queued", "running", "succeeded"), run.job.error
            step = runs.last_figures(team.workspace, run).get("step", 0)
            return run.job.state == state and step >= steps

        with background(team.workspace, ServerConfig(port=0, desks=False)) as where:
            page = visiting(where.url, "eve", "/train")
            page.goto(f"{where.url}/train?new=1&preset=recipe+cpu-smoke")
            page.locator('[data-path="training.name"] input').fill("second doctor")
            page.locator('[data-path="training.steps"] input').fill("240")
            page.get_by_text("All settings").click()
            page.locator('[data-path="training.checkpoint_every"] input').fill("20")
            expect(page.locator(".kinds")).to_contain_text("earlier training sets")
            expect(page.locator(".checks")).to_contain_text("No worker is running")
            page.get_by_role("button", name="Start training").click()
            expect(page.locator(STATE)).to_have_text("queued")
            address = page.url
            page.context.close()

            first = team.start(REAL)
            until(lambda: so_far("running", 30), 120, "the first worker trains")
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
            team.start(REAL)
            until(lambda: so_far("succeeded"), 240, "the second worker goes on to the end")

            page = visiting(where.url, "eve", "/train")
            page.goto(address)
            expect(page.locator(STATE).first).to_have_text("succeeded")
            expect(page.locator(".plot canvas")).to_be_visible()
            expect(page.locator(".compared")).to_contain_text("first detector (champion)")
            expect(page.locator(".triple").first).to_be_visible()
            page.get_by_label("Reason").fill("a rehearsal")
            page.get_by_role("button", name="Make champion").click()
            expect(page.locator("#toast")).to_have_text("second doctor is now champion.")
            page.goto(f"{where.url}/train")
            expect(page.locator(".card.champion b").first).to_have_text("second doctor")
            page.on("dialog", lambda dialog: dialog.accept())
            page.get_by_role("button", name="Roll back").click()
            expect(page.locator(".card.champion b").first).to_have_text("first detector")
        with team.workspace.catalog(read_only=True) as catalog:
            (job,) = catalog.jobs.list(kind="retrain")
            made = catalog.detectors.get(job.result["detector"])
            actions = [event.action for event in catalog.audit.list(actor="eve")]
        assert made.name == "second doctor" and made.metrics["beside"]["name"] == "first detector"
        assert {"job.request", "detector.promote", "detector.rollback"} <= set(actions)
