"""Uploads by a browser: files arrive one by one and are then imported as `clinic import` does.

Importing runs in a thread of the server, which holds the files; a worker may be on another machine. It is
safe to kill: what was imported stays, and importing the same upload again does the rest.
"""

import re
import shutil
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from dataengine.bounds import (
    IMAGE_BYTES,
    UPLOAD_ARCHIVE,
    UPLOAD_BYTES,
    UPLOAD_DEPTH,
    UPLOAD_FILES,
    UPLOAD_NAME,
    UPLOAD_PIECE,
)
from dataengine.errors import AccessDenied, ClinicError, Conflict, InputRefused, NotFound, Unavailable
from dataengine.records import AuditEvent, Job, Source, Upload, UploadedFile, UploadPart, now
from pipelines.exchange.formats import BOX_COORDINATES, FORMATS
from pipelines.services.exchange.datasets import ImportRequest, import_data
from pipelines.services.jobs import request_job
from pipelines.services.queue import fresh_id
from pipelines.services.schemas import Name, RequestBody
from storage.workspace import Workspace

PARTS: tuple[UploadPart, ...] = get_args(UploadPart)
ID = re.compile(r"upload-[\w-]{1,60}")
SHA256 = re.compile(r"([0-9a-f]{64})?")
KEPT_SECONDS = 14 * 24 * 3600.0
"""Age at which an upload that nobody finished is deleted, and what a finished one gave is forgotten."""
SILENT_SECONDS = 30.0
"""Without a sign of life for this long, an import has ended with its server."""
BEAT_SECONDS = 1.0
RESERVE = 512 * 2**20
"""Bytes of disk that an upload leaves free."""
SHOWN_PROBLEMS = 500
ARCHIVE_FORMATS = tuple(name for name in FORMATS if name != "richhf")
"""Formats that one archive may hold; RichHF-18K comes apart from its images."""


class ImportSettings(RequestBody):
    """What is recorded with imported images, and how labels are read."""

    format: str = Field(default="folder", max_length=40)
    source: Source | None = None
    licence: str = Field(default="", max_length=200)
    generator: Name | None = None
    one_class: str = Field(default="", max_length=200)
    classes: dict[str, str] = Field(default={}, max_length=200)
    coordinates: str = Field(default="", max_length=20)
    clean: bool = False
    partial: bool = False
    update: bool = False
    validation: float = Field(default=0.15, ge=0, le=1)
    benchmark: float = Field(default=0.0, ge=0, le=1)

    def request(self, path: Path, format: str) -> ImportRequest:
        """The import of a dataset at `path`. Raises `InputRefused` for an unknown format or classes."""
        if format not in FORMATS:
            raise InputRefused(f"there is no format {format!r}; formats are {', '.join(FORMATS)}")
        if self.validation + self.benchmark > 1:
            raise InputRefused("the shares for validation and benchmark together exceed 100 %")
        if any(not 0 < len(word) <= 200 for pair in self.classes.items() for word in pair):
            raise InputRefused("a class name has 1 to 200 characters")
        return ImportRequest(path=path, **self.model_dump(exclude={"format"}), format=format)


def box_coordinates() -> tuple[str, ...]:
    """What the numbers of a box can mean, for the form."""
    return BOX_COORDINATES


def import_formats() -> list[dict[str, str]]:
    """What a registered folder or an archive may hold, with a short description."""
    return [
        {"name": name, "what": FORMATS[name].what, "expects": FORMATS[name].expects}
        for name in ARCHIVE_FORMATS
    ]


def start_upload(workspace: Workspace, owner: str, total: int = 0) -> Upload:
    """A new upload of `total` bytes. Raises `InputRefused` above `UPLOAD_BYTES`, `Unavailable` when the disk
    has no room for it."""
    clear_old_uploads(workspace)
    if total > UPLOAD_BYTES:
        raise InputRefused(
            f"{_gigabytes(total)} are too much for one upload, at most {_gigabytes(UPLOAD_BYTES)}; "
            "import a folder of the server instead"
        )
    free = shutil.disk_usage(workspace.path).free
    if total + RESERVE > free:
        raise Unavailable(
            f"the server's disk has {_gigabytes(free)} free, and this upload needs {_gigabytes(total)}; "
            "free space, or upload less at once"
        )
    upload = Upload(id=fresh_id("upload"), owner=owner)
    workspace.uploads.add(upload)
    return upload


def list_uploads(workspace: Workspace, owner: str) -> list[dict[str, Any]]:
    """The uploads of a person, the newest first."""
    return [describe(workspace, one) for one in workspace.uploads.list() if one.owner == owner]


def find_upload(workspace: Workspace, upload_id: str, owner: str) -> Upload:
    """A person's upload. Raises `NotFound`, and `AccessDenied` for somebody else's."""
    if not ID.fullmatch(upload_id):
        raise NotFound("this upload was discarded, or is too old; start a new one")
    upload = workspace.uploads.get(upload_id)
    if upload.owner != owner:
        raise AccessDenied("this upload is somebody else's")
    return upload


