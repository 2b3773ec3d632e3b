"""Defects as boxes from a vision-language model behind an endpoint (SDG, arXiv:2606.06113).

The model is asked for JSON boxes with type, reason and importance. An answer that is anything else is asked
for once more, more strictly; then its image is refused, since an answer that cannot be read does not say that
nothing is broken.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dataengine.coordinates import Coordinates, coordinates_named
from dataengine.curation.config import BoxesConfig
from dataengine.curation.endpoints import QUOTED, Endpoint, NoAnswer, image_part, without_thoughts
from dataengine.defects import LIST_KEYS, MAX_DEFECTS, Defect, json_values, read_defect
from dataengine.errors import ImageRefused, InputRefused, ServiceAbsent

MOST_REFUSED = 8
"""Consecutive images without a usable answer after which a model counts as unusable."""
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"^```[\w-]*\s*(.*?)\s*```$", re.DOTALL)
STRICTER = (
    "Your last answer could not be read: {problem}. Answer again with the JSON list alone: no sentence "
    "before or after it, each box with all four fields, and [] if nothing is broken."
)

log = logging.getLogger(__name__)


class BoxesRefused(ImageRefused):
    """A model gave no usable boxes of this image, so that it has no map."""


class DefectLocator:
    """A vision-language model that names an image's defects as boxes."""

    def __init__(self, config: BoxesConfig) -> None:
        """Raises `ConfigRefused` for a model that is no endpoint's URL."""
        self.config = config
        self._endpoint = Endpoint(config.model, config.endpoint)
        self.name = f"boxes by {self._endpoint.name}"
        self.refused = 0
        """Images so far without a usable answer."""
        self._in_a_row = 0

    def locate(self, image: np.ndarray) -> list[Defect]:
        """The defects of one uint8 HW3 image, without the types that are ignored; empty if it has none.

        Raises `BoxesRefused` where neither of two answers can be used, and `ServiceAbsent` where the endpoint
        does not answer or refuses, or after `MOST_REFUSED` such images in a row.
        """
        problem = ""
        for attempt in range(2):
            text = self.config.request_text
            if attempt:
                text = f"{text}\n\n{STRICTER.replace('{problem}', problem)}"
            try:
                answer = self._endpoint.complete(
                    [image_part(image), {"type": "text", "text": text}],
                    seed=attempt,
                    new_tokens=self.config.new_tokens,
                    temperature=0.0,
                )
                found = defects_in(answer, coordinates_named(self.config.coordinates), *image.shape[:2])
            except (NoAnswer, InputRefused) as error:
                problem = str(error)
                log.warning("%s, attempt %d: %s", self.name, attempt + 1, problem)
                continue
            self._in_a_row = 0
            ignored = {word.casefold() for word in self.config.ignored}
            return [defect for defect in found if defect.type.casefold() not in ignored]
        self.refused += 1
        self._in_a_row += 1
        if self._in_a_row >= MOST_REFUSED:
            raise ServiceAbsent(
                f"{self.name} gave no usable boxes of {self._in_a_row} images in a row ({problem}); nothing "
                "was stored for them. Change the model or the request, then run it again"
            )
        raise BoxesRefused(f"{self.name} gave no usable boxes of it: {problem}")


def defects_in(answer: str, coordinates: Coordinates, height: int, width: int) -> list[Defect]:
    """The defects of a model's answer for an image of that size: a JSON list of boxes, in a code fence, in
    <answer> or after sentences. Raises `InputRefused` for prose, and for a box with a wrong or missing field.

    An empty list counts only where it is the whole answer: within sentences it may mean anything.
    """
    text = without_thoughts(answer).strip()
    marked = ANSWER.findall(text)
    text = marked[-1].strip() if marked else text
    if fenced := FENCE.match(text):
        text = fenced[1]
    lists = [found for value in json_values(text) if (found := _listed(value)) is not None]
    boxes = next(
        (one for one in reversed(lists) if one and all(isinstance(each, dict) for each in one)), None
    )
    if boxes is None:
        if "".join(text.split()) in ("[]", *(f'{{"{key}":[]}}' for key in LIST_KEYS)):
            return []
        raise InputRefused(f"it is no JSON list of boxes: {' '.join(text.split())[:QUOTED]!r}")
    if len(boxes) > MAX_DEFECTS:
        raise InputRefused(f"it lists {len(boxes)} boxes, more than {MAX_DEFECTS}")
    defects = [read_defect(each, coordinates, height, width) for each in boxes]
    if any(defect.importance is None for defect in defects):
        raise InputRefused("a box has no importance")
    return defects


def _listed(value: Any) -> list[Any] | None:
    """A list, or the list that an object holds under one of `LIST_KEYS`; one box stands for a list of it."""
    if isinstance(value, Mapping):
        inner = next((value[key] for key in LIST_KEYS if isinstance(value.get(key), list)), None)
        return inner if inner is not None else ([value] if "importance" in value else None)
    return value if isinstance(value, list) else None
