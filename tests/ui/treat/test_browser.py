"""A treatment of the embedded FLUX: watched, paused, cancelled, resumed; its LoRA drawn with by diffusers."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from storage.accounts import create_user
from tests.pipelines.rig import crew, until
from tests.ui.browsing import PASSWORD, Live, Visit
from tests.ui.world import REAL
from ui.config import ServerConfig
from ui.server import background

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

STATE = ".standing .state"
PROMPT = "an open brown hand over a plain blue background"


def test_a_treatment_is_watched_paused_cancelled_resumed_and_taken_away(
    world: Path, tmp_path: Path, visiting: Callable[..., Page]
) -> None:
    shutil.copytree(world, tmp_path / "world")
    with crew(tmp_path / "world", "sqlite", CLINIC_LEASE_SECONDS="3") as team:
        with team.workspace.catalog() as catalog:
            create_user(catalog, "eve", PASSWORD, ["engineer"], "test")
            catalog.commit()
        team.start(REAL)
        with background(team.workspace, ServerConfig(port=0, desks=False)) as where:
            page = visiting(where.url, "eve", "/treat", accept_downloads=True)
            page.goto(f"{where.url}/treat?new=1&preset=recipe+cpu-smoke")
            for path, names, each in (("prompts", "hand, face", "4"), ("judge", "hand", "2")):
                field = page.locator(f'[data-path="{path}"]')
                field.locator("select").select_option("category")
                field.get_by_label("Categories").fill(names)
                field.get_by_label("Prompts per category").fill(each)
            page.locator('[data-path="name"] input').fill("steadier hands")
            page.locator('[data-path="tuning.updates"] input').fill("16")
            page.get_by_text("All settings").click()
            page.locator('[data-path="tuning.learning_rate"] input').fill("5e-5")
            expect(page.locator(".checks")).to_contain_text("FluxPipeline")
            page.get_by_role("button", name="Start treatment").click()
            expect(page.locator(".pairbox .tag.right").first).to_be_visible(timeout=120_000)
            page.get_by_role("button", name="Pause").click()
            expect(page.locator(STATE)).to_have_text("paused", timeout=30_000)
            page.reload()
            expect(page.locator(".standing")).to_contain_text("its device is free")
            expect(page.locator(".standing-facts")).to_contain_text("of 16")
            page.get_by_role("button", name="Resume").click()
            expect(page.locator(STATE)).to_have_text("running", timeout=60_000)
            page.on("dialog", lambda dialog: dialog.accept())
            page.get_by_role("button", name="Cancel").click()
            expect(page.locator(STATE)).to_have_text("cancelled", timeout=30_000)
            page.get_by_role("button", name="Resume").click()
            expect(page.locator(STATE)).not_to_have_text("cancelled")

            def ended() -> bool:
                with team.workspace.catalog(read_only=True) as catalog:
                    newest = catalog.jobs.list(kind="treat")[0]
                assert newest.state in ("queued", "running", "succeeded"), newest.error
                return newest.state == "succeeded"

            until(ended, 240, "the treatment goes on to its end")
            expect(page.locator(STATE)).to_have_text("succeeded")
            expect(page.locator("table").first).to_contain_text("mean confidence")
            with page.expect_download() as download:
                page.get_by_role("link", name="Download the LoRA").click()
            download.value.save_as(tmp_path / "lora.zip")
    with zipfile.ZipFile(tmp_path / "lora.zip") as archive:
        archive.extractall(tmp_path / "lora")
    assert "steadier hands" in (tmp_path / "lora" / "README.md").read_text()
    flux = next((tmp_path / "world" / "models").glob("tiny-flux"))
    before, after = (drawn_by_diffusers(flux, lora) for lora in (None, tmp_path / "lora"))
    assert before.shape == after.shape and np.abs(before.astype(int) - after).max() > 0


def drawn_by_diffusers(folder: Path, lora: Path | None) -> np.ndarray:
    """One image of a fresh pipeline, uint8 HWC."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    side = pipeline.vae.config.sample_size
    image = pipeline(
        PROMPT,
        height=side,
        width=side,
        num_inference_steps=2,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    return np.asarray(image)


def test_a_preset_asks_for_its_reward(visit: Visit, live: Live) -> None:
    """The form shows a row for the scorer; without one the preflight says what is missing."""
    page = visit("engineer", "/treat")
    page.goto(f"{live[0]}/treat?new=1&preset=Focus-N-Fix")
    rewards, note = page.locator('[data-path="tuning.rewards"]'), page.locator(".note.bad")
    expect(rewards.locator(".rows > .fields")).to_have_count(1)
    expect(note).to_contain_text("tuning.rewards.0: a reward needs a scorer")
    expect(rewards.locator(".rows")).to_be_visible()
    rewards.get_by_role("button", name="Remove").click()
    expect(note).to_contain_text("no objective is on")
    rewards.get_by_role("button", name="Add").click()
    rewards.get_by_role("button", name="Add").click()
    rewards.get_by_role("button", name="Remove").first.click()
    place = rewards.locator('[data-path="tuning.rewards.location"] input')
    expect(place).to_have_count(1)
    rewards.locator('[data-path="tuning.rewards.kind"] select').select_option("clip")
    place.fill("/not/registered")
    place.press("Tab")
    expect(note).to_contain_text("tuning.rewards.location is '/not/registered', which is not registered")
