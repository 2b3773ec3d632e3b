"""Images that a person uploads: diagnosed and repaired without entering the catalog."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from dataengine.errors import ConfigRefused, InputRefused, NotFound
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.repair.config import RepairConfig
from pipelines.runtime import context as runtime_context
from pipelines.selections.config import RepairRun
from pipelines.services.standalone import uploads
from pipelines.services.standalone.uploads import diagnose_uploads, repair_uploads
from storage.workspace import Workspace
from tests.bombs_of_pixels import png
from tests.pipelines.repair.world import add_image, make_context, models, scene


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(runtime_context, "real_models", lambda device="cpu": models())
    workspace = make_context(tmp_path / "w").workspace
    add_image(workspace, scene(1), 1)
    return workspace


def uploaded(tmp_path: Path, name: str, data: bytes | np.ndarray, folder: str = "a") -> Path:
    """A file as Gradio leaves it: each in a folder of its own."""
    path = tmp_path / "received" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        Picture.fromarray(data).save(path)
    return path


def test_each_file_gets_its_scores_and_the_catalog_stays_as_it_was(
    workspace: Workspace, tmp_path: Path
) -> None:
    files = [
        uploaded(tmp_path, "flawed.png", scene(5)),
        uploaded(tmp_path, "notes.txt", b"not an image"),
        uploaded(tmp_path, "broken.png", b"none"),
        uploaded(tmp_path, "flawed.png", scene(6), "b"),
    ]
    found = diagnose_uploads(workspace, files, tmp_path / "out")
    rows = {one.name: one for one in found.images}
    assert set(rows) == {"flawed.png", "flawed-2.png", "notes.txt", "broken.png"}
    assert rows["broken.png"].state == "refused" and "not a PNG" in rows["broken.png"].reason
    flawed = rows["flawed.png"]
    assert flawed.state == "flagged" and flawed.confidence is not None and flawed.regions >= 1
    assert flawed.original and flawed.overlay and flawed.original.is_file() and flawed.overlay.is_file()
    order = [one.confidence or 0.0 for one in found.images]
    assert order == sorted(order, reverse=True) and found.report.is_file()
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.images.count() == 1


def test_what_was_found_is_repaired(workspace: Workspace, tmp_path: Path) -> None:
    quick = RepairRun(
        generator="squares",
        repair=RepairConfig(draws=2, repeats=1),
        sampling=SamplingConfig(steps=2, batch=4),
    )
    file = uploaded(tmp_path, "a.png", scene(5))
    (one,) = repair_uploads(workspace, [file], tmp_path / "out", quick).images
    assert one.state == "repaired" and one.repaired is not None and one.repaired.is_file()
    assert one.confidence is not None and one.after is not None and one.after < one.confidence
    with Picture.open(one.repaired) as after:
        assert (np.asarray(after) != scene(5)).any()


@pytest.mark.parametrize("side", [10_000, 65_000])
def test_an_image_of_a_hundred_megapixels_is_refused_by_name(
    workspace: Workspace, tmp_path: Path, side: int
) -> None:
    huge = uploaded(tmp_path, "huge.png", png(side, side, 8, 2, b""))
    small = uploaded(tmp_path, "small.png", scene(5))
    rows = {one.name: one for one in diagnose_uploads(workspace, [huge, small], tmp_path / "out").images}
    assert rows["small.png"].state == "flagged"
    assert rows["huge.png"].state == "refused" and "pixels" in rows["huge.png"].reason
    with pytest.raises(InputRefused, match=r"no image could be diagnosed: huge\.png: .*pixels"):
        diagnose_uploads(workspace, [huge], tmp_path / "alone")


@pytest.mark.parametrize(
    ("kind", "options"), [("TIFF", {}), ("PNG", {"mode": "RGBA"}), ("BMP", {}), ("JPEG", {"turned": True})]
)
def test_what_is_shown_is_a_format_of_browsers(
    workspace: Workspace, tmp_path: Path, kind: str, options: dict
) -> None:
    picture = Picture.fromarray(scene(5))
    exif = Picture.Exif()
    if options.get("turned"):
        exif[274] = 6
    if mode := options.get("mode"):
        picture = picture.convert(mode)
    body = io.BytesIO()
    picture.save(body, kind, exif=exif) if options.get("turned") else picture.save(body, kind)
    file = uploaded(tmp_path, f"a.{kind.lower()}", body.getvalue())
    try:
        (one,) = diagnose_uploads(workspace, [file], tmp_path / "out").images
    except InputRefused as error:
        assert kind == "TIFF" and "convert it" in str(error)
        return
    assert one.original is not None and one.original.suffix in (".png", ".jpg", ".jpeg", ".bmp")
    with Picture.open(one.original) as shown:
        assert shown.format in ("PNG", "JPEG", "BMP") and shown.getexif().get(274, 1) == 1


def test_no_files_too_many_and_unknown_models_are_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = uploaded(tmp_path, "a.png", scene(5))
    with pytest.raises(InputRefused, match="no image was given"):
        diagnose_uploads(workspace, [], tmp_path / "1")
    monkeypatch.setattr(uploads, "MOST", 1)
    with pytest.raises(InputRefused, match="2 files were given, and this page takes 1"):
        diagnose_uploads(workspace, [file, file], tmp_path / "2")
    with pytest.raises(NotFound, match="gone"):
        diagnose_uploads(workspace, [file], tmp_path / "3", "gone")
    # A path is no id: a browser must not name files of the server.
    with pytest.raises(NotFound):
        diagnose_uploads(workspace, [file], tmp_path / "4", str(tmp_path))
    with pytest.raises(ConfigRefused, match="needs a generator"):
        repair_uploads(workspace, [file], tmp_path / "5", RepairRun())
