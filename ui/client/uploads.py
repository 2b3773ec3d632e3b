"""Uploading images: in pieces, many files, resumed by the hash of their content."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ui.client.records import Imported, read
from ui.client.transport import ApiError, Transport

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
CONFLICT = 409
POLL_SECONDS = 0.5
OPEN = ("open", "interrupted")

Progress = Callable[[int, int], Any]
"""Gets the bytes that have arrived, and all of them."""


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to send, by its name in the upload."""

    name: str
    path: Path
    size: int
    sha256: str
    part: str


class Uploads:
    """Images and archives into the workspace."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def images(
        self,
        *paths: str | Path,
        source: str | None = None,
        licence: str = "",
        generator: str | None = None,
        validation: float | None = None,
        report: Progress | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Imported:
        """Send files, and all images of folders, and import them; what that brought.

        Called again after an interruption with the same files, it sends only what has not arrived, and
        images that the workspace has already count as duplicates. `source`, `licence` and the id of a
        `generator` are recorded with the images; `validation` is the share that goes to the validation split;
        `settings` are further settings of the import page. Raises `ApiError`.
        """
        given = {
            "source": source,
            "generator": generator,
            "validation": validation,
            "licence": licence or None,
        }
        chosen = {name: value for name, value in given.items() if value is not None} | dict(settings or {})
        return self._upload(list(local_files(paths)), chosen, report)

    def archive(
        self, path: str | Path, format: str, *, report: Progress | None = None, **settings: Any
    ) -> Imported:
        """Send a .zip with a dataset in one of the formats of the import page, and import it."""
        path = Path(path)
        file = described(path, path.name, "archive")
        return self._upload([file], {"format": format, **settings}, report)

    def _upload(
        self, files: list[LocalFile], settings: Mapping[str, Any], report: Progress | None
    ) -> Imported:
        if not files:
            raise ApiError("there is no image to send; name files, or folders with images")
        total, done = sum(file.size for file in files), 0
        upload, arrived = self._begun(files, total)
        piece = int(self._http.get("/import/choices")["piece"])
        for file in files:
            if arrived.get((file.part, file.name)) != file.sha256:
                for sent in self._send(upload, file, piece):
                    if report is not None:
                        report(done + sent, total)
            done += file.size
            if report is not None:
                report(done, total)
        self._finish(upload, settings)
        return self._imported(upload)

    def _begun(self, files: list[LocalFile], total: int) -> tuple[str, dict[tuple[str, str], str]]:
        """An unfinished upload of nothing but these files, with what has arrived of it, or else a new one."""
        wanted = {(file.part, file.name): file.sha256 for file in files}
        for before in self._http.get("/import/uploads")["uploads"]:
            if before["state"] not in OPEN or not before["files"]:
                continue
            listed = self._http.get(f"/import/uploads/{before['id']}/files")["files"]
            arrived = {(one["part"], one["name"]): one["sha256"] for one in listed}
            if arrived.items() <= wanted.items():
                return before["id"], arrived
        return self._http.post("/import/uploads", {"total": total})["id"], {}

    def _send(self, upload: str, file: LocalFile, piece: int) -> Iterator[int]:
        """Send a file from where it has arrived to; the bytes that have, after each piece."""
        named = {"upload": upload, "part": file.part, "name": file.name}
        at = 0
        if file.size > piece:
            at = int(self._http.get("/import/piece", named)["received"])
            at = 0 if at >= file.size else at
        resumed = at > 0
        with file.path.open("rb") as body:
            while True:
                body.seek(at)
                query = named | {"size": file.size, "sha256": file.sha256, "offset": at}
                content = body.read(piece)
                try:
                    answer = self._http.request(
                        "POST", "/import/piece", params=query, content=content, repeatable=True
                    ).json()
                except ApiError as error:
                    if error.status != CONFLICT or not resumed:
                        raise
                    # What had arrived was of another file of this name: once more from the beginning.
                    at, resumed = 0, False
                    continue
                at = int(answer["received"])
                yield at
                if answer["complete"]:
                    return
                if not content:
                    raise ApiError(f"{file.path} has become shorter while it was sent; send it again")

    def _finish(self, upload: str, settings: Mapping[str, Any]) -> None:
        try:
            self._http.post(f"/import/uploads/{upload}/finish", dict(settings), repeatable=True)
        except ApiError as error:
            # A repeated request finds the import that the first one began.
            state = self._http.get(f"/import/uploads/{upload}")["state"]
            if error.status != CONFLICT or state not in ("importing", "done"):
                raise

    def _imported(self, upload: str) -> Imported:
        while (found := self._http.get(f"/import/uploads/{upload}"))["state"] == "importing":
            time.sleep(POLL_SECONDS)
        if found["state"] != "done":
            raise ApiError(found["error"] or "the import was interrupted; send the same files again")
        return read(Imported, found["result"])


def local_files(paths: Iterable[str | Path]) -> Iterator[LocalFile]:
    """The files of these paths; of folders all images, under their paths in the folder. Raises `ApiError` for
    a path that is not there, and for two files of one name."""
    names: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ApiError(f"there is no file or folder {path}")
        inside = (one for one in sorted(path.rglob("*")) if one.is_file()) if path.is_dir() else (path,)
        for one in inside:
            name = one.relative_to(path).as_posix() if path.is_dir() else one.name
            hidden = any(part.startswith(".") for part in name.split("/"))
            if path.is_dir() and (hidden or one.suffix.lower() not in SUFFIXES):
                continue
            if name in names:
                raise ApiError(f"{names[name]} and {one} have the same name; send them one after the other")
            names[name] = one
            yield described(one, name, "images")


def described(path: Path, name: str, part: str) -> LocalFile:
    """A file with its size and the hash of its content."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return LocalFile(name=name, path=path, size=file.tell(), sha256=sha256, part=part)
    except OSError as error:
        raise ApiError(f"{path} cannot be read: {error.strerror}") from None
