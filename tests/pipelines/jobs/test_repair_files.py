"""Repairing files: what changes, what stays, what the report says, and what a second run does."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from dataengine.csv_files import unescape_formula
from dataengine.errors import ConfigRefused, InputRefused, NotFound, WorkspaceUnusable
from dataengine.images import encode_png
from dataengine.records import CLINIC
from dataengine.treatment.repair.config import RepairConfig
from pipelines.exchange.readers.folders import import_folder
from pipelines.jobs.repair_files import repair_files
from pipelines.runtime.context import Context
from pipelines.selections.config import RepairRun
from tests.fakes import TinyDetector
from tests.pipelines.repair.world import RUN, SIDE, add_detector, add_image, make_context, scene


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    made = make_context(tmp_path / "w")
    yield made
    made.workspace.close()


def save(path: Path, pixels: np.ndarray, prompt: str = "", **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if prompt:
        info.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, Seed: 7")
    Picture.fromarray(pixels).save(path, **({"pnginfo": info} if path.suffix == ".png" else {}), **how)
    return path


def pixels_of(path: Path) -> np.ndarray:
    return np.array(Picture.open(path).convert("RGB"))


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "report.csv").open(newline="") as file:
        return {Path(unescape_formula(row["file"])).name: row for row in csv.DictReader(file)}


def test_artifacts_are_redrawn_and_nothing_else_changes(context: Context, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    flawed, clean = scene(1, spots=2), scene(2, spots=0)
    save(photos / "flawed.png", flawed, "a grey wall")
    save(photos / "sub/clean.jpg", clean, quality=90)
    result = repair_files(context, RUN, [photos], out)
    assert (result["repaired"], result["unchanged"], result["refused"]) == (1, 1, 0)
    assert (result["regions"], result["regions_repaired"]) == (2, 2)
    after = pixels_of(out / "flawed.png")
    changed = (after != flawed).any(-1)
    far = np.ones((SIDE, SIDE), bool)
    for left in (8, 36):  # ten pixels of artifact, and the margin of 12 % of 64 pixels around them
        far[0:26, left - 8 : left + 18] = False
        assert changed[8:18, left : left + 10].all()
    assert not changed[far].any()
    found = TinyDetector(0.5).find_artifacts
    assert found(flawed).max() > 0.9 and found(after).max() < 0.4
    assert (out / "sub/clean.jpg").read_bytes() == (photos / "sub/clean.jpg").read_bytes()
    assert not (out / "sub/clean.png").exists()


def test_the_report_says_what_became_of_every_file(context: Context, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "flawed.png", scene(1), "=a formula")
    save(photos / "clean.png", scene(2, spots=0))
    save(photos / "whole.png", scene(3, side=60))
    (photos / "text.png").write_text("no image")
    repair_files(context, RUN, [photos], out)
    rows = rows_of(out)
    row = rows["flawed.png"]
    assert (row["state"], row["regions"], row["repaired"], row["verdicts"]) == (
        "repaired",
        "1",
        "1",
        "repaired",
    )
    assert float(row["peaks_before"]) > 0.9 > 0.4 > float(row["peaks_after"])
    assert row["prompt"] == "'=a formula" and row["output"] == "flawed.png"
    assert rows["clean.png"]["state"] == "unchanged" and rows["clean.png"]["regions"] == "0"
    assert (
        rows["whole.png"]["state"] == "refused" and "generate the image again" in rows["whole.png"]["reason"]
    )
    assert (out / "whole.png").read_bytes() == (photos / "whole.png").read_bytes()
    assert "convert it to PNG" in rows["text.png"]["reason"] and not (out / "text.png").exists()


def test_a_second_run_repairs_only_what_is_new(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.png", scene(1))
    save(photos / "b.png", scene(2, spots=0))
    repair_files(context, RUN, [photos], out)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("?.png")}
    report = rows_of(out)
    save(photos / "c.png", scene(3))
    again = repair_files(context, RUN, [photos], out)
    assert (again["known"], again["repaired"], again["unchanged"]) == (2, 2, 1)
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    assert {name: rows_of(out)[name] for name in report} == report, "with their seconds"

    def refuse(*arguments: object) -> None:
        raise AssertionError("nothing is left to repair, so nothing is opened")

    monkeypatch.setattr(context.models, "open_generator", refuse)
    assert repair_files(context, RUN, [photos], out)["known"] == 3


def test_other_settings_another_input_or_a_lost_result_are_done_again(
    context: Context, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in "abc":
        save(photos / f"{name}.png", scene(ord(name)))
    repair_files(context, RUN, [photos], out)
    (out / "a.png").unlink()
    save(photos / "b.png", scene(99))
    assert repair_files(context, RUN, [photos], out)["known"] == 1
    seeded = RUN.model_copy(update={"repair": RUN.repair.model_copy(update={"seed": 5})})
    assert repair_files(context, seeded, [photos], out)["known"] == 0
    assert repair_files(context, seeded.model_copy(update={"prompt": "a wall"}), [photos], out)["known"] == 0


def test_what_an_earlier_run_repaired_and_this_one_does_not_is_removed(
    context: Context, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.jpg", scene(1), quality=95)
    save(photos / "b.png", scene(2))
    assert repair_files(context, RUN, [photos], out)["repaired"] == 2
    assert {each.name for each in out.glob("[ab].*")} == {"a.png", "a.json", "b.png", "b.json"}
    blind = RUN.model_copy(update={"repair": RepairConfig(least=0.3)})
    assert repair_files(context, blind, [photos], out)["unchanged"] == 2
    assert {each.name for each in out.glob("[ab].*")} == {"a.jpg", "b.png"}


def test_prompts_come_from_the_file_then_the_catalog_then_the_option(
    context: Context, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    known = scene(2)
    add_image(context.workspace, known, 1, prompt="known to the catalog")
    photos.mkdir()
    (photos / "catalog.png").write_bytes(encode_png(known))
    save(photos / "inside.png", scene(1), "written inside")
    save(photos / "beside.png", scene(3)).with_suffix(".txt").write_text("written beside")
    save(photos / "none.png", scene(4))
    run = RUN.model_copy(update={"prompt": "given"})
    repair_files(context, run, [photos], out)
    assert {name: row["prompt"] for name, row in rows_of(out).items()} == {
        "catalog.png": "known to the catalog",
        "inside.png": "written inside",
        "beside.png": "written beside",
        "none.png": "given",
    }
    result = repair_files(context, RUN, [photos], out)
    assert "1 image with artifacts came without a prompt" in result["notes"][-1]
    assert "an empty one was used" in rows_of(out)["none.png"]["reason"]


def test_transparency_is_laid_on_white_and_said(context: Context, tmp_path: Path) -> None:
    rgba = np.dstack([scene(1), np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[40:, 40:, 3] = 0
    save(tmp_path / "in/a.png", rgba)
    repair_files(context, RUN, [tmp_path / "in"], tmp_path / "out")
    assert (pixels_of(tmp_path / "out/a.png")[40:, 40:] == 255).all()
    assert rows_of(tmp_path / "out")["a.png"]["reason"].startswith("its transparency was laid on white")


def small(path: Path) -> None:
    save(path, scene(1)[:20, :20])


def animated(path: Path) -> None:
    frames = [Picture.fromarray(scene(seed)) for seed in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:], format="GIF")


def cut(path: Path) -> None:
    path.write_bytes(encode_png(scene(1))[:200])


def bomb(path: Path) -> None:
    data = bytearray(encode_png(scene(1)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (small, "it would be enlarged 1.6 times, and at most 1.5 times is allowed"),
        (lambda path: save(path, scene(1, side=60)), "covers? .* of the image"),
        (animated, "animated; export one frame"),
        (cut, "damaged"),
        (bomb, "exceed the limit|more pixels"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("<svg/>"), "not a PNG, JPEG, WebP, BMP or GIF image"),
        (lambda path: path.symlink_to("/etc/hostname"), "links are not followed"),
        (lambda path: os.mkfifo(path), "not a plain file"),
    ],
)
def test_one_bad_file_gets_one_line_and_the_rest_goes_on(
    make: Callable[[Path], object], said: str, context: Context, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "good.png", scene(5))
    make(photos / "bad.png")
    run = RUN.model_copy(update={"repair": RUN.repair.model_copy(update={"zoom": 1.5})})
    result = repair_files(context, run, [photos], out)
    assert result["repaired"] == 1 and result["refused"] == 1
    (line,) = result["refused_files"]
    assert re.search(said, line) and line.startswith(str(photos / "bad.png")) and "\n" not in line


def test_where_nothing_worked_the_run_fails(context: Context, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        (tmp_path / f"in/{name}.png").write_text("none")
    with pytest.raises(InputRefused, match=r"a.png: not a PNG.*and 1 more"):
        repair_files(context, RUN, [tmp_path / "in"], tmp_path / "out")
    with pytest.raises(InputRefused, match=r"no image could be repaired: .*there is no folder or image"):
        repair_files(context, RUN, [tmp_path / "gone"], tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_an_output_that_cannot_be_written_is_one_sentence(context: Context, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", scene(1))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((WorkspaceUnusable, InputRefused), match="cannot be written"):
        repair_files(context, RUN, [tmp_path / "in"], tmp_path / "file" / "out")


def test_unknown_models_are_refused_before_anything_is_read(context: Context, tmp_path: Path) -> None:
    for name in ("detector", "chooser", "generator"):
        with pytest.raises(NotFound):
            repair_files(context, RUN.model_copy(update={name: "nowhere"}), [tmp_path], tmp_path / "out")
    with pytest.raises(ConfigRefused, match="needs a generator"):
        repair_files(context, RepairRun(), [tmp_path], tmp_path / "out")


def test_the_gallery_shows_the_largest_gain_first_and_escapes_every_text(
    context: Context, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    weak = scene(1, spots=0)
    weak[8:18, 8:18] = (220, 40, 40)
    save(photos / "weak.png", weak, "<script>alert(1)</script>")
    save(photos / "<b>strong.png", scene(2))
    save(photos / "clean&.png", scene(3, spots=0))
    result = repair_files(context, RUN, [photos], out)
    assert result["repaired"] == 2
    page = (out / "gallery.html").read_text()
    assert page.index("&lt;b&gt;strong.png</h3>") < page.index("weak.png</h3>") < page.index("clean&amp;.png")
    assert "<script" not in page and "<b>strong" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count('<img src="data:image/') == 6 and not re.search(r"(src|href)=\"(?!data:)", page)
    assert "prefers-color-scheme:dark" in page


def test_what_is_imported_from_the_results_stays_with_its_original(context: Context, tmp_path: Path) -> None:
    """A repaired validation image must not be trained on, nor count as a sample of a generator."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.png", scene(1), "a wall")
    repair_files(context, RUN, [photos], out)
    (out / "gallery.html").unlink()
    import_folder(context.workspace, photos, validation=0.5)
    import_folder(context.workspace, out)
    with context.workspace.catalog(read_only=True) as catalog:
        original, repaired = sorted(catalog.images.find(), key=lambda image: image.source)
    assert (original.source, repaired.source) == ("generated", "repaired")
    assert repaired.group == original.group and repaired.split == original.split
    assert repaired.prompt == "a wall" and repaired.generator_id is None
    how = json.loads((out / "a.json").read_text())["settings"]["repaired"]
    assert how["of"] == original.sha256 and how["generator"] == "squares" and how["repair"]["draws"] == 2


