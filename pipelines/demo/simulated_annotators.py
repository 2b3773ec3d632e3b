"""Simulated annotators: they sign in over HTTP, get one image at a time, and submit a mask.

Input: a URL, a name, a password. Output: labels, submitted through the same API as everybody's. Cost: about
10 ms per image. An annotator gets only the image, and submits an oracle's prediction plus human-like errors:
a
shaky outline, small flaws missed, sometimes a stroke on an intact region.
"""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dataengine.errors import JobFailed
from dataengine.images import decode
from dataengine.masks import components, pack_label_map
from pipelines.config import HumanErrorConfig

CSRF = "X-Clinic-CSRF"

Oracle = Callable[[np.ndarray], np.ndarray]
"""Stands in for human perception: an image uint8 HWC to a confidence float32 HW in [0, 1]."""


class Client(Protocol):
    """The part of `httpx.Client` that an annotator needs; a test client offers the same."""

    def get(self, url: str, /) -> Any: ...
    def post(self, url: str, /, *, json: Any = ..., headers: Any = ...) -> Any: ...


def load_teacher_oracle(folder: Path, device: str = "cpu") -> Oracle:
    """The clinic's teacher as the oracle that stands in for people."""
    import torch

    from dataengine.clinic.oracles import load_teacher

    teacher = load_teacher(folder).to(device)

    @torch.inference_mode()
    def predict(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().div(255).to(device)
        return teacher.confidence(pixels)[0].float().cpu().numpy()

    return predict


def with_human_error(mask: np.ndarray, error: HumanErrorConfig, rng: np.random.Generator) -> np.ndarray:
    """The bool HW mask with human-like errors, bool HW."""
    painted = _shaky(_widened(mask, error.wide, rng), error.jitter, rng)
    painted = _without_missed(painted, error, rng)
    if rng.random() < error.false_strokes:
        painted = painted | _stroke(mask.shape, rng)
    return painted


def _widened(mask: np.ndarray, wide: float, rng: np.random.Generator) -> np.ndarray:
    """Grow the mask by up to `wide` pixels, drawn evenly and rounded to whole ones."""
    from scipy import ndimage

    if not mask.any() or wide == 0:
        return mask
    return ndimage.distance_transform_edt(~mask) < rng.uniform(0, wide) + 0.5


def _shaky(mask: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Shift the outline in and out by about `jitter` pixels, smoothly along its length."""
    from scipy import ndimage

    if not mask.any() or jitter == 0:
        return mask
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    noise = ndimage.gaussian_filter(rng.standard_normal(mask.shape), sigma=3)
    return depth + noise / max(float(noise.std()), 1e-6) * jitter > 0


def _without_missed(mask: np.ndarray, error: HumanErrorConfig, rng: np.random.Generator) -> np.ndarray:
    """Drop components below `small` pixels, each with probability `missed`."""
    numbers, count = components(mask)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    overlooked = (areas < error.small) & (rng.random(count + 1) < error.missed)
    overlooked[0] = True
    return ~overlooked[numbers]


def _stroke(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """An accidental stroke: a disc of 3 to 6 pixels radius."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    return (rows - y) ** 2 + (columns - x) ** 2 <= rng.uniform(3, 6) ** 2


@dataclass(kw_only=True)
class SimulatedAnnotator:
    """One simulated annotator with an account, an oracle, an error model and a seed."""

    client: Client
    name: str
    password: str
    oracle: Oracle
    error: HumanErrorConfig
    seed: int = 0

    def sign_in(self) -> None:
        answer = self._checked(
            self.client.post("/api/login", json={"name": self.name, "password": self.password})
        )
        self._headers = {CSRF: answer.json()["csrf"]}
        self._rng = np.random.default_rng([self.seed, *self.name.encode()])

    def label_next(self) -> bool:
        """Label one image; False if none is queued."""
        offer = self._checked(self.client.get("/api/annotate/next"))
        if offer.status_code == 204:
            return False
        task = offer.json()
        mask = self._predict_mask(self._pixels(task["image"]["url"]))
        seconds = self.error.lead_seconds * float(np.exp(self._rng.normal(0, 0.5)))
        time.sleep(seconds * self.error.pace)
        answer = self._answer(task, mask, seconds)
        self._checked(self.client.post("/api/annotate/submit", json=answer, headers=self._headers))
        return True

    def label_all(self, more: Callable[[], bool] = lambda: True) -> int:
        """Label until none is queued, or until `more()` is false; returns the number of labelled images."""
        labelled = 0
        while more() and self.label_next():
            labelled += 1
        return labelled

    def _predict_mask(self, image: np.ndarray) -> np.ndarray:
        return with_human_error(self.oracle(image) >= self.error.threshold, self.error, self._rng)

    def _pixels(self, url: str) -> np.ndarray:
        return decode(self._checked(self.client.get(url)).content)

    def _answer(self, task: dict[str, Any], mask: np.ndarray, seconds: float) -> dict[str, Any]:
        painted = pack_label_map(mask.astype(np.uint8) * self.error.label)
        return {
            "lease": task["lease"],
            "image": task["image"]["id"],
            "revision": task["revision"],
            "clean": not mask.any(),
            "label_map": base64.b64encode(painted).decode() if mask.any() else None,
            "seconds": seconds,
            "simulated": True,
        }

    @staticmethod
    def _checked(response: Any) -> Any:
        if response.status_code >= 400:
            raise JobFailed(
                f"The annotation server answered {response.status_code} to a simulated annotator "
                f"({response.request.method} {response.request.url.path}): {response.text[:300]}"
            )
        return response
