"""Workspaces that an older commit left, put back with what their archive leaves out."""

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

from dataengine.clinic.parts import materialise
from dataengine.diagnosis.detector import WEIGHTS_FILE
from pipelines.demo.data import CHAMPION, GENERATOR
from storage.stores.blobs import Blobs
from tests.compat.surface import PLACEHOLDER

ARCHIVE = Path(__file__).with_name("workspaces.tar.xz")


def restore(name: str, path: Path) -> Path:
    """The workspace "finished" or "stopped" in the new folder `path`, as the older commit left it.

    Only the folder's own path in the catalog is another one, and trained detectors have the first detector's
    weights under the settings that they were stored with.
    """
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            inside = member.name.removeprefix(f"{name}/")
            if inside != member.name or inside.startswith("blobs/"):
                archive.extract(member.replace(name=inside), path, filter="data")
    materialise("flux", path / "models" / GENERATOR)
    first = materialise("first_doctor", path / "models" / CHAMPION)
    with closing(sqlite3.connect(path / "catalog.sqlite")) as catalog, catalog:
        catalog.execute("UPDATE generators SET location = replace(location, ?, ?)", (PLACEHOLDER, str(path)))
        for (checkpoint,) in catalog.execute("SELECT DISTINCT checkpoint FROM detectors").fetchall():
            weighted = with_weights(Blobs(str(path / "blobs")), checkpoint, first / WEIGHTS_FILE)
            catalog.execute(
                "UPDATE detectors SET checkpoint = ? WHERE checkpoint = ?", (weighted, checkpoint)
            )
    return path


def with_weights(blobs: Blobs, checkpoint: str, weights: Path) -> str:
    """The id of a checkpoint with the stored one's other files and these weights."""
    manifest = json.loads(blobs.get(checkpoint))
    for file in manifest["files"]:
        if file["path"] == WEIGHTS_FILE:
            file |= {"sha256": blobs.put_file(weights), "size": weights.stat().st_size}
    return blobs.put(json.dumps(manifest, sort_keys=True).encode())
