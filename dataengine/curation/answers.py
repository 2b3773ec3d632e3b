"""A cache of VQA answers: a model is called once per image and question, however its answer is used.

One line of JSON per answer in an append-only file. The file is a cache: a torn last line of a killed run is
skipped, and two concurrent writers at worst call the model twice.
"""

import hashlib
import json
from pathlib import Path

import numpy as np


class AnswerCache:
    """The answers of one model to one question, by image."""

    def __init__(self, folder: Path, model: str, question: str) -> None:
        """`folder` is created when the first answer is stored."""
        name = hashlib.sha256(json.dumps([model, question]).encode()).hexdigest()[:24]
        self._file = folder / f"{name}.jsonl"
        self._known: dict[str, str] = {}
        if self._file.is_file():
            for line in self._file.read_text("utf-8", errors="replace").splitlines():
                self._take(line)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, image: np.ndarray) -> str | None:
        """The cached answer about this uint8 HW3 image, None without one."""
        return self._known.get(image_fingerprint(image))

    def keep(self, image: np.ndarray, answer: str) -> None:
        """Store an answer."""
        key = image_fingerprint(image)
        self._known[key] = answer
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([key, answer]))

    def _take(self, line: str) -> None:
        try:
            key, answer = json.loads(line)
        except ValueError:
            return
        if isinstance(key, str) and isinstance(answer, str):
            self._known[key] = answer


def image_fingerprint(image: np.ndarray) -> str:
    """A hash of the pixels and their shape."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
