"""From an empty workspace to a frozen benchmark, a promoted detector, a treated generator, a round and a
finished study: people, pages, and no command line.

The tests are the story's chapters, in this order; each continues where the one before it ended.
"""

import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from dataengine.clinic.world import stream
from dataengine.images import encode_png
from tests.ui.browsing import PASSWORD, until
from tests.ui.stories.conftest import WORKING_MS, Story
from tests.ui.stories.hands import (
    PAINTED,
    choose_categories,
    draw,
    judge_all,
    label_all,
    run_succeeds,
    tab_count,
)

pytestmark = [pytest.mark.stories, pytest.mark.browser, pytest.mark.timeout(3600)]

PEOPLE = ("engineer", "curator", "annotator", "rater")
IMAGES, SENT, REAL = 24, 14, 12
NOTE = "Trace the fingers more tightly, please."


def add(page: Page, name: str, role: str) -> None:
    """Fill the form for a new account, and send it."""
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password (10").fill(PASSWORD)
    for one in ("admin", *PEOPLE):
        tick(page.get_by_label(one, exact=True).last, one == role)
    page.get_by_role("button", name="Add", exact=True).click()


def tick(box: Locator, wanted: bool) -> None:
    """Tick or untick a box of a Gradio page, which forgets a click that comes before it is ready."""
    for _ in range(10):
        if box.is_checked() == wanted:
            return
        box.click()
        box.page.wait_for_timeout(500)
    raise AssertionError(f"{box} cannot be ticked")


def test_an_admin_makes_the_accounts(story: Story) -> None:
    page = story.open("ada")
    page.goto(story.link)
    expect(page.get_by_text("Start here: this workspace has no images yet")).to_be_visible()
    page.goto(f"{story.url}/admin")
    add(page, "ada", "admin")
    expect(page.get_by_text("You are now signed in as ada")).to_be_visible()
    for name in PEOPLE:
        add(page, name, name)
        expect(page.get_by_text(f"Account {name} added")).to_be_visible()


def upload(page: Page, folder: Path, use: str, count: int, flawed: float) -> None:
    """Upload drawings of the embedded clinic's world with their captions, through the form as it is set."""
    drawings = stream(use, flawed=flawed)
    rows = ["file_name,text"]
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode_png(drawings[number].image))
        rows.append(f'{number}.png,"{drawings[number].caption}"')
    (folder / "metadata.csv").write_text("\n".join(rows))
    page.set_input_files("input[data-part=images]", sorted(map(str, folder.iterdir())))
    page.get_by_role("button", name="Upload and import").click()
    expect(page.locator(".outcome .counts")).to_contain_text(f"{count} added · 0 known already")


def test_an_engineer_uploads_images_and_finds_artifacts(story: Story, tmp_path: Path) -> None:
    page = story.at("engineer", "/import")
    page.get_by_text("Options").click()
    page.get_by_label("Share for validation, %").fill("40")
    upload(page, tmp_path, "validation", IMAGES, flawed=0.7)

    page = story.at("engineer", "/train")
    page.get_by_role("button", name="Register a detector").first.click()
    page.get_by_role("button", name="Register", exact=True).click()
    story.finished(page, "is registered.")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("table tbody tr")).to_have_count(1)

    page = story.at("engineer", "/curate")
    page.locator(".workbar [data-work=diagnose]").click()
    page.locator("dialog.work form .button").click()
    story.finished(page, f"{IMAGES} images predicted by")


def test_a_curator_searches_tags_and_sends(story: Story) -> None:
    page = story.at("curator", "/curate")
    expect(page.locator(".grid .tile")).to_have_count(IMAGES)
    page.get_by_label("Prompt").fill("hand")
    page.get_by_label("Prompt").press("Enter")
    expect(page.locator(".chips")).to_contain_text("Prompt: hand")
    expect(page.locator(".total")).to_contain_text(f" of {IMAGES} images")
    page.locator(".tile .pick").first.check(force=True)
    page.get_by_role("button", name="Tag", exact=True).click()
    page.get_by_label("Add tags").fill("to discuss")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".tile .tags")).to_have_text("to discuss")

    send(story, "/curate?split=validation", 4, "4 images sent to annotators, 4 of them of")
    send(story, "/curate", SENT - 4, f"{SENT - 4} images sent to annotators, ")


def send(story: Story, path: str, images: int, words: str) -> None:
    """Send so many images of a filter to annotators, those that teach most."""
    page = story.at("curator", path)
    page.locator(".workbar [data-work=send]").click()
    page.locator("dialog.work [name=budget]").fill(str(images))
    page.locator("dialog.work form .button").click()
    story.finished(page, words)


