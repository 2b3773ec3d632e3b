"""Write Label Studio's JSON: tasks with each author's newest brush annotation, and the labelling interface.

An annotation names its author in a field of ours, because a server refuses a whole file for one
`completed_by` whom it does not know; it gives all annotations to the person who loads the file.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from dataengine.masks import StoredMap
from dataengine.records import Image, Label, LabelClass
from pipelines.exchange.label_studio.tasks import AUTHOR, brush_results, label_config, task_data

LOCAL_FILES = "/data/local-files/?d=images/"
"""URL prefix of the images in Label Studio, once a local storage points at the exported folder."""
CONFIG = "label_config.xml"
"""The labelling interface that the project needs to show the annotations."""


class TaskFile:
    """A list of tasks that is written image by image, beside `label_config.xml`; complete after `close`."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._classes = classes
        labels = [LabelClass(value=value, name=name) for value, name in enumerate(classes, 1)]
        path.with_name(CONFIG).write_text(label_config(labels), encoding="utf-8")
        self._file = path.open("w", encoding="utf-8")
        self._file.write("[")
        self._tasks = self._annotations = 0

    def add(self, image: Image, name: str, labels: list[Label], drawn: dict[str, StoredMap]) -> None:
        """Add one image with its labels; a clean label is an annotation without regions."""
        annotations = []
        for label in labels:
            self._annotations += 1
            stamp = datetime.fromtimestamp(label.created, UTC).isoformat()
            key = f"{label.image_id}/{label.author}"
            annotations.append(
                {
                    "id": self._annotations,
                    AUTHOR: label.author,
                    "result": []
                    if label.label_map is None
                    else brush_results(drawn[label.author].unpack(), self._classes, key),
                    "was_cancelled": False,
                    "lead_time": label.lead_seconds,
                    "created_at": stamp,
                    "updated_at": stamp,
                }
            )
        self._tasks += 1
        more = {"seed": image.seed, "licence": image.licence, "generator": image.generator_id}
        more |= {"source": image.source, "split": image.split, "group": image.group}
        task = {
            "id": self._tasks,
            "data": task_data(image, LOCAL_FILES + name, **more),
            "annotations": annotations,
            "predictions": [],
        }
        self._file.write(("\n" if self._tasks == 1 else ",\n") + json.dumps(task))

    def close(self) -> None:
        """Close the list and the file."""
        self._file.write("]\n")
        self._file.close()
