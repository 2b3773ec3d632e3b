"""Import datasets, export folders and snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.errors import InputRefused
from dataengine.records import Report, Source, no_report
from pipelines.exchange.public_sets import PUBLIC_SETS, PublicSet
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.exchange.importer import ImportResult
    from pipelines.exchange.writers.hub import HubExport
    from pipelines.exchange.writers.snapshot_folder import ExportResult


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """Where a dataset is, how it is read, and what is recorded with its images."""

    path: Path
    format: str = "folder"
    source: Source | None = None
    """Where all images come from; None for what the dataset states, else "generated"."""
    licence: str = ""
    prompts: Path | None = None
    """Table with file_name, prompt, seed, …; for format "folder" alone."""
    images: Path | None = None
    """Folder of the images, if the dataset contains none."""
    author: str = ""
    """Author of labels without an author."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Their class name → ours."""
    one_class: str = ""
    """Our class, for masks that know one class only."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column name → theirs."""
    config: str = ""
    """Configuration of a Hugging Face dataset that has several."""
    coordinates: str = ""
    """How the numbers of boxes are meant, where the dataset does not say."""
    clean: bool = False
    """Whether an image without annotation is free of artifacts."""
    partial: bool = False
    """Whether to keep what is left of a label of which a part was refused."""
    update: bool = False
    """Whether images that are known already get the dataset's prompts, seeds, categories and licences."""
    generator: str | None = None
    """Id of the registered generator that made the images."""
    validation: float = 0.15
    benchmark: float = 0.0
    """Shares of new groups that go to these splits."""


def import_data(
    workspace: Workspace, request: ImportRequest, dry_run: bool = False, report: Report = no_report
) -> "tuple[ImportResult, Path | None]":
    """Import a dataset: counts and refusals, and the CSV that lists every problem, if there is any.

    With `dry_run` everything is read and nothing is stored. Raises `InputRefused` when the dataset as a whole
    cannot be read; single images are refused by name.
    """
    from pipelines.exchange.formats import import_dataset, write_problems
    from pipelines.exchange.import_options import ImportOptions
    from pipelines.exchange.importer import Ingest, import_reading
    from pipelines.exchange.readers.folders import read_folder

    ingest = Ingest(
        source=request.source,
        licence=request.licence,
        generator_id=request.generator,
        validation=request.validation,
        benchmark=request.benchmark,
        partial=request.partial,
        update=request.update,
    )
    if request.prompts:
        if request.format != "folder":
            raise InputRefused("--prompts works only with --format folder; others contain their own prompts")
        if request.clean:
            raise InputRefused(
                "the format folder knows no annotations, so --clean would call every image clean"
            )
        reading = read_folder(request.path, request.prompts)
        found = import_reading(workspace, reading, ingest, trial=dry_run, report=report)
    else:
        wanted = ImportOptions(
            path=request.path,
            images=request.images,
            author=request.author,
            mapping=request.classes,
            one_class=request.one_class,
            columns=request.columns,
            config=request.config,
            coordinates=request.coordinates,
            clean=request.clean,
        )
        found = import_dataset(workspace, request.format, wanted, ingest, trial=dry_run, report=report)
    return found, None if dry_run else write_problems(workspace, found)


def public_sets() -> tuple[PublicSet, ...]:
    """The known public sets of labelled images, with the command that imports each."""
    return PUBLIC_SETS


def export_data(
    workspace: Workspace,
    folder: Path,
    format: str = "folder",
    *,
    only_labelled: bool = False,
    snapshot: str | None = None,
    pictures: bool = True,
    report: Report = no_report,
    **filters: Any,
) -> "ExportResult":
    """Write matching images, or exactly those of a snapshot, with their labels to a new or empty folder.

    A snapshot names its rows itself: filters do nothing then. Raises `InputRefused` for an unknown format and
    a folder that is not empty.
    """
    from pipelines.exchange.writers.snapshot_folder import export_folder

    return export_folder(
        workspace,
        folder,
        format=format,
        only_labelled=only_labelled,
        snapshot=snapshot,
        pictures=pictures,
        report=report,
        **filters,
    )


def export_snapshot(
    workspace: Workspace,
    snapshot_id: str,
    folder: Path,
    push_to: str | None = None,
    report: Report = no_report,
) -> "HubExport":
    """Write a snapshot as a Hugging Face dataset to a new folder; `push_to` (OWNER/NAME) uploads it as well.

    Raises `NotFound`, and `InputRefused` for a folder that is not empty or when the hub refuses.
    """
    from pipelines.exchange.writers.hub import export_snapshot

    return export_snapshot(workspace, snapshot_id, folder, push_to=push_to, report=report)