def describe(workspace: Workspace, upload: Upload) -> dict[str, Any]:
    """An upload as the page shows it; `state` is also "interrupted" for an import whose server ended."""
    files = workspace.uploads.files(upload.id).values()
    return {
        **asdict(upload),
        "state": "interrupted" if _interrupted(upload) else upload.state,
        "files": len(files),
        "bytes": sum(one.size for one in files),
    }


def received_files(workspace: Workspace, upload_id: str, owner: str) -> list[dict[str, Any]]:
    """The complete files of an upload, so that a page that comes back sends only the rest."""
    upload = find_upload(workspace, upload_id, owner)
    return [asdict(one) for one in workspace.uploads.files(upload.id).values()]


def received_bytes(workspace: Workspace, upload_id: str, owner: str, part: UploadPart, name: str) -> int:
    """The bytes of an unfinished file that have arrived, in order from its beginning."""
    upload = find_upload(workspace, upload_id, owner)
    return workspace.uploads.received_bytes(upload.id, part, name)


def receive_piece(
    workspace: Workspace, upload_id: str, owner: str, file: UploadedFile, offset: int, piece: bytes
) -> dict[str, Any]:
    """Store a piece of a file; the number of its bytes that have arrived, and whether it is complete.

    Raises `InputRefused` for a name or size that cannot be imported, `Conflict` for a piece out of order and
    a file that changed, `Unavailable` for a full disk.
    """
    upload = find_upload(workspace, upload_id, owner)
    if upload.state != "open" and not _interrupted(upload):
        raise Conflict("this upload is being imported or was; start a new one for further files")
    check_file(file)
    if len(piece) > UPLOAD_PIECE:
        raise InputRefused(f"a piece has at most {UPLOAD_PIECE} bytes")
    known = workspace.uploads.files(upload.id)
    old = known.get((file.part, file.name))
    if old is not None and file.sha256 and old.sha256 == file.sha256:
        return {"received": old.size, "complete": True}
    if old is None and len(known) >= UPLOAD_FILES:
        raise InputRefused(
            f"an upload holds at most {UPLOAD_FILES:,} files; import the others in another one, or import a "
            "folder of the server"
        )
    received, complete = workspace.uploads.write_piece(upload.id, file, offset, piece)
    return {"received": received, "complete": complete is not None}


def check_file(file: UploadedFile) -> None:
    """Raise `InputRefused` for a file that is never imported: by its name, its size, or its part."""
    if file.part not in PARTS or not SHA256.fullmatch(file.sha256):
        raise InputRefused(f"{file.part!r} is no part of an upload; parts are {', '.join(PARTS)}")
    parts = file.name.split("/")
    if any(part.startswith(".") for part in parts):
        raise InputRefused("a hidden file; such files are not imported")
    if any(not part or len(part.encode()) > UPLOAD_NAME for part in parts) or len(parts) > UPLOAD_DEPTH:
        raise InputRefused(
            f"its name has an empty part, one of more than {UPLOAD_NAME} bytes, or more than {UPLOAD_DEPTH} "
            "folders; rename it"
        )
    if "\\" in file.name or any(unicodedata.category(one)[0] == "C" for one in file.name):
        raise InputRefused("its name has a control character or a backslash; rename it")
    if file.size == 0:
        raise InputRefused("the file is empty")
    most = UPLOAD_ARCHIVE if file.part == "archive" else IMAGE_BYTES
    if file.size > most:
        raise InputRefused(f"the file has {file.size:,} bytes, at most {most:,} are read")
    if file.part == "archive" and not file.name.lower().endswith(".zip"):
        raise InputRefused("the file is no .zip; pack the dataset into one")


def discard_upload(workspace: Workspace, upload_id: str, owner: str) -> None:
    """Delete an upload with its files. What was imported stays. Raises `Conflict` while it is imported."""
    upload = find_upload(workspace, upload_id, owner)
    if upload.state == "importing" and not _interrupted(upload):
        raise Conflict("this upload is being imported; wait until that has ended")
    workspace.uploads.remove(upload.id)


def clear_old_uploads(workspace: Workspace) -> None:
    """Delete uploads that nobody finished for two weeks, and forget finished ones of that age."""
    for upload in workspace.uploads.list():
        alive = upload.state == "importing" and not _interrupted(upload)
        if now() - max(upload.created, upload.beat) > KEPT_SECONDS and not alive:
            workspace.uploads.remove(upload.id)


