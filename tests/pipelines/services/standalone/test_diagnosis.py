"""`clinic diagnose PATH`: what is written for which file, what is refused, and what a second call does."""

import csv
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import app
from dataengine.csv_files import unescape_formula
from dataengine.diagnosis.point_files import write_point
from dataengine.errors import ConfigRefused, InputRefused, NotFound, WorkspaceUnusable
from dataengine.images import encode_png
from dataengine.masks import dequantise
from dataengine.records import OperatingPoint
from pipelines.jobs import diagnose_files as job
from pipelines.reports import diagnosis as reports
from pipelines.runtime import context as runtime_context
from pipelines.runtime import models as runtime_models
from pipelines.services.standalone.diagnosis import diagnose_files
from storage.opening import create_workspace, open_workspace
from tests.fakes import TinyDetector, fake_models
from tests.pipelines.repair.world import add_detector, scene


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector of redness, which every process of these tests opens."""
    monkeypatch.setattr(runtime_models, "real_models", lambda device="cpu": fake_models())
    monkeypatch.setattr(runtime_context, "real_models", lambda device="cpu": fake_models())
    return TinyDetector(0.5).save(tmp_path / "detector")


def save(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path, **how)
    return path


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        return {unescape_formula(row["file"]): row for row in csv.DictReader(file)}


def run(paths: list[Path], out: Path, detector: Path | str, **options: Any) -> dict[str, Any]:
    return diagnose_files(paths, out, str(detector), **options)


# ---- what is written -----------------------------------------------------------------------------------


def test_every_image_gets_its_map_at_its_size_and_a_line(detector: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    pictures = {
        "flawed.png": scene(1, spots=2),
        "sub/clean.png": scene(2, spots=0),
        "wide.png": np.concatenate([scene(3), scene(4, spots=0)], axis=1),
        "one.png": np.full((1, 1, 3), 90, np.uint8),
    }
    for name, pixels in pictures.items():
        save(photos / name, pixels)
    result = run([photos], out, detector)
    assert (result["flagged"], result["clean"], result["refused"], result["known"]) == (2, 2, 0, 0)
    rows = rows_of(out)
    expected = TinyDetector(0.5)
    for name, pixels in pictures.items():
        row, confidence = rows[str(photos / name)], expected.find_artifacts(pixels)
        stored = np.array(Picture.open(out / row["map"]))
        assert stored.dtype == np.uint8 and stored.shape == pixels.shape[:2]
        assert np.abs(stored / 255 - confidence).max() <= 1 / 510 + 1e-6
        assert float(row["confidence"]) == pytest.approx(confidence.max(), abs=1e-4)
        assert float(row["mean"]) == pytest.approx(confidence.mean(), abs=1e-4)
        assert float(row["area"]) == pytest.approx((confidence >= 0.5).mean(), abs=1e-4)
        assert (row["state"] == "flagged") == (confidence.max() >= 0.5)
        assert (int(row["width"]), int(row["height"])) == (pixels.shape[1], pixels.shape[0])
        assert Picture.open(out / row["overlay"]).size == (pixels.shape[1], pixels.shape[0])
    assert [int(rows[str(photos / name)]["regions"]) for name in pictures] == [2, 0, 1, 0]
    assert [*rows][-1] != str(photos / "flawed.png") and float(next(iter(rows.values()))["confidence"]) > 0.9
    tinted = np.array(Picture.open(out / "overlays/flawed.jpg").convert("RGB")).astype(int)
    assert abs(tinted[13, 13] - np.array([213, 94, 0])).max() < 90, "red heat lies on the red square"
    assert Picture.open(out / "contact_sheet.jpg").size[0] >= 560
    page = (out / "gallery.html").read_text()
    assert page.index("flawed.png") < page.index("clean.png") and page.count('class="pair"') == 4
    assert '<p class="flagged">' in page and 'src="http' not in page


def test_npz_keeps_the_floats(detector: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", scene(1))
    run([tmp_path / "in"], tmp_path / "out", detector, form="npz")
    with np.load(tmp_path / "out/maps/a.npz") as stored:
        assert stored["confidence"].dtype == np.float32
        np.testing.assert_array_equal(stored["confidence"], TinyDetector(0.5).find_artifacts(scene(1)))
    assert run([tmp_path / "in"], tmp_path / "out", detector, form="npz")["known"] == 1
    assert (tmp_path / "out/gallery.html").read_text().count('class="pair"') == 1


@pytest.mark.parametrize(("flagged", "states"), [(0.3, {"flagged"}), (0.9999, {"clean"})])
def test_a_folders_own_operating_point_flags(
    flagged: float, states: set[str], detector: Path, tmp_path: Path
) -> None:
    write_point(detector, OperatingPoint(flagged=flagged, component=0.3, rule="test", flawed=3, clean=4))
    save(tmp_path / "in/a.png", scene(1))
    said: list[str] = []
    run([tmp_path / "in"], tmp_path / "out", detector, begun=said.append)
    assert {row["state"] for row in rows_of(tmp_path / "out").values()} == states
    assert f"flags images from {flagged:.3g}" in said[0] and "3 flawed validation images" in said[0]


def test_a_damaged_operating_point_is_refused(detector: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", scene(1))
    for text in ('{"flagged": 0.2, "component": 0.9}', "[]", '{"flagged": "x", "component": 0}', "{"):
        (detector / "operating_point.json").write_text(text)
        with pytest.raises(InputRefused, match="is no operating point"):
            run([tmp_path / "in"], tmp_path / "out", detector)
    assert not (tmp_path / "out").exists()


def test_the_gallery_shows_the_most_confident_and_escapes_names(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (job, reports):
        monkeypatch.setattr(module, "MOST", 3)
    for number in range(6):
        pixels = scene(number, spots=0)
        pixels[:8, :8] = (100 + 25 * number, 20, 20)
        save(tmp_path / f"in/<b>{number}.png", pixels)
    for _ in range(2):  # the second time from what the first one wrote
        run([tmp_path / "in"], tmp_path / "out", detector)
        page = (tmp_path / "out/gallery.html").read_text()
        shown = [page.index(f"&lt;b&gt;{number}.png") for number in (5, 4, 3)]
        assert shown == sorted(shown) and page.count('class="pair"') == 3 and "&lt;b&gt;0" not in page
        assert "And 3 images of lower confidence" in page


# ---- what is refused -----------------------------------------------------------------------------------


def animated(path: Path) -> None:
    frames = [Picture.fromarray(scene(seed)) for seed in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:], format="WEBP")


def bomb(path: Path) -> None:
    data = bytearray(encode_png(scene(1)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "animated.png": (animated, "animated; export one frame"),
    "cut.png": (lambda path: path.write_bytes(encode_png(scene(1))[:200]), "damaged"),
    "bomb.png": (bomb, "pixels"),
    "empty.png": (lambda path: path.write_bytes(b""), "the file is empty"),
    "page.png": (lambda path: path.write_text("<svg/>"), "not a PNG, JPEG, WebP, BMP or GIF image"),
    "notes.docx": (lambda path: path.write_bytes(b"PK\3\4"), "not a PNG"),
    "link.png": (lambda path: path.symlink_to("good.png"), "links are not followed"),
    "loop": (lambda path: path.symlink_to("."), "links are not followed"),
    "pipe.png": (lambda path: os.mkfifo(path), "not a plain file"),
}


def test_each_bad_file_gets_one_line_and_the_rest_goes_on(detector: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "good.png", scene(5, spots=0))
    for name, (make, _) in BAD.items():
        make(photos / name)
    result = run([photos, tmp_path / "gone"], out, detector)
    assert (result["flagged"], result["clean"], result["refused"]) == (0, 1, len(BAD) + 1)
    rows = rows_of(out)
    for name, (_, said) in BAD.items():
        row = rows[str(photos / name)]
        assert row["state"] == "refused" and said in row["reason"], name
        assert row["confidence"] == row["map"] == row["overlay"] == row["width"] == "", name
    assert "there is no folder or image" in rows[str(tmp_path / "gone")]["reason"]
    assert [path.name for path in (out / "maps").rglob("*")] == ["good.png"]
    page = (out / "gallery.html").read_text()
    assert "0 images flagged, 1 not, 10 files refused" in page and "animated; export one frame" in page


ODD = (
    *(b"line\nbreak.png", b"caf\xe9.png", b"caf\xe8.png", "n\u0303.png".encode(), "\u00f1.png".encode()),
    *(b"a.png", b"A.png", b"a.jpg", b"'quoted\".png", b"=formula.png", b" space .png", b"-dash.png"),
    *("\U0001f600.png".encode(), b"x" * 246 + b".png", b"y" * 255, "\u00fc".encode() * 127),
    *(b"no suffix", b"dots.in.name.png", b"\x1b[31m.png"),
)


def test_odd_names_keep_their_results_apart(detector: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for folder in ("one", "two"):
        (photos / folder).mkdir(parents=True)
        for name in ODD:
            (photos / folder / os.fsdecode(name)).write_bytes(encode_png(scene(len(name))))
    save(photos / "one/dot.png/inner.png", scene(1))
    result = run([photos / "one", photos / "two"], out, detector)
    assert result["refused"] == 0, result["refused_files"]
    count = 2 * len(ODD) + 1
    assert result["flagged"] == count
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        maps = [row["map"] for row in csv.DictReader(file)]
    assert len({name.casefold() for name in maps}) == count and not list(out.rglob("*.part"))
    assert all((out / unescape_formula(name)).is_file() for name in maps)
    assert run([photos / "one", photos / "two"], out, detector)["known"] == count


def test_where_nothing_worked_the_call_fails_with_its_report(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        (tmp_path / f"in/{name}.png").write_text("none")
    with pytest.raises(InputRefused, match=r"a.png: not a PNG.*and 1 more"):
        run([tmp_path / "in"], tmp_path / "out", detector)
    assert {row["state"] for row in rows_of(tmp_path / "out").values()} == {"refused"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="no image could be diagnosed: there is none"):
        run([tmp_path / "empty"], tmp_path / "never", detector)
    assert not (tmp_path / "never").exists()


def test_detectors_and_folders_that_do_not_fit_are_refused_before_anything_is_written(
    detector: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    save(photos / "a.png", scene(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(NotFound, match="there is no detector 'gone'"):
        run([photos], tmp_path / "out", "gone")
    with pytest.raises(ConfigRefused, match="name a detector with --detector"):
        run([photos], tmp_path / "out", "")
    with pytest.raises(InputRefused, match="holds something already"):
        run([photos], tmp_path / "full", detector)
    with pytest.raises(ConfigRefused, match="lies in the output folder"):
        run([photos], photos, detector)
    with pytest.raises(WorkspaceUnusable, match="cannot be written"):
        run([photos], tmp_path / "full/mine.txt/out", detector)
    assert not (tmp_path / "out").exists() and [each.name for each in photos.iterdir()] == ["a.png"]


# ---- again ---------------------------------------------------------------------------------------------


def test_a_second_call_does_only_what_is_new(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in "abc":
        save(photos / f"{name}.png", scene(ord(name)))
    run([photos], out, detector)
    report = rows_of(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()}
    assert run([photos], out, detector)["known"] == 3
    assert rows_of(out) == report and {path: path.stat().st_mtime_ns for path in times} == times
    (out / "maps/a.png").unlink()
    (out / "overlays/b.jpg").write_bytes(b"torn")
    save(photos / "c.png", scene(99, spots=0))
    save(photos / "d.png", scene(4))
    result = run([photos], out, detector)
    assert (result["known"], result["flagged"], result["clean"]) == (0, 3, 1)
    assert run([photos], out, detector)["known"] == 4
    with pytest.raises(InputRefused, match="other maps"):
        run([photos], out, detector, form="npz")
    TinyDetector(0.4).save(detector)
    assert run([photos], out, detector)["known"] == 0, "its weights changed"


def test_a_name_that_begins_to_clash_moves_and_leaves_nothing_behind(detector: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.png", scene(1))
    run([photos], out, detector)
    save(photos / "a.jpg", scene(2), quality=95)
    result = run([photos], out, detector)
    assert (result["known"], result["flagged"]) == (0, 2)
    names = {path.name for path in (out / "maps").iterdir()}
    assert len(names) == 2 and "a.png" not in names


def test_an_interrupted_call_goes_on_where_it_was(detector: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(6):
        save(photos / f"{number}.png", scene(number)[: 40 + number])
    seen: list[str] = []

    def stop(found: Any) -> None:
        seen.append(found["file"])
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([photos], out, detector, each=stop)
    assert set(rows_of(out)) == set(seen), "the report of what was done is there"
    with (out / ".clinic/images.jsonl").open("a") as file:
        file.write('{"path": "torn by a power cut')
    result = run([photos], out, detector)
    assert result["known"] >= 2 and result["flagged"] == 6
    assert run([photos], out, detector)["known"] == 6


def test_huge_images_are_decoded_one_at_a_time(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "HUGE_PIXELS", 64 * 64)
    for number in range(5):
        save(tmp_path / f"in/{number}.png", np.concatenate([scene(number), scene(9)]))
    save(tmp_path / "in/small.png", scene(1))
    cut = (tmp_path / "in/0.png").read_bytes()
    (tmp_path / "in/cut.png").write_bytes(cut[: len(cut) // 2])
    alive, most = 0, 0
    decode, write = job.decode, job.FileDiagnoser._write

    def counting(data: bytes) -> Any:
        nonlocal alive, most
        alive, most = alive + 1, max(most, alive + 1)
        return decode(data)

    def written(self: job.FileDiagnoser, one: job.Predicted) -> Any:
        nonlocal alive
        made = write(self, one)
        alive -= 1
        return made

    monkeypatch.setattr(job, "decode", counting)
    monkeypatch.setattr(job.FileDiagnoser, "_write", written)
    result = run([tmp_path / "in"], tmp_path / "out", detector)
    assert (result["flagged"], result["refused"]) == (6, 1)
    assert "damaged" in result["refused_files"][0] and most <= 3, "one huge, one small and the damaged one"


def test_images_wait_for_their_size_within_bounds() -> None:
    sizes = [(100, 100), (50, 70), (3000, 3000), (100, 100)] * 9
    loaded = [
        job._Loaded(file=None, key=str(number), pixels=np.broadcast_to(np.uint8(0), (*size, 3)))  # type: ignore[arg-type]
        for number, size in enumerate(sizes)
    ]
    groups = list(job._batches_by_size(loaded, 8))
    assert sorted(int(one.key) for group in groups for one in group) == list(range(len(sizes)))  # type: ignore[union-attr]
    for group in groups:
        shapes = {one.pixels.shape for one in group}  # type: ignore[union-attr]
        assert len(shapes) == 1 and len(group) <= 8  # type: ignore[arg-type]
        area = next(iter(shapes))[0] * next(iter(shapes))[1]
        assert len(group) == 1 or len(group) * area <= job.BATCH_PIXELS  # type: ignore[arg-type]
    different = [
        job._Loaded(file=None, key="", pixels=np.broadcast_to(np.uint8(0), (2000, 1000 + n, 3)))  # type: ignore[arg-type]
        for n in range(40)
    ]
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for one in different:
            taken += 1
            yield one

    for given, _ in enumerate(job._batches_by_size(counted(), 8), 1):
        waiting = taken - given
        assert waiting * 2_000_000 <= job.WAITING_PIXELS + 2_000_000 or taken == len(different)


# ---- with a workspace ----------------------------------------------------------------------------------


def test_with_a_workspace_images_and_predictions_are_recorded(detector: Path, tmp_path: Path) -> None:
    with_workspace = tmp_path / "w"
    workspace = create_workspace(with_workspace)
    add_detector(workspace, "first", 0.5)
    workspace.close()
    photos, out = tmp_path / "photos", tmp_path / "out"
    save(photos / "one/a.png", scene(1))
    save(photos / "two/a.png", scene(2, spots=0))
    save(photos / "two/same.png", scene(1))
    (photos / "two/bad.png").write_text("none")
    paths = [photos / "one", photos / "two"]
    result = run(paths, out, "first", workspace=with_workspace)
    assert (result["flagged"], result["clean"], result["refused"]) == (2, 1, 1)
    rows = rows_of(out)
    assert "not a PNG" in rows[str(photos / "two/bad.png")]["reason"]
    workspace = open_workspace(with_workspace)
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
        predictions = {
            one.image_id: one for one in catalog.predictions.of("first", [one.id for one in images])
        }
    assert len(images) == len(predictions) == 2 and {one.source for one in images} == {"imported"}
    for image in images:
        stored = workspace.maps.get(predictions[image.id].map_ref or "")
        (row,) = [rows[str(photos / name)] for name in ("one/a.png", "two/a.png")
                  if (photos / name).read_bytes() == workspace.blobs.get(image.sha256)]  # fmt: skip
        np.testing.assert_array_equal(np.array(Picture.open(out / row["map"])), stored)
        assert float(row["confidence"]) == pytest.approx(dequantise(stored).max(), abs=1e-4)
    workspace.close()
    assert run(paths, out, "first", workspace=with_workspace)["known"] == 3
    with pytest.raises(NotFound):
        run(paths, tmp_path / "out2", "gone", workspace=with_workspace)
    with pytest.raises(ConfigRefused, match="no champion"):
        run(paths, tmp_path / "out2", "", workspace=with_workspace)


# ---- the command ---------------------------------------------------------------------------------------


def test_the_command_prints_a_line_of_json_for_each_image(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/a.png", scene(1))
    (tmp_path / "in/b\n.png").write_text("none")
    command = ["diagnose", str(tmp_path / "in"), "--detector", str(detector), "--out", str(tmp_path / "out")]
    assert app.main([*command, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(Path(line["file"]).name, line["state"]) for line in lines} == {
        ("a.png", "flagged"),
        ("b\n.png", "refused"),
    }
    assert app.main(command) == 0
    text = capsys.readouterr().out
    assert "1 image flagged, 0 not, 1 file refused; 1 done before" in text
    assert f"refused: {tmp_path}/in/b .png: not a PNG" in text and text.count("\n") == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("a.png",), "name the folder of the results with --out"),
        (("--out", "o"), "--out and --maps are for image files"),
        (("--maps", "npz"), "--out and --maps are for image files"),
        (("a.png", "--out", "o", "--images"), "--images is for images of a workspace"),
        (("a.png", "--out", "o", "--detach"), "--detach is for images of a workspace"),
        (("a.png", "--out", "o", "--round", "r"), "--round is for images of a workspace"),
        (("a.png", "--out", "o", "--engine", "ray"), "--engine is for a stage of a round"),
        (("a.png", "--out", "o", "--set", "batch=2"), "--set is for images of a workspace"),
        (("a.png", "--out", "o"), "there is no folder or image at a.png"),
        (("a.png", "--out", "o", "--detector", "diffdoctor"), "there is no folder or image at a.png"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["diagnose", *options]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "o").exists()


def test_the_shipped_detector_by_name_with_its_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in/a.png", scene(1))
    assert (
        app.main(["diagnose", str(tmp_path / "in"), "--detector", "clinic", "--out", str(tmp_path / "o")])
        == 0
    )
    assert "embedded clinic's small drawings" in capsys.readouterr().out
    assert not list((tmp_path / "o").rglob("*.db")), "no workspace is made"
