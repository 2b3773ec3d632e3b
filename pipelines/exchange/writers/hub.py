"""Export a snapshot as a Hugging Face dataset: Parquet shards and a dataset card, optionally uploaded."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataengine.errors import InputRefused
from dataengine.records import Report, no_report
from pipelines.exchange.writers.snapshot_folder import NewFolder
from storage.stores.snapshots import SnapshotExport
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class HubExport:
    """The folder with `data/*.parquet` and README.md, numbers of rows and of rows erased since, the hub's
    URL."""

    folder: Path
    rows: int
    erased: int
    url: str = ""


def export_snapshot(
    workspace: Workspace,
    snapshot_id: str,
    folder: str | Path,
    *,
    push_to: str | None = None,
    report: Report = no_report,
) -> HubExport:
    """Write a snapshot to a new folder that `datasets.load_dataset` opens; `push_to` also uploads it.

    Raises `NotFound` for an unknown snapshot, `InputRefused` if the folder exists or the upload fails.
    """
    shards = workspace.snapshots.export(snapshot_id, report=report)
    with NewFolder(folder) as fresh:
        (fresh / "data").mkdir()
        for shard in shards.shards:
            shutil.copyfile(shard, fresh / "data" / shard.name.replace("data-", "train-"))
        (fresh / "README.md").write_text(dataset_card(workspace, snapshot_id, shards), encoding="utf-8")
    target = Path(folder).absolute()
    url = push_folder(target, push_to, "dataset") if push_to else ""
    return HubExport(folder=target, rows=shards.rows, erased=shards.erased, url=url)


def dataset_card(workspace: Workspace, snapshot_id: str, shards: SnapshotExport) -> str:
    """The dataset card: composition, classes, licences, lineage, and how to load it."""
    with workspace.catalog(read_only=True) as catalog:
        snapshot = catalog.snapshots.get(snapshot_id)
        classes = catalog.classes.names()
        ids = {item.image_id for item in catalog.snapshots.items(snapshot_id)}
        licences = Counter(image.licence or "not stated" for image in catalog.images.get_many(sorted(ids)))
    head = {
        "license": "other",
        "task_categories": ["image-segmentation"],
        "tags": ["artifact-clinic", "generated images", "artifacts"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
        ],
    }
    parts = "\n".join(f"| {name} | {count} |" for name, count in snapshot.composition.items())
    terms = "\n".join(f"| {name} | {count} |" for name, count in licences.most_common())
    values = ", ".join(f"{number} {name}" for number, name in enumerate(classes, start=1))
    # JSON is YAML, and quotes what a name could break.
    lines = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items())
    return f"""---
{lines}
---

# Training set {snapshot_id[:12]}

Images with pixel-level artifact labels, published by Artifact Clinic. {shards.rows} rows\
{f", {shards.erased} erased since" if shards.erased else ""}.

`image` is the original file. `label_map` is a PNG of class numbers (0 nothing, {values}); it is all 0 where
an image is free of artifacts, and null where the target is `confidence_map`, a detector's 8-bit confidence.
`split` was decided at ingest, by group; nothing here is of the benchmark.

## Composition

| split/kind | rows |
|---|---|
{parts}

## Licences of the images

| licence | images |
|---|---|
{terms}

## Lineage

Snapshot `{snapshot_id}` (SHA-256 of its sorted row hashes), parent {snapshot.parent or "none"}, \
round {snapshot.round_id or "none"}.

    datasets.load_dataset("PATH_OR_NAME", split="train")
"""


def push_folder(folder: Path, repository: str, kind: Literal["dataset", "model"]) -> str:
    """Upload a folder to the hub, into a repository (OWNER/NAME) that is private if it is new; the upload's
    URL. Raises `InputRefused` when the hub refuses."""
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(repository, repo_type=kind, exist_ok=True, private=True)
        return str(hub.upload_folder(folder_path=folder, repo_id=repository, repo_type=kind))
    except Exception as error:  # its exceptions share no base class
        raise InputRefused(
            f"written to {folder}, but the hub refused {repository!r}: {error}. Check `hf auth login` and "
            "the name, then repeat the command, an export into another folder"
        ) from None
