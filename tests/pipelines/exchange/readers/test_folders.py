"""Import: every file is added, known already or refused by name; nothing outside of the folder is read."""

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine.errors import Cancelled, InputRefused, WorkspaceUnusable
from dataengine.records import Image, prompt_group
from pipelines.exchange.readers.folders import import_folder
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.pipelines.exchange import pictures
from tests.storage.test_workspace import mounted, remount


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = create_workspace(tmp_path / "w", blob_url=f"memory://{uuid.uuid4().hex}")
    yield workspace
    workspace.close()


@pytest.fixture
def any_workspace(catalog_url: str, tmp_path: Path) -> Iterator[Workspace]:
    """On SQLite and on PostgreSQL."""
    blobs = f"memory://{uuid.uuid4().hex}"
    workspace = create_workspace(tmp_path / "w", database_url=catalog_url, blob_url=blobs)
    yield workspace
    workspace.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def fill(folder: Path, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        (folder / f"{number:04d}.png").write_bytes(pictures.encoded(pictures.scene(number)))


def stored(workspace: Workspace) -> dict[str, Image]:
    with workspace.catalog(read_only=True) as catalog:
        return {image.origin: image for image in catalog.images.find()}


def test_good_and_bad_files_side_by_side(workspace: Workspace, folder: Path) -> None:
    good, bad = pictures.good_files(), pictures.bad_files()
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    result = import_folder(workspace, folder, licence="CC0", generator_id="model")
    assert result.added == len(good) and result.duplicates == 0
    refused = dict(result.refused)
    assert refused.keys() == bad.keys()
    for name, (_, reason) in bad.items():
        assert re.search(reason, refused[name])
    for name, image in stored(workspace).items():
        assert workspace.blobs.get(image.sha256) == good[name], "the original is kept untouched"
        assert image.thumbnail is not None and workspace.blobs.get(image.thumbnail)[:2] == b"\xff\xd8"
        assert (image.licence, image.generator_id, image.source) == ("CC0", "model", "generated")
    assert (stored(workspace)["turned.jpg"].height, stored(workspace)["turned.jpg"].width) == (128, 96)


def test_importing_again_adds_nothing(any_workspace: Workspace, folder: Path) -> None:
    fill(folder, 6)
    (folder / "copy.png").write_bytes((folder / "0000.png").read_bytes())
    first = import_folder(any_workspace, folder)
    assert (first.added, first.duplicates) == (6, 1)
    before = stored(any_workspace)
    assert import_folder(any_workspace, folder).duplicates == 7
    fill(folder, 2, first=6)
    assert import_folder(any_workspace, folder).added == 2
    assert {name: stored(any_workspace)[name] for name in before} == before


def test_a_stopped_import_goes_on(workspace: Workspace, folder: Path) -> None:
    fill(folder, 80)
    seen: list[int] = []

    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        seen.append(done)
        assert total == 80 and "added" in message
        if done >= 32:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        import_folder(workspace, folder, report=stop)
    assert len(stored(workspace)) == 32 and seen == [0, 32]
    result = import_folder(workspace, folder)
    assert (result.added, result.duplicates) == (48, 32)


def test_sidecars_and_table(workspace: Workspace, folder: Path) -> None:
    fill(folder, 6)
    (folder / "sub").mkdir()
    (folder / "sub" / "x.png").write_bytes(pictures.encoded(pictures.scene(50)))
    (folder / "0000.txt").write_text("a hand\n", encoding="utf-8")
    (folder / "0001.json").write_text(
        json.dumps(
            {"prompt": "ein Gesicht – größer", "seed": 7, "settings": {"steps": 4}, "generator": "flux"}
        )
    )
    (folder / "0002.json").write_text('{"prompt": 5}')
    (folder / "0003.json").write_text('{"settings": {"guidance": NaN}}')
    (folder / "lonely.txt").write_text("nobody")
    (folder / "metadata.csv").write_text(
        "file_name,prompt,seed,category\n0004.png,a mug,12,mug\nsub/x.png,a sign,,sign\n"
        "0005.png,a house,minus one,\n../../etc/passwd,evil,,\n"
    )
    result = import_folder(workspace, folder)
    found = stored(workspace)
    assert found["0000.png"].prompt == "a hand" and found["0000.png"].seed is None
    one = found["0001.png"]
    assert (one.prompt, one.seed, one.settings) == ("ein Gesicht – größer", 7, {"steps": 4})
    assert one.generator_id == "flux" and one.group == prompt_group(one.prompt, 7)
    assert (found["0004.png"].prompt, found["0004.png"].seed, found["0004.png"].category) == (
        "a mug",
        12,
        "mug",
    )
    assert found["sub/x.png"].prompt == "a sign"
    refused = dict(result.refused)
    assert refused.keys() == {"0002.png", "0003.png", "lonely.txt", "../../etc/passwd"}
    assert "0002.json" in refused["0002.png"] and "NaN" in refused["0003.png"]
    assert found["0002.png"].prompt == found["0003.png"].prompt == "", "other tools' files cost no image"
    assert (found["0005.png"].prompt, found["0005.png"].seed) == ("a house", None)


def test_nothing_outside_of_the_folder_is_read(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "private.png").write_bytes(pictures.encoded(pictures.scene(30)))
    (secret / "prompt.txt").write_text("the secret")
    fill(folder, 1)
    (folder / "link.png").symlink_to(secret / "private.png")
    (folder / "away").symlink_to(secret)
    (folder / "0000.txt").symlink_to(secret / "prompt.txt")
    os.mkfifo(folder / "pipe.png")
    result = import_folder(workspace, folder)
    assert result.added == 1 and stored(workspace)["0000.png"].prompt == ""
    assert set(dict(result.refused)) == {"link.png", "away", "0000.txt", "pipe.png", "0000.png"}
    assert "sidecar 0000.txt" in dict(result.refused)["0000.png"]


def test_near_duplicates_share_a_group_and_its_split(workspace: Workspace, folder: Path) -> None:
    for number in range(30):
        pixels = pictures.scene(number, 192, 256)
        (folder / f"{number:02d}_original.jpg").write_bytes(pictures.encoded(pixels, "JPEG", quality=95))
        (folder / f"{number:02d}_small.jpg").write_bytes(
            pictures.encoded(pixels[::2, ::2], "JPEG", quality=60)
        )
    assert import_folder(workspace, folder, source="real", validation=0.3).added == 60
    found = stored(workspace)
    groups = {found[f"{n:02d}_original.jpg"].group for n in range(30)}
    assert len(groups) == 30
    for number in range(30):
        original, small = found[f"{number:02d}_original.jpg"], found[f"{number:02d}_small.jpg"]
        assert (original.group, original.split) == (small.group, small.split)
    assert {image.split for image in found.values()} == {"train", "validation"}


def test_a_split_once_decided_stays(any_workspace: Workspace, folder: Path) -> None:
    """Further drawings of one prompt and seed join their group's split, whatever shares are asked for."""
    fill(folder, 10)
    for number in range(10):
        (folder / f"{number:04d}.json").write_text(json.dumps({"prompt": "a hand", "seed": number}))
    import_folder(any_workspace, folder, validation=0.0)
    later = folder.parent / "later"
    later.mkdir()
    for number in range(10):
        (later / f"twin{number}.png").write_bytes(pictures.encoded(pictures.scene(100 + number)))
        (later / f"twin{number}.json").write_text(json.dumps({"prompt": "a hand", "seed": number}))
    (later / "new.json").write_text(json.dumps({"prompt": "a face", "seed": 1}))
    (later / "new.png").write_bytes(pictures.encoded(pictures.scene(200)))
    import_folder(any_workspace, later, validation=0.99)
    found = stored(any_workspace)
    assert {found[f"twin{n}.png"].split for n in range(10)} == {"train"}
    assert found["new.png"].split == "validation"


def test_one_picture_a_named_table_and_nothing(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    fill(folder, 1)
    table = tmp_path / "prompts.csv"
    table.write_text("file,prompt\n0000.png,a tree\n")
    assert import_folder(workspace, folder / "0000.png", prompts=table).added == 1
    assert stored(workspace)["0000.png"].prompt == "a tree"
    with pytest.raises(InputRefused, match="no folder or image"):
        import_folder(workspace, tmp_path / "absent")
    for content in ("name,prompt\nx,y\n", "\xff\xfe"):
        table.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputRefused, match=r"table|file_name"):
            import_folder(workspace, folder, prompts=table)


def test_a_full_disk_during_an_import_then_more_room(tmp_path: Path, folder: Path) -> None:
    for number in range(60):
        noise = os.urandom(60_000)
        (folder / f"{number:03d}.bmp").write_bytes(
            pictures.encoded(pictures.scene(number, 128, 156), "BMP") + noise
        )
    with mounted(tmp_path / "disk", "size=3m") as disk:
        workspace = create_workspace(disk / "w")
        with pytest.raises(WorkspaceUnusable, match="is full"):
            import_folder(workspace, folder)
        for image in stored(workspace).values():
            workspace.blobs.get(image.sha256)
        remount(disk, "size=64m")
        result = import_folder(workspace, folder)
        assert result.added + result.duplicates == 60 and len(stored(workspace)) == 60
        assert all(workspace.blobs.get(image.sha256) for image in stored(workspace).values())
        workspace.close()


def test_names_that_are_no_text(workspace: Workspace, folder: Path) -> None:
    name = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(pictures.encoded(pictures.scene(1)))
    except OSError:
        pytest.skip("this file system takes only names that are text")
    assert import_folder(workspace, folder).added == 1
    assert list(stored(workspace)) == ["caf?.png"]


def test_pictures_of_other_makers(shared_data: Path, workspace: Workspace) -> None:
    result = import_folder(workspace, shared_data / "generated", licence="see its README")
    assert not result.refused and result.added == len(list((shared_data / "generated").iterdir()))
    found = stored(workspace)
    for number in (1, 2):
        marked = found[f"diffdoctor_test{number}_published_overlay.png"]
        assert found[f"diffdoctor_test{number}.png"].group == marked.group
    assert len({image.group for name, image in found.items() if name.startswith("sd1_")}) == 36