def test_a_killed_run_goes_on_where_it_was(context: Context, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in "abc":
        save(photos / f"{name}.png", scene(ord(name)))
    once = tmp_path / "once"
    repair_files(context, RUN, [photos], once)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipelines.jobs.repair_files import repair_files\n"
        "from tests.pipelines.repair.world import RUN, reopened\n"
        "repair_files(reopened(Path(sys.argv[1])), RUN, [Path(sys.argv[2])], Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", code, str(context.workspace.path), str(photos), str(out)]
    (tmp_path / "marks").mkdir()
    killed = {"CLINIC_FAIL_AT": "repair:written", "CLINIC_FAIL_DIR": str(tmp_path / "marks")}
    assert subprocess.run(command, env=os.environ | killed, check=False).returncode == -signal.SIGKILL
    assert [each.name for each in out.glob("*.png")] == ["a.png"], "killed after the first result"
    result = repair_files(context, RUN, [photos], out)
    assert result["repaired"] == 3
    for name in "abc":
        assert (out / f"{name}.png").read_bytes() == (once / f"{name}.png").read_bytes()
    assert not list(out.rglob("*.part"))
    assert repair_files(context, RUN, [photos], out)["known"] == 3


# ---- the models ----------------------------------------------------------------------------------------


def test_another_detector_chooses_a_teacher_first(context: Context, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", scene(1))
    add_detector(context.workspace, "newest", 0.3)
    result = repair_files(context, RUN, [tmp_path / "in"], tmp_path / "out")
    assert (result["detector"], result["chooser"], result["notes"]) == (
        "first",
        "other",
        ["1 image with artifacts came without a prompt, so an empty one was used: give one"],
    )
    by_teacher = RUN.model_copy(update={"detector": "other", "prompt": "a wall"})
    assert repair_files(context, by_teacher, [tmp_path / "in"], tmp_path / "2")["chooser"] == "first"
    named = RUN.model_copy(update={"chooser": "newest"})
    assert repair_files(context, named, [tmp_path / "in"], tmp_path / "3")["chooser"] == "newest"


def test_a_chooser_of_the_same_weights_is_said_and_not_asked(context: Context, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", scene(1), "a wall")
    for chooser in ("first", add_twin(context)):
        run = RUN.model_copy(update={"chooser": chooser})
        result = repair_files(context, run, [tmp_path / "in"], tmp_path / chooser)
        assert result["chooser"] is None and result["repaired"] == 1
        assert "detector and chooser are the same weights" in result["notes"][0]


def add_twin(context: Context) -> str:
    from dataclasses import replace

    with context.workspace.catalog() as catalog:
        catalog.detectors.add(
            replace(catalog.detectors.get("first"), id="twin", name="twin", role="candidate")
        )
        catalog.commit()
    return "twin"


def test_without_another_detector_or_an_operating_point_that_is_said(
    context: Context, tmp_path: Path
) -> None:
    save(tmp_path / "in/a.png", scene(1), "a wall")
    with context.workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql("DELETE FROM detectors WHERE id = 'other'")
        catalog.connection.exec_driver_sql(
            f"UPDATE detectors SET operating_point = NULL, domain = '{CLINIC}' WHERE id = 'first'"
        )
        catalog.commit()
    notes = repair_files(context, RUN, [tmp_path / "in"], tmp_path / "out")["notes"]
    assert len(notes) == 3
    assert "flags from 0.5: no operating point has been chosen yet" in notes[0]
    assert "clinic's small drawings" in notes[1] and "there is no other detector" in notes[2]


def test_a_chooser_that_finds_it_worse_keeps_the_original(context: Context, tmp_path: Path) -> None:
    """A detector that suspects every pixel of the candidates refuses all of them."""
    save(tmp_path / "in/a.png", scene(1), "a wall")
    original = context.models.artifact_maps

    def maps(detector, images, batch):  # type: ignore[no-untyped-def]
        found = original(detector, images, batch)
        if detector.name == "other":
            for image, one in zip(images, found, strict=True):
                one[...] = 0.99 if (image[8:18, 8:18] != (250, 5, 5)).any() else 0.0
        return found

    context.models.artifact_maps = maps  # type: ignore[method-assign]
    result = repair_files(context, RUN, [tmp_path / "in"], tmp_path / "out")
    assert (result["repaired"], result["unchanged"]) == (0, 1)
    assert rows_of(tmp_path / "out")["a.png"]["verdicts"] == "the chooser found it worse"
    assert (tmp_path / "out/a.png").read_bytes() == (tmp_path / "in/a.png").read_bytes()