def finish_upload(
    workspace: Workspace, upload_id: str, owner: str, settings: ImportSettings, *, wait: bool = False
) -> Upload:
    """Start the import of what has arrived; `wait` returns once it has ended.

    Raises `Conflict` when nothing has arrived, a file is damaged, or the import is running already,
    `InputRefused` for settings that fit no dataset.
    """
    upload = find_upload(workspace, upload_id, owner)
    if upload.state == "done":
        return upload
    if upload.state == "importing" and not _interrupted(upload):
        raise Conflict("this upload is being imported already")
    request = settings.request(*dataset_of(workspace, upload.id, settings.format))
    damaged = list(workspace.uploads.damaged(upload.id))
    for file in damaged:
        workspace.uploads.forget(upload.id, file)
    if damaged:
        names = ", ".join(one.name for one in damaged[:3])
        raise Conflict(f"{len(damaged)} files did not arrive whole ({names}, …); choose the files again")
    upload = replace(upload, state="importing", beat=now(), progress=0.0, message="reading", error="")
    workspace.uploads.save(upload)
    with workspace.catalog() as catalog:
        details = settings.model_dump(mode="json", exclude_defaults=True)
        catalog.audit.add(AuditEvent(actor=owner, action="images.upload", subject=upload.id, details=details))
        catalog.commit()
    thread = threading.Thread(target=_import, args=(workspace, upload, request), daemon=True)
    thread.start()
    if wait:
        thread.join()
        return workspace.uploads.get(upload.id)
    return upload


def dataset_of(workspace: Workspace, upload_id: str, format: str) -> tuple[Path, str]:
    """Where the dataset of an upload lies, and its format: images, images with masks, or an archive.

    Raises `Conflict` when nothing has arrived, `InputRefused` for an archive beside images or a second one.
    """
    count = {part: 0 for part in PARTS}
    archive = Path()
    for file in workspace.uploads.files(upload_id).values():
        count[file.part] += 1
        if file.part == "archive":
            archive = workspace.uploads.path_of(upload_id, "archive", file.name)
    if count["archive"]:
        if count["archive"] > 1 or count["images"] or count["masks"]:
            raise InputRefused("an archive is imported on its own: one .zip, without images beside it")
        return archive, format
    if not count["images"]:
        raise Conflict("no image has arrived yet; choose images first")
    images = workspace.uploads.path_of(upload_id, "images")
    return (images.parent, "masks") if count["masks"] else (images, "folder")


def _import(workspace: Workspace, upload: Upload, request: ImportRequest) -> None:
    told = 0.0

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        nonlocal told
        if now() - told > BEAT_SECONDS:
            told = now()
            workspace.uploads.save(
                replace(upload, beat=told, progress=done / total if total else 0.0, message=message)
            )

    try:
        found, problems = import_data(workspace, request, report=report)
    except ClinicError as error:
        workspace.uploads.save(replace(upload, state="open", beat=now(), message="", error=str(error)))
        return
    except BaseException:
        sentence = "the import ended with an internal error; the server log has the details"
        workspace.uploads.save(replace(upload, state="open", beat=now(), message="", error=sentence))
        raise
    result = {**shown_result(found), "problems": problems.name if problems else ""}
    workspace.uploads.save(replace(upload, state="done", beat=now(), progress=1.0, result=result))
    workspace.uploads.drop_files(upload.id)


def shown_result(found: Any) -> dict[str, Any]:
    """An import's counts, and the first of its refusals and near-duplicates."""
    return {
        **{name: getattr(found, name) for name in ("added", "duplicates", "labels", "updated")},
        "refusals": len(found.refused),
        "near_duplicates": len(found.alike),
        "refused": [one._asdict() for one in found.refused[:SHOWN_PROBLEMS]],
        "alike": [one._asdict() for one in found.alike[:SHOWN_PROBLEMS]],
        "losses": list(found.losses),
    }


def problems_file(workspace: Workspace, upload_id: str, owner: str) -> Path:
    """The CSV that lists every problem of an upload's import. Raises `NotFound` if there was none."""
    name = find_upload(workspace, upload_id, owner).result.get("problems", "")
    path = workspace.path / "imports" / name
    if not name or not path.is_file():
        raise NotFound("this import has no list of problems")
    return path


def request_folder_import(workspace: Workspace, folder_id: str, settings: ImportSettings, actor: str) -> Job:
    """Import a folder that an admin registered, by a worker. Raises `NotFound`, and `InputRefused` for what
    is no folder or an unknown format."""
    with workspace.catalog(read_only=True) as catalog:
        folder = catalog.endpoints.get(folder_id)
    if folder.kind != "folder":
        raise InputRefused(f"{folder.name!r} is a {folder.kind}; choose a registered folder")
    settings.request(Path(folder.location), settings.format)
    args = {"path": folder.location, **settings.model_dump(mode="json", exclude_defaults=True)}
    return request_job(workspace, "import", args, actor)


def request_demo(workspace: Workspace, actor: str) -> Job:
    """Queue the import of the demo's models and images. Raises `Conflict` for a workspace with images of its
    own, with which they would mix."""
    with workspace.catalog(read_only=True) as catalog:
        if catalog.images.count():
            raise Conflict("this workspace has images already; run the demo in a new one (`clinic demo`)")
    return request_job(workspace, "demo", {}, actor)


def request_of(args: Mapping[str, Any]) -> ImportRequest:
    """The request that the arguments of an import job hold; those of earlier versions are a part of them."""
    return ImportRequest(**{**args, "path": Path(args["path"])})


def _interrupted(upload: Upload) -> bool:
    return upload.state == "importing" and now() - upload.beat > SILENT_SECONDS


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
