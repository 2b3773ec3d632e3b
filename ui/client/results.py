"""What leaves the clinic: exports and studies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ui.client.jobs import Jobs
from ui.client.records import ImageFilter, Job, Study, as_query, read
from ui.client.transport import Transport, an_id


class Exports:
    """Images with their labels as archives."""

    def __init__(self, transport: Transport, jobs: Jobs) -> None:
        self._http, self._jobs = transport, jobs

    def start(
        self,
        format: str = "folder",
        *,
        snapshot: str | None = None,
        only_labelled: bool = False,
        pictures: bool = True,
        **selection: Unpack[ImageFilter],
    ) -> Job:
        """Have a worker write the images of a filter, or exactly those of a training set, as one archive.

        Formats are folder, masks, coco, yolo, fiftyone, label-studio, predictions, and hf for training sets.
        """
        body = {"format": format, "snapshot": snapshot, "only_labelled": only_labelled, "pictures": pictures}
        return self._jobs.get(
            self._http.post("/curate/work/export", body | {"images": as_query(selection)})["job"]
        )

    def download(self, job: str, path: str | Path) -> Path:
        """Stream the archive of a finished export to `path`."""
        return self._http.download(f"/curate/work/export/{an_id(job)}.zip", path)

    def save(
        self, path: str | Path, format: str = "folder", *, timeout: float | None = None, **options: object
    ) -> Path:
        """`start`, wait, and `download`."""
        job = self.start(format, **options)  # type: ignore[arg-type]
        return self.download(self._jobs.wait(job.id, timeout=timeout).id, path)


class Studies:
    """Blind comparisons by people."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Sequence[Study]:
        """Every study, the newest first."""
        return [read(Study, one) for one in self._http.get("/studies")]

    def get(self, study: str) -> Study:
        """One study with its results so far."""
        return read(Study, self._http.get(f"/studies/{an_id(study)}"))

    def save_votes(self, study: str, path: str | Path) -> Path:
        """Stream every vote as CSV to `path`."""
        return self._http.download(f"/studies/{an_id(study)}/votes.csv", path)
