"""The drill: a backup under load, restored elsewhere with the old path gone, and a round finished there."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.masks import pack_label_map
from dataengine.records import FILES, GeneratorVersion, Label
from pipelines.round import ROUND
from pipelines.runtime.context import Context
from pipelines.services.admin.maintenance import back_up, restore_backup
from storage.opening import open_workspace
from storage.tables import metadata
from storage.workspace import Workspace
from tests import fakes
from tests.pipelines.conftest import fresh_context, play

Acknowledged = list[tuple[str, str]]
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Drill:
    """What was found: each list is empty if all is well."""

    lost: list[tuple[str, str]]
    """Labels that were acknowledged before the backup and are not in the restored workspace."""
    other_rows: list[str]
    """Tables of the quiet backup with other rows than the original."""
    other_blobs: list[str]
    unfinished: list[str]
    """Stages that were not run in the restored workspace."""
    acknowledged: int
    rows: int
    blobs: int

    @property
    def passed(self) -> bool:
        return not (self.lost or self.other_rows or self.other_blobs or self.unfinished)


def drill(folder: Path, seconds: float = 0.5) -> Drill:
    """Run it in an empty folder, with a person who submits for `seconds` before the backup, and during it."""
    context, round_id = fresh_context(folder / "old")
    workspace = context.workspace
    add_local_generator(workspace)
    play(Context(workspace, models_of(workspace)), round_id, until="wait_for_labels")
    with labelling(workspace) as acknowledged:
        time.sleep(seconds)
        before = list(acknowledged)
        loaded = back_up(workspace, folder / "loaded.tar")
    quiet = back_up(workspace, folder / "quiet.tar")
    workspace.close()
    (folder / "old").rename(folder / "gone")

    _, restored = restore_backup(loaded.path, folder / "new")
    with restored.catalog(read_only=True) as catalog:
        labels = catalog.labels.of_images({image for image, _ in before})
        known = {(label.image_id, label.author) for label in labels}
    play(Context(restored, models_of(restored)), round_id)
    with restored.catalog(read_only=True) as catalog:
        done = catalog.rounds.get(round_id)
    unfinished = [stage.name for stage in ROUND if stage.name not in done.results]
    restored.close()

    _, same = restore_backup(quiet.path, folder / "same")
    original = open_workspace(folder / "gone")
    theirs, ours = everything(original), everything(same)
    found = Drill(
        lost=[one for one in before if one not in known],
        other_rows=[name for name in theirs if theirs[name] != ours[name]],
        other_blobs=sorted(blobs_of(original) - blobs_of(same)),
        unfinished=unfinished if done.state == "done" else [*unfinished, done.state],
        acknowledged=len(before),
        rows=sum(map(len, theirs.values())),
        blobs=len(blobs_of(original)),
    )
    original.close()
    same.close()
    return found


def add_local_generator(workspace: Workspace) -> None:
    """A generator in the workspace's folder, which a round uses as well."""
    folder = workspace.path / "models" / "local"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(bytes(range(256)))
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="local", name="local", location=str(folder), created=1.0))
        catalog.commit()


def models_of(workspace: Workspace) -> fakes.FakeModels:
    """Fakes that open a local generator only from files below the workspace's own folder."""
    models = fakes.fake_models()

    def open_generator(location: str, lora: Path | None, weights: Any) -> fakes.TinyGenerator:
        if location != "squares":
            assert Path(location).is_relative_to(workspace.path), location
            assert (Path(location) / WEIGHTS).read_bytes() == bytes(range(256))
        return fakes.TinyGenerator(treated=lora is not None)

    fakes.replace_methods(models, open_generator=open_generator)
    return models


@contextmanager
def labelling(workspace: Workspace) -> Iterator[Acknowledged]:
    """A thread that submits labels until the block ends, and what was acknowledged to it."""
    acknowledged: Acknowledged = []
    ending = threading.Event()
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source="real", split="train")

    def work() -> None:
        number = 0
        while not ending.is_set():
            image, author = images[number % len(images)], f"person{number // len(images)}"
            label_map = np.zeros((image.height, image.width), np.uint8)
            label_map.flat[: 1 + number % label_map.size] = 1
            blob = workspace.blobs.put(pack_label_map(label_map))
            label = Label(
                image_id=image.id, author=author, height=image.height, width=image.width, label_map=blob
            )
            with workspace.catalog() as catalog:
                catalog.labels.submit(label)
                catalog.commit()
            acknowledged.append((image.id, author))
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield acknowledged
    finally:
        ending.set()
        thread.join(30)


def everything(workspace: Workspace) -> dict[str, list[str]]:
    """Every row of every table, paths below the workspace as such; without where a machine that lacks a
    generator's folder fetches its files, which only a backup adds."""
    with workspace.catalog(read_only=True) as catalog:
        rows = {
            table.name: [dict(row) for row in catalog.connection.execute(table.select()).mappings()]
            for table in metadata.sorted_tables
        }
    for row in rows["generators"]:
        row["settings"] = {name: value for name, value in row["settings"].items() if name != FILES}
    home = str(workspace.path)
    return {name: sorted(repr(row).replace(home, "HOME") for row in found) for name, found in rows.items()}


def blobs_of(workspace: Workspace) -> set[str]:
    """The blobs whose content matches their name."""
    return {blob.sha256 for blob in workspace.blobs.stored() if workspace.blobs.get(blob.sha256)}
