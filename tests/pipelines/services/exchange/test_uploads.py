"""Uploads are imported as by `clinic import`; a closed tab, bad files, a full disk."""

import dataclasses
import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataengine import bounds
from dataengine.errors import AccessDenied, Conflict, InputRefused, NotFound, Unavailable
from dataengine.records import Endpoint, Upload, UploadedFile, UploadPart, now
from pipelines.services.exchange import uploads
from pipelines.services.exchange.datasets import ImportRequest, import_data
from pipelines.services.exchange.uploads import ImportSettings
from pipelines.worker.handlers import handler_of
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.faults import full_disk, small_disk, why_no_disk
from tests.pipelines.exchange.pictures import encoded, scene

OWNER = "cleo"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that tests copy, since migrations are slow."""
    path = tmp_path_factory.mktemp("template") / "workspace"
    create_workspace(path).close()
    return path


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Iterator[Workspace]:
    workspace = open_workspace(shutil.copytree(template, tmp_path / "workspace"))
    yield workspace
    workspace.close()


def picture(number: int) -> bytes:
    return encoded(scene(number))


def send(
    workspace: Workspace,
    upload: Upload,
    name: str,
    body: bytes,
    part: UploadPart = "images",
    piece: int = 1 << 20,
    sha256: str | None = None,
) -> dict:
    sha256 = hashlib.sha256(body).hexdigest() if sha256 is None else sha256
    file = UploadedFile(part=part, name=name, size=len(body), sha256=sha256)
    answer = {}
    for offset in range(0, len(body) or 1, piece):
        chunk = body[offset : offset + piece]
        answer = uploads.receive_piece(workspace, upload.id, OWNER, file, offset, chunk)
    return answer


def finish(workspace: Workspace, upload: Upload, **settings: object) -> Upload:
    return uploads.finish_upload(workspace, upload.id, OWNER, ImportSettings(**settings), wait=True)  # type: ignore[arg-type]


def images(workspace: Workspace) -> dict[str, str]:
    """SHA-256 by origin."""
    with workspace.catalog(read_only=True) as catalog:
        return {one.origin: one.sha256 for one in catalog.images.find()}


def test_an_upload_gives_what_import_of_the_same_folder_gives(
    workspace: Workspace, template: Path, tmp_path: Path
) -> None:
    """desks 1.2."""
    folder = tmp_path / "pictures"
    files = {f"{number}.png": picture(number) for number in range(3)}
    files |= {"deep/copy of 1.png": picture(1), "broken.jpg": b"no image", "report.pdf": b"%PDF-1.7 "}
    table = "file_name,prompt,seed\n0.png,a red hand,7\n"
    files["metadata.csv"] = table.encode()
    upload = uploads.start_upload(workspace, OWNER)
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
        assert send(workspace, upload, name, body, piece=1000)["complete"]
    done = finish(workspace, upload, licence="CC0")
    other = open_workspace(shutil.copytree(template, tmp_path / "other"))
    found, problems = import_data(other, ImportRequest(path=folder, licence="CC0"))
    assert done.state == "done" and images(workspace) == images(other)
    assert done.result["added"] == found.added == 3 and done.result["duplicates"] == found.duplicates == 1
    assert [(one["name"], one["reason"]) for one in done.result["refused"]] == list(map(tuple, found.refused))
    assert {"broken.jpg", "report.pdf"} == {one["name"] for one in done.result["refused"]}
    with workspace.catalog(read_only=True) as catalog:
        (told,) = catalog.images.find(origin="0.png")
    assert (told.prompt, told.seed, told.licence) == ("a red hand", 7, "CC0")
    assert problems is not None
    listed = uploads.problems_file(workspace, upload.id, OWNER).read_text()
    assert listed == problems.read_text()
    other.close()
    # The files went; what came of them can still be read.
    assert not workspace.uploads.path_of(upload.id, "images").exists()
    assert uploads.find_upload(workspace, upload.id, OWNER).result == done.result


def test_masks_belong_to_the_images_of_their_stem(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    mask = np.zeros((96, 128), np.uint8)
    mask[10:30, 20:60] = 255
    for number in range(3):
        send(workspace, upload, f"shots/{number}.jpg", encoded(scene(number), "JPEG"))
    send(workspace, upload, "shots/0.png", encoded(mask), "masks")
    send(workspace, upload, "shots/1_mask.png", encoded(mask), "masks")
    send(workspace, upload, "shots/9.png", encoded(mask), "masks")
    with workspace.catalog(read_only=True) as catalog:
        second = catalog.classes.names()[1]
    done = finish(workspace, upload, one_class=second)
    assert (done.result["added"], done.result["labels"]) == (3, 2)
    assert [one["name"] for one in done.result["refused"]] == ["shots/9.png"]


def test_an_archive_is_read_in_its_format(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    mask = np.zeros((96, 128), np.uint8)
    mask[:9, :9] = 1
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("set/images/a.png", picture(1))
        packed.writestr("set/masks/a.png", encoded(mask))
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "set.zip", path.read_bytes(), "archive")
    done = finish(workspace, upload, format="masks")
    assert (done.result["added"], done.result["labels"]) == (1, 1)
    beside = uploads.start_upload(workspace, OWNER)
    send(workspace, beside, "set.zip", path.read_bytes(), "archive")
    send(workspace, beside, "a.png", picture(1))
    with pytest.raises(InputRefused, match="on its own"):
        finish(workspace, beside)
    wrong = uploads.start_upload(workspace, OWNER)
    send(workspace, wrong, "set.zip", b"PK no zip at all", "archive")
    failed = finish(workspace, wrong, format="masks")
    assert failed.state == "open" and "set.zip" in failed.error


def test_a_closed_tab_goes_on_where_it_stood(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "0.png", picture(0))
    body = picture(1)
    file = UploadedFile(part="images", name="1.png", size=len(body), sha256="")
    half = uploads.receive_piece(workspace, upload.id, OWNER, file, 0, body[:700])
    assert half == {"received": 700, "complete": False}
    # A new tab sees the upload and what has arrived whole, and sends the rest again from its beginning.
    (seen,) = uploads.list_uploads(workspace, OWNER)
    whole = (upload.id, "open", 1, len(picture(0)))
    assert tuple(seen[name] for name in ("id", "state", "files", "bytes")) == whole
    (received,) = uploads.received_files(workspace, upload.id, OWNER)
    assert received["sha256"] == hashlib.sha256(picture(0)).hexdigest()
    with pytest.raises(Conflict, match="700 bytes have arrived"):
        uploads.receive_piece(workspace, upload.id, OWNER, file, 900, body[900:])
    assert send(workspace, upload, "1.png", body, piece=500)["complete"]
    assert send(workspace, upload, "0.png", picture(0)) == {"received": len(picture(0)), "complete": True}
    assert finish(workspace, upload).result["added"] == 2
    assert finish(workspace, upload).result["added"] == 2  # a repeated request starts nothing
    with pytest.raises(Conflict, match="start a new one"):
        send(workspace, upload, "2.png", picture(2))
    again = uploads.start_upload(workspace, OWNER)
    send(workspace, again, "0.png", picture(0))
    assert finish(workspace, again).result == {**finish(workspace, again).result, "added": 0, "duplicates": 1}


def test_a_discarded_upload_leaves_nothing(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "0.png", picture(0))
    with pytest.raises(AccessDenied, match="somebody else"):
        uploads.discard_upload(workspace, upload.id, "other")
    assert uploads.list_uploads(workspace, "other") == []
    uploads.discard_upload(workspace, upload.id, OWNER)
    assert not list(workspace.uploads.folder.iterdir()) and images(workspace) == {}
    for id in (upload.id, "../../etc", "upload-../x", ""):
        with pytest.raises(NotFound, match="discarded"):
            uploads.find_upload(workspace, id, OWNER)


def test_names_that_lead_elsewhere_are_refused(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    for name, reason in (
        ("../up.png", "hidden"),
        ("a/../../up.png", "hidden"),
        ("/etc/passwd", "empty part"),
        ("a//b.png", "empty part"),
        (".hidden.png", "hidden"),
        ("folder/.DS_Store", "hidden"),
        ("back\\slash.png", "backslash"),
        ("line\nbreak.png", "control character"),
        ("x" * 300 + ".png", "240 bytes"),
        ("ü" * 130 + ".png", "240 bytes"),
        ("d/" * 20 + "a.png", "16 folders"),
    ):
        with pytest.raises(InputRefused, match=reason):
            send(workspace, upload, name, picture(0))
    assert not workspace.uploads.files(upload.id)


def test_sizes_and_hashes_are_what_was_announced(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    with pytest.raises(InputRefused, match="empty"):
        send(workspace, upload, "0.png", b"")
    with pytest.raises(Conflict, match="changed while it was sent"):
        send(workspace, upload, "0.png", picture(0), sha256="0" * 64)
    with pytest.raises(InputRefused, match=r"no \.zip"):
        send(workspace, upload, "data.rar", b"Rar!", "archive")
    for part, sha256 in (("videos", ""), ("images", "abc"), ("images", "../x")):
        with pytest.raises(InputRefused, match="no part of an upload"):
            send(workspace, upload, "0.png", b"x", part, sha256=sha256)  # type: ignore[arg-type]
    huge = UploadedFile(part="images", name="huge.png", size=bounds.IMAGE_BYTES + 1, sha256="")
    with pytest.raises(InputRefused, match="at most 134,217,728"):
        uploads.receive_piece(workspace, upload.id, OWNER, huge, 0, b"x")
    file = UploadedFile(part="images", name="0.png", size=5, sha256="")
    with pytest.raises(Conflict, match="changed while"):
        uploads.receive_piece(workspace, upload.id, OWNER, file, 0, b"123456")
    monkeypatch.setattr(uploads, "UPLOAD_FILES", 1)
    send(workspace, upload, "0.png", picture(0))
    with pytest.raises(InputRefused, match="at most 1 files"):
        send(workspace, upload, "1.png", picture(1))
    with pytest.raises(Conflict, match="no image has arrived"):
        finish(workspace, uploads.start_upload(workspace, OWNER))
    with pytest.raises(InputRefused, match="too much for one upload"):
        uploads.start_upload(workspace, OWNER, bounds.UPLOAD_BYTES + 1)
    with pytest.raises(Unavailable, match="free"):
        monkeypatch.setattr(uploads, "UPLOAD_BYTES", 2**60)
        uploads.start_upload(workspace, OWNER, 2**59)


def test_a_file_that_was_damaged_on_the_disk_is_asked_for_again(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    for number in range(2):
        send(workspace, upload, f"{number}.png", picture(number))
    workspace.uploads.path_of(upload.id, "images", "1.png").write_bytes(b"\0" * 10)
    with pytest.raises(Conflict, match=r"1 files did not arrive whole \(1.png"):
        finish(workspace, upload)
    assert [one["name"] for one in uploads.received_files(workspace, upload.id, OWNER)] == ["0.png"]
    send(workspace, upload, "1.png", picture(1))
    assert finish(workspace, upload).result["added"] == 2


def test_an_import_whose_server_ended_can_be_repeated(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "0.png", picture(0))
    running = dataclasses.replace(upload, state="importing", beat=now())
    workspace.uploads.save(running)
    with pytest.raises(Conflict, match="already"):
        finish(workspace, upload)
    with pytest.raises(Conflict, match="wait until"):
        uploads.discard_upload(workspace, upload.id, OWNER)
    workspace.uploads.save(dataclasses.replace(running, beat=now() - 60))
    assert uploads.list_uploads(workspace, OWNER)[0]["state"] == "interrupted"
    assert finish(workspace, upload).result["added"] == 1


def test_old_uploads_go(workspace: Workspace) -> None:
    old = uploads.start_upload(workspace, OWNER)
    workspace.uploads.save(dataclasses.replace(old, created=now() - 15 * 86_400))
    new = uploads.start_upload(workspace, OWNER)
    assert [one.id for one in workspace.uploads.list()] == [new.id]


def test_settings_that_fit_no_dataset_are_refused(workspace: Workspace) -> None:
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "a.png", picture(0))
    for settings, reason in (
        ({"validation": 0.7, "benchmark": 0.5}, "exceed 100 %"),
        ({"classes": {"": "x"}}, "1 to 200"),
    ):
        with pytest.raises(InputRefused, match=reason):
            finish(workspace, upload, **settings)
    failed = finish(workspace, upload, clean=True)
    assert failed.state == "open" and "free of artifacts" in failed.error
    assert finish(workspace, upload).result["added"] == 1


@pytest.mark.skipif(bool(why_no_disk()), reason=str(why_no_disk()))
def test_a_full_disk_keeps_what_arrived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 48) as disk:
        workspace = create_workspace(disk / "workspace")
        upload = Upload(id="upload-small", owner=OWNER)
        workspace.uploads.add(upload)
        send(workspace, upload, "0.png", picture(0))
        noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
        with full_disk(disk), pytest.raises(Unavailable, match="is full"):
            send(workspace, upload, "1.png", encoded(noise))
        assert send(workspace, upload, "1.png", encoded(noise))["complete"]
        assert finish(workspace, upload).result["added"] == 2
        workspace.close()


def test_a_registered_folder_is_imported_by_a_worker(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "renders"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(4))
    (folder / "b.png").write_bytes(b"no")
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="f", kind="folder", name="renders", location=str(folder)))
        catalog.endpoints.add(Endpoint(id="g", kind="generator", name="g", location="owner/name"))
        catalog.commit()
    with pytest.raises(InputRefused, match="choose a registered folder"):
        uploads.request_folder_import(workspace, "g", ImportSettings(), OWNER)
    with pytest.raises(NotFound):
        uploads.request_folder_import(workspace, "/etc", ImportSettings(), OWNER)
    with pytest.raises(InputRefused, match="no format"):
        uploads.request_folder_import(workspace, "f", ImportSettings(format="exe"), OWNER)
    job = uploads.request_folder_import(workspace, "f", ImportSettings(licence="CC0"), OWNER)
    from pipelines.runtime.context import Context
    from pipelines.runtime.models import real_models

    found = handler_of("import")(Context(workspace, real_models("cpu")), job.args)
    assert (found["added"], found["refusals"], found["refused"][0]["name"]) == (1, 1, "b.png")
    # As earlier versions asked for it.
    before = {"path": str(folder), "source": "real", "licence": ""}
    assert handler_of("import")(Context(workspace, real_models("cpu")), before)["duplicates"] == 1


def test_the_demo_goes_into_an_empty_workspace_alone(workspace: Workspace) -> None:
    assert uploads.request_demo(workspace, OWNER).kind == "demo"
    upload = uploads.start_upload(workspace, OWNER)
    send(workspace, upload, "a.png", picture(0))
    finish(workspace, upload)
    with pytest.raises(Conflict, match="has images already"):
        uploads.request_demo(workspace, OWNER)