def test_an_annotator_labels_what_was_sent(story: Story) -> None:
    page = story.pages.get("annotator") or story.first_sign_in("annotator")
    expect(page.locator(".tasks a")).to_have_text(f"{SENT} images to label")
    page.goto(f"{story.url}/annotate")
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    assert label_all(page) == SENT
    expect(page.get_by_text("Nothing to label right now")).to_be_visible()


def test_a_curator_reviews_by_keyboard(story: Story) -> None:
    """One drawing goes back with a note, the others are approved: no pointer is used."""
    page = story.at("curator", "/")
    page.locator(".tasks a", has_text=f"{SENT} labels to review").click()
    expect(page.locator(".labels .entry")).to_have_count(SENT)
    drawn = page.locator(".labels .entry", has_text="drawn")
    while "drawn" not in page.locator(".entry:has([aria-current])").inner_text():
        page.keyboard.press("ArrowDown")
    assert drawn.count() == SENT // 2
    expect(page.locator("#approve")).to_be_visible()
    page.keyboard.press("r")
    page.keyboard.type(NOTE)
    page.keyboard.press("Control+Enter")
    for left in range(SENT - 1, 0, -1):
        expect(page.locator(".labels .entry")).to_have_count(left)
        expect(page.locator("#approve")).to_be_visible()
        page.keyboard.press("a")
    expect(page.get_by_text("Nothing to review")).to_be_visible()
    assert [tab_count(page, name) for name in ("Approved", "Returned")] == [SENT - 1, 1]


def test_an_annotator_draws_a_returned_image_again(story: Story) -> None:
    page = story.at("annotator", "/")
    expect(page.locator(".tasks a")).to_have_text("1 image to label")
    page.locator(".tasks a").click()
    expect(page.locator("#returned")).to_contain_text(f"Returned by a curator: {NOTE}")
    until(page, PAINTED)
    draw(page, 0.6)
    page.locator("#submit").click()
    expect(page.get_by_text("Nothing to label right now")).to_be_visible()
    page = story.at("curator", "/curate?view=review&by=people")
    expect(page.locator("#approve")).to_be_visible()
    page.keyboard.press("a")
    expect(page.get_by_text("Nothing to review")).to_be_visible()


def test_an_engineer_measures_the_champion(story: Story) -> None:
    """The first registered detector is the champion; what it misses is known once people have labelled."""
    page = story.at("engineer", "/train")
    page.locator("table tbody tr a").first.click()
    expect(page.get_by_text("This is the champion.")).to_be_visible()
    page.get_by_role("button", name="Measure").click()
    expect(page.locator(".compared")).to_contain_text("validation · ", timeout=WORKING_MS)


def test_a_benchmark_is_frozen(story: Story) -> None:
    page = story.at("curator", "/curate?view=benchmark")
    page.get_by_label("Name").fill("November")
    page.get_by_label("Images per category and confidence band").fill("1")
    page.get_by_label("Annotators per image").fill("1")
    page.get_by_role("button", name="Create draft").click()
    expect(page.locator("#freeze")).to_be_disabled()
    count = page.locator(".item").count()
    assert label_all(story.at("annotator", "/annotate")) == count >= 3

    page = story.at("curator", "/curate?view=benchmark")
    page.locator("#settle-agreed").click()
    expect(page.locator(".figures")).to_contain_text(f"{count} / {count}")
    page.locator("#freeze").click()
    expect(page.locator(".versions")).to_contain_text("frozen")
    expect(page.get_by_text("Frozen by curator")).to_be_visible()


def test_a_detector_is_trained_and_promoted(story: Story) -> None:
    page = story.at("engineer", "/train?new=1")
    page.get_by_label("Recipe").select_option("recipe cpu-smoke")
    expect(page.locator('[data-path="training.steps"] input')).to_have_value("6")
    page.locator('[data-path="training.name"] input').fill("second doctor")
    page.get_by_role("button", name="Start training").click()
    run_succeeds(page, WORKING_MS)
    expect(page.locator(".compared")).to_contain_text("(champion)")
    page.get_by_label("Reason").fill("a rehearsal")
    page.get_by_role("button", name="Make champion").click()
    expect(page.locator("#toast")).to_have_text("second doctor is now champion.")
    page = story.at("engineer", "/train")
    expect(page.locator(".card.champion b").first).to_have_text("second doctor")


