"""Simulated annotators: human-like errors, reproducible by seed, and their HTTP requests."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from dataengine.errors import JobFailed
from dataengine.masks import unpack_label_map
from pipelines.config import HumanErrorConfig
from pipelines.demo.simulated_annotators import SimulatedAnnotator, with_human_error

EXACT = HumanErrorConfig(jitter=0, missed=0, false_strokes=0, lead_seconds=10)


def disc(side: int = 64, radius: int = 14) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - side // 2) ** 2 + (columns - side // 2) ** 2 <= radius**2


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_no_error_paints_what_is_seen() -> None:
    mask = disc()
    assert np.array_equal(with_human_error(mask, EXACT, np.random.default_rng(0)), mask)


def test_a_shaky_outline_stays_near_the_seen_one() -> None:
    mask, error = disc(), EXACT.model_copy(update={"jitter": 1.0})
    painted = with_human_error(mask, error, np.random.default_rng(1))
    assert not np.array_equal(painted, mask)
    assert 0.7 < overlap(painted, mask) < 1
    changed = painted ^ mask
    assert not changed[32, 32], "the middle of a large flaw is never lost"


def test_a_wide_mask_grows_by_up_to_that_many_pixels_and_never_shrinks() -> None:
    mask, rng = disc(), np.random.default_rng(4)
    widths = []
    for _ in range(60):
        painted = with_human_error(mask, EXACT.model_copy(update={"wide": 2.0}), rng)
        assert painted[mask].all()
        # Along the middle row the disc grows by whole pixels on either side.
        widths.append((painted[32].sum() - mask[32].sum()) / 2)
    assert set(widths) == {0, 1, 2}
    assert np.mean(widths) == pytest.approx(1, abs=0.25)


def test_small_flaws_are_missed_and_large_ones_are_not() -> None:
    mask = disc()
    mask[2:4, 2:4] = True
    painted = with_human_error(mask, EXACT.model_copy(update={"missed": 1.0}), np.random.default_rng(2))
    assert not painted[2:4, 2:4].any()
    assert painted[32, 32]


def test_false_strokes_come_at_their_rate() -> None:
    clean, rng = np.zeros((64, 64), bool), np.random.default_rng(3)
    error = EXACT.model_copy(update={"false_strokes": 0.25})
    share = np.mean([with_human_error(clean, error, rng).any() for _ in range(400)])
    assert share == pytest.approx(0.25, abs=0.07)


class Desk:
    """A server of two images that remembers what it was sent."""

    def __init__(self) -> None:
        self.waiting = ["a", "b"]
        self.answers: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/api/login":
            return httpx.Response(200, json={"csrf": "secret", "roles": ["annotator"]})
        if path == "/api/annotate/next":
            if not self.waiting:
                return httpx.Response(204)
            name = self.waiting[0]
            task = {"lease": f"lease-{name}", "image": {"id": name, "url": f"/{name}.png"}, "revision": 0}
            return httpx.Response(200, json=task)
        if path.endswith(".png"):
            body = io.BytesIO()
            Image.fromarray(np.full((64, 64, 3), 255 if "b" in path else 0, np.uint8)).save(body, "PNG")
            return httpx.Response(200, content=body.getvalue())
        if path == "/api/annotate/submit" and request.headers.get("X-Clinic-CSRF") == "secret":
            self.answers.append(json.loads(request.content))
            self.waiting.pop(0)
            return httpx.Response(200, json={"revision": 1})
        return httpx.Response(403, text="no")


def see(image: np.ndarray) -> np.ndarray:
    """Sees a flaw in dark images only."""
    return disc().astype(np.float32) * (image.max() == 0)


def person(desk: Desk, seed: int = 0, error: HumanErrorConfig = EXACT) -> SimulatedAnnotator:
    client = httpx.Client(base_url="http://clinic", transport=httpx.MockTransport(desk))
    return SimulatedAnnotator(client=client, name="ada", password="pass", oracle=see, error=error, seed=seed)


def test_answers_everything_over_http() -> None:
    desk = Desk()
    ada = person(desk)
    ada.sign_in()
    assert ada.label_all() == 2
    flawed, clean = desk.answers
    assert (flawed["lease"], flawed["clean"], clean["clean"], clean["label_map"]) == (
        "lease-a",
        False,
        True,
        None,
    )
    painted = unpack_label_map(base64.b64decode(flawed["label_map"]), 64, 64)
    assert np.array_equal(painted == 1, disc())
    assert flawed["simulated"] and flawed["seconds"] > 0


def test_the_same_seed_makes_the_same_mistakes() -> None:
    shaky, answers = HumanErrorConfig(), []
    for seed in (5, 5, 6):
        desk = Desk()
        ada = person(desk, seed, shaky)
        ada.sign_in()
        ada.label_all()
        answers.append(desk.answers)
    assert answers[0] == answers[1] != answers[2]


def test_stops_when_it_is_told_to() -> None:
    ada = person(Desk())
    ada.sign_in()
    assert ada.label_all(more=lambda: False) == 0


def test_a_refusal_is_told_in_one_line() -> None:
    ada = person(Desk())
    ada.sign_in()
    ada._headers = {}
    with pytest.raises(JobFailed, match=r"answered 403 .*submit"):
        ada.label_next()
