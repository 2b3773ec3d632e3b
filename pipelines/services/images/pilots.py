"""Pilots: some images that several people label, to tell what a campaign would cost and how well people
agree."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from dataengine.errors import InputRefused
from dataengine.records import Label, Pilot, count_of
from pipelines.selections.config import ImageSelection
from pipelines.services.agreement import agreement_of
from pipelines.services.categories import Sending, queue_images
from pipelines.services.images.actions import chosen_images, queueable_images
from pipelines.services.queue import fresh_id
from pipelines.services.schemas import Name, RequestBody
from storage.catalog import Catalog
from storage.queries.labels import labels_of
from storage.queries.pilots import answers_by_person, images_of_round, labels_of_round
from storage.workspace import Workspace

LONGEST_PAUSE = 1800.0
"""Seconds of one label beyond which its time says nothing of the work: somebody left the desk."""
DRAWS = 1000
"""Bootstrap samples of the interval."""
CONSIDERED = 20_000
"""Images among which a pilot's are drawn at most."""


class NewPilot(RequestBody):
    """`images` of the chosen ones, drawn at random, each for every one of `people`."""

    name: str = Field(default="", max_length=100)
    chosen: ImageSelection
    images: int = Field(ge=1, le=1_000)
    people: list[Name] = Field(min_length=1, max_length=9)
    seed: int = Field(default=0, ge=0, le=2**31)
    priority: float = Field(default=3.0, ge=0, le=10)


def start_pilot(workspace: Workspace, body: NewPilot, actor: str) -> Pilot:
    """Queue a pilot's images for its people. Raises `InputRefused` when fewer of the chosen images may go to
    annotators than it needs, `NotFound` for an empty selection."""
    people = sorted(set(body.people))
    pilot = Pilot(
        id=fresh_id("pilot"),
        name=" ".join(body.name.split()) or f"{count_of(body.images, 'image')}, {_people(len(people))}",
        created_by=actor,
        images=body.images,
        annotations_per_image=len(people),
    )
    how = Sending(priority=body.priority, annotations_per_image=len(people), people=people)
    with workspace.catalog() as catalog:
        conditions, count = chosen_images(catalog, body.chosen)
        free = queueable_images(catalog, conditions, CONSIDERED)
        if len(free) < body.images:
            raise InputRefused(
                f"{count_of(len(free), 'image')} of {count:,} selected can go to annotators (labelled, "
                f"queued and benchmark images cannot), and the pilot needs {body.images:,}; select more"
            )
        drawn = random.Random(body.seed).sample(free, body.images)
        queue_images(catalog, drawn, how, actor, {"pilot": pilot.name}, pilot.id)
        catalog.pilots.add(pilot)
        catalog.commit()
    return pilot


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def list_pilots(catalog: Catalog) -> list[dict[str, Any]]:
    """Every pilot with its progress, newest first."""
    found = []
    for one in reversed(catalog.pilots.list()):
        done, wanted = _progress(catalog, one)
        found.append({"id": one.id, "name": one.name, "created": one.created, "done": done, "wanted": wanted})
    return found


def _progress(catalog: Catalog, pilot: Pilot) -> tuple[int, int]:
    answers = answers_by_person(catalog, pilot.id)
    return sum(one.answered + one.skipped for one in answers), pilot.images * pilot.annotations_per_image


def pilot_report(workspace: Workspace, pilot_id: str, target: int = 1000) -> dict[str, Any]:
    """What a pilot found: seconds per label, agreement by category, labels an hour, and the hours of work for
    `target` images with as many labels each. Figures are None while nothing is known. Raises `NotFound`.
    """
    with workspace.catalog(read_only=True) as catalog:
        pilot = catalog.pilots.get(pilot_id)
        labels = labels_of_round(catalog, pilot.id)
        images = images_of_round(catalog, pilot.id)
        answers = {one.person: one for one in answers_by_person(catalog, pilot.id)}
        waits_for = sorted({name for names in catalog.assignees.of(images).values() for name in names})
        newest = labels_of(catalog, images)
    people = sorted({*answers, *waits_for, *(one.author for one in labels)})
    done, wanted = sum(one.answered + one.skipped for one in answers.values()), pilot.images * len(people)
    seconds = _seconds(labels)
    return {
        "id": pilot.id,
        "name": pilot.name,
        "created": pilot.created,
        "created_by": pilot.created_by,
        "images": pilot.images,
        "annotations_per_image": pilot.annotations_per_image,
        "done": done,
        "wanted": max(wanted, done),
        "labels": len(labels),
        "timed": len(seconds),
        **_pace(seconds),
        "flawed": _pace(_seconds([one for one in labels if not one.clean])),
        "clean": _pace(_seconds([one for one in labels if one.clean])),
        "people": [
            {
                "name": name,
                "answered": answers[name].answered if name in answers else 0,
                "skipped": answers[name].skipped if name in answers else 0,
                **_pace(_seconds([one for one in labels if one.author == name])),
            }
            for name in people
        ],
        "agreement": agreement_of(workspace, {id: own for id, own in newest.items() if len(own) > 1}),
        "target": target,
        "plan": plan_hours(seconds, target, pilot.annotations_per_image),
    }


def plan_hours(seconds: Sequence[float], target: int, annotations_per_image: int) -> dict[str, Any] | None:
    """Hours of work for `target` images at the pilot's mean pace, with a 95 % bootstrap interval over its
    labels; None without a timed label."""
    if not seconds:
        return None
    draws = np.random.default_rng(0).choice(np.asarray(seconds), (DRAWS, len(seconds))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    per_second = target * annotations_per_image / 3600
    return {
        "labels": target * annotations_per_image,
        "hours": float(np.mean(seconds)) * per_second,
        "low": float(low) * per_second,
        "high": float(high) * per_second,
    }


def _seconds(labels: Sequence[Label]) -> list[float]:
    """The active time of each label that has one and took no pause."""
    return [one.lead_seconds for one in labels if 0 < one.lead_seconds <= LONGEST_PAUSE]


def _pace(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean and median seconds a label, and labels an hour at the mean."""
    if not seconds:
        return {"seconds": None, "median": None, "an_hour": None}
    mean = math.fsum(seconds) / len(seconds)
    return {"seconds": mean, "median": float(np.median(seconds)), "an_hour": 3600 / mean}
