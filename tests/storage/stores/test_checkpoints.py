"""Checkpoints: the same content is the same id; a fetched copy is whole or absent; scratch survives."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from dataengine.errors import Corrupt, InputRefused, NotFound
from storage.stores.blobs import Blobs
from storage.stores.checkpoints import Checkpoints


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "encoder").mkdir(parents=True)
    (folder / "detector.json").write_text('{"architecture": "segformer"}')
    (folder / "encoder" / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder


@pytest.fixture(params=["local", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    where = tmp_path / "blobs" if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return Checkpoints(Blobs(where), tmp_path / "checkpoints")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_publish_and_fetch(checkpoints: Checkpoints, model: Path) -> None:
    name = checkpoints.publish(model)
    assert checkpoints.publish(model) == name
    copy = checkpoints.fetch(name)
    assert contents(copy) == contents(model) and copy != model
    assert all(not p.stat().st_mode & 0o222 for p in copy.rglob("*") if p.is_file())
    assert checkpoints.fetch(name) == copy
    (model / "detector.json").write_text("{}")
    assert checkpoints.publish(model) != name
    assert [file.path for file in checkpoints.files(name)] == ["detector.json", "encoder/model.safetensors"]


def test_a_local_copy_that_lost_a_file_is_fetched_again(checkpoints: Checkpoints, model: Path) -> None:
    name = checkpoints.publish(model)
    copy = checkpoints.fetch(name)
    (copy / "detector.json").unlink()
    assert contents(checkpoints.fetch(name)) == contents(model)
    checkpoints.forget(name)
    assert not copy.exists() and contents(checkpoints.fetch(name)) == contents(model)
    assert [p.name for p in checkpoints.folder.iterdir()] == [name]


def test_damage_never_reaches_a_copy(checkpoints: Checkpoints, model: Path) -> None:
    name = checkpoints.publish(model)
    weights = checkpoints.files(name)[1].sha256
    key = f"{checkpoints.blobs.root}/{weights[:2]}/{weights}"
    checkpoints.blobs.fs.pipe_file(key, b"\0" * 25600)
    with pytest.raises(Corrupt):
        checkpoints.fetch(name)
    assert not list(checkpoints.folder.iterdir())


def test_what_is_no_checkpoint_is_refused(checkpoints: Checkpoints, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no file"):
        checkpoints.publish(tmp_path / "nothing")
    (model / "link").symlink_to(tmp_path)
    with pytest.raises(InputRefused, match="not a plain file"):
        checkpoints.publish(model)
    for data in (b"pixels", b"[]", json.dumps({"files": [{"path": "x"}]}).encode()):
        with pytest.raises(NotFound):
            checkpoints.fetch(checkpoints.blobs.put(data))
    for path in ("../outside", "/etc/passwd", "a/../../b"):
        manifest = {"files": [{"path": path, "sha256": checkpoints.blobs.put(b"x"), "size": 1}]}
        with pytest.raises(Corrupt, match="outside"):
            checkpoints.fetch(checkpoints.blobs.put(json.dumps(manifest).encode()))
    with pytest.raises(NotFound):
        checkpoints.fetch("../../etc")


def test_scratch_survives_until_it_is_discarded(checkpoints: Checkpoints) -> None:
    scratch = checkpoints.pending("round-1/retrain")
    (scratch / "step-100.safetensors").write_bytes(b"weights")
    again = Checkpoints(checkpoints.blobs, checkpoints.folder).pending("round-1/retrain")
    assert again == scratch and (again / "step-100.safetensors").read_bytes() == b"weights"
    assert checkpoints.pending("../../round-1").parent == scratch.parent
    checkpoints.discard("round-1/retrain")
    assert not scratch.exists() and not list(checkpoints.pending("round-1/retrain").iterdir())
    checkpoints.discard("never was")


def test_a_kill_while_fetching_leaves_no_half_copy(tmp_path: Path, model: Path) -> None:
    blobs = tmp_path / "blobs"
    checkpoints = Checkpoints(Blobs(blobs), tmp_path / "checkpoints")
    name = checkpoints.publish(model)
    code = (
        "import os, sys; from pathlib import Path; from storage.stores.blobs import Blobs;"
        "from storage.stores.checkpoints import Checkpoints; import storage.stores.checkpoints as module;"
        "module._move_into_place = lambda *a: os.kill(os.getpid(), 9);"
        "Checkpoints(Blobs(sys.argv[1]), Path(sys.argv[2])).fetch(sys.argv[3])"
    )
    command = [sys.executable, "-c", code, str(blobs), str(checkpoints.folder), name]
    assert subprocess.run(command, check=False).returncode == -9
    assert not (checkpoints.folder / name).exists()
    assert contents(checkpoints.fetch(name)) == contents(model)