def test_a_generator_is_treated(story: Story, tmp_path: Path) -> None:
    page = story.at("engineer", "/import")
    page.get_by_text("Options").click()
    page.get_by_label("Where the images come from").select_option("real")
    upload(page, tmp_path, "photos", REAL, flawed=0)
    page = story.at("engineer", "/treat")
    page.get_by_role("button", name="Register a generator").first.click()
    page.get_by_role("button", name="Register", exact=True).click()
    story.finished(page, "is registered.")
    page.get_by_role("button", name="Continue").click()
    page = story.at("engineer", "/treat?new=1")
    page.get_by_label("Preset").select_option("recipe cpu-smoke")
    expect(page.locator('[data-path="tuning.updates"] input')).to_have_value("2")
    choose_categories(page, "prompts", "hand, face", 4)
    choose_categories(page, "judge", "hand", 2)
    page.locator('[data-path="name"] input').fill("steadier hands")
    page.locator('[data-path="tuning.updates"] input').fill("8")
    page.get_by_text("All settings").click()
    page.locator('[data-path="tuning.learning_rate"] input').fill("5e-5")
    page.get_by_role("button", name="Start treatment").click()
    run_succeeds(page, WORKING_MS)
    expect(page.get_by_text("steadier hands").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the LoRA").click()
    assert zipfile.is_zipfile(download.value.path())


def test_a_study_is_judged_to_its_end(story: Story) -> None:
    page = story.at("engineer", "/treat")
    page.locator("td a", has_text="steadier hands").click()
    page.get_by_role("link", name="Start a study").click()
    page.get_by_label("Study name").fill("Steadier hands?")
    page.get_by_label("Raters per pair").fill("2")
    page.get_by_label("Attention checks").fill("1")
    page.get_by_label("Completion code").fill("THANKS-1")
    page.get_by_role("button", name="Open the study").click()
    page.wait_for_url(re.compile("view=results"))
    results = page.url.removeprefix(story.url)

    admin = story.at("ada", results)
    admin.get_by_label("Raters", exact=True).fill("1")
    admin.locator("#invite").click()
    link = admin.locator("#link code").first.inner_text()
    guest = story.open("guest")
    guest.goto(link)
    guest.get_by_role("button", name="Start").click()
    guest.wait_for_selector("#view[data-ready]")
    judged = judge_all(guest)
    expect(guest.locator(".over")).to_contain_text("THANKS-1")
    guest.close()

    rater = story.at("rater", "/")
    expect(rater.locator(".tasks a")).to_have_text("1 study to judge")
    rater.locator(".tasks a").click()
    rater.get_by_role("link", name="Start").click()
    rater.wait_for_selector("#view[data-ready=judge]")
    assert judge_all(rater) == judged >= 3

    page = story.at("engineer", results)
    pairs = judged - 1  # without the attention check
    expect(page.locator(".lead")).to_contain_text(f"{pairs} of {pairs} pairs have 2 raters; 2 raters gave")
    expect(page.locator(".outcome").first).to_contain_text("% of decided pairs for steadier hands")
    with page.expect_download() as download:
        page.get_by_role("link", name="Votes CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 1 + 2 * judged * 2
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#close").click()
    expect(page.locator("h1 .state.closed")).to_be_visible()


def test_a_curator_exports_the_labels(story: Story) -> None:
    page = story.at("curator", "/curate")
    page.locator(".workbar [data-work=export]").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Format").select_option("coco")
    dialog.get_by_label("Only labelled images").check()
    dialog.get_by_role("button", name="Export").click()
    story.finished(page, "in one .zip")
    with page.expect_download() as download:
        dialog.get_by_role("link", name=re.compile("^Download")).click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith("coco.json") for name in archive.namelist())


def test_a_round_runs_from_the_form(story: Story) -> None:
    page = story.at("engineer", "/rounds?new=1")
    form = page.locator("#start")
    form.locator("[name=recipe]").select_option("cpu-smoke")
    form.locator("[name=budget]").fill("4")
    form.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#waiting")).to_contain_text("Waiting for annotators", timeout=WORKING_MS)
    label_all(story.at("annotator", "/annotate"))
    page = story.pages["engineer"]
    state = page.locator("h1 .state")
    expect(state).to_have_text(re.compile("done|failed|cancelled"), timeout=2 * WORKING_MS)
    expect(state).to_have_text("done")
    expect(page.locator(".timeline .stage.failed")).to_have_count(0)


def test_no_page_complained_on_the_way(story: Story) -> None:
    assert not story.problems, story.problems
