"""Any two ways of drawing the same prompts and seeds as the sides of a study."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dataengine.records import REPAIRED, Image, image_id
from pipelines.services.studies.sides import words_of
from storage.workspace import Workspace
from tests.ui.study.test_routes import WANTED, study_of

Clients = Callable[..., TestClient]
PLAIN = {"steps": 20, "precision": "float32", "guidance": 5.0}
OTHERS: list[tuple[dict[str, Any], str]] = [
    (PLAIN | {"guidance": 9.0}, "guidance scale 9"),
    (PLAIN | {"guidance": {"kind": "safe", "strength": 25.0}}, "Safe Latent Diffusion"),
    (PLAIN | {"guidance": {"kind": "reward", "strength": 3.0}}, "guided by a reward"),
    (PLAIN | {"correction": {"method": "ttc", "regions": "dynamics", "gamma": 0.2}}, "corrected during"),
    (PLAIN | {"steps": 50}, "50 steps"),
]


def redraw(workspace: Workspace, settings: dict[str, Any], **more: Any) -> list[Image]:
    """The base's images again with other settings; the same pixels are a different image by its id."""
    with workspace.catalog() as catalog:
        made = [
            replace(
                image,
                **{
                    "id": image_id(image.sha256, str(settings), image.prompt, image.seed),
                    "settings": settings,
                }
                | more,
            )
            for image in catalog.images.find(generator_id="base", status="active")
            if not image.settings
        ]
        catalog.images.add_many(made)
        catalog.commit()
    return made


@pytest.mark.parametrize(("settings", "words"), OTHERS)
def test_one_generator_with_other_settings_is_a_side(
    client_of: Clients, workspace: Workspace, settings: dict[str, Any], words: str
) -> None:
    engineer = client_of("engineer")
    drawn = redraw(workspace, settings)
    ways = [one for one in engineer.get("/api/studies/choices").json()["sides"] if "~" in one["id"]]
    other = next(one for one in ways if words in one["name"])
    (plain,) = [one for one in ways if one["id"] != other["id"]]
    assert len(ways) == 2 and (plain["images"], other["images"]) == (4, 4)
    wanted = {"before": plain["id"], "after": other["id"]}
    assert engineer.get("/api/studies/shared", params=wanted).json()["pairs"] == 4
    opened = engineer.post("/api/studies", json=WANTED | wanted)
    study = study_of(workspace, opened.json()["id"])
    assert {after for _, after in study.pairs} == {image.id for image in drawn}
    assert not {before for before, _ in study.pairs} & {image.id for image in drawn}
    row = engineer.get(f"/api/studies/{study.id}").json()
    assert row["after"].startswith("tiny flux, ") and words in row["after"] and row["before"] != row["after"]


def test_sides_that_make_no_study_are_refused(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    redraw(workspace, PLAIN, height=32)
    ways = [one["id"] for one in engineer.get("/api/studies/choices").json()["sides"] if "~" in one["id"]]
    both = engineer.post("/api/studies", json=WANTED | {"before": ways[0], "after": ways[0]})
    assert both.status_code == 422 and "choose two different" in both.text
    sizes = engineer.post("/api/studies", json=WANTED | {"before": ways[0], "after": ways[1]})
    assert sizes.status_code == 422 and "no images with the same prompt" in sizes.text
    gone = engineer.post("/api/studies", json=WANTED | {"after": "base~000000000000"})
    assert gone.status_code == 422
    first = engineer.post("/api/studies", json=WANTED | {"before": REPAIRED, "after": "base"})
    assert first.status_code == 422 and "second side" in first.text
    assert engineer.post("/api/studies", json=WANTED | {"after": "none~12"}).status_code == 404


def test_accepted_repairs_are_a_side(client_of: Clients, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        one, two, *_ = catalog.images.find(generator_id="base", status="active")
        about = {REPAIRED: {"image": one.id}}
        repair = replace(one, id="repair1", source=REPAIRED, generator_id=None, seed=None, settings=about)
        waiting = replace(repair, id="repair2", status="proposed", settings={REPAIRED: {"image": two.id}})
        catalog.images.add_many([repair, waiting])
        catalog.commit()
    engineer = client_of("engineer")
    assert REPAIRED in [side["id"] for side in engineer.get("/api/studies/choices").json()["sides"]]
    opened = engineer.post("/api/studies", json=WANTED | {"after": REPAIRED})
    assert study_of(workspace, opened.json()["id"]).pairs == ((one.id, "repair1"),)


def test_pairs_can_be_limited_to_flawed_first_images(client_of: Clients, workspace: Workspace) -> None:
    """The detector's confidences of the base's images are 0.4, 0.5, 0.6 and 0.7 at seeds 0 to 3."""
    engineer = client_of("engineer")
    wanted = {"before": "base", "after": "treated", "flawed_by": "d1"}
    (detector,) = engineer.get("/api/studies/choices").json()["detectors"]
    seeds = {seed for seed in range(4) if 0.4 + 0.1 * seed >= detector["threshold"] - 1e-6}
    found = engineer.get("/api/studies/shared", params=wanted).json()
    study = study_of(workspace, engineer.post("/api/studies", json=WANTED | wanted).json()["id"])
    with workspace.catalog(read_only=True) as catalog:
        first = catalog.images.get_many([before for before, _ in study.pairs])
    assert {image.seed for image in first} == seeds and 0 < len(seeds) < 4
    assert (found["shared"], found["pairs"]) == (4, len(seeds))
    assert engineer.post("/api/studies", json=WANTED | wanted | {"flawed_by": "none"}).status_code == 404


def test_words_tell_ways_apart() -> None:
    assert words_of([{"steps": 5, "guidance": 2.0}, {"guidance": 3.5, "steps": 5}]) == [
        "guidance scale 2",
        "guidance scale 3.5",
    ]
    plain, corrected = words_of([{"steps": 5}, {"steps": 5, "correction": {"method": "ttc"}}])
    assert plain == "as usual" and corrected.startswith("corrected during sampling")
    twice = words_of([{"detector": "a"}, {"detector": "b"}])
    assert len(set(twice)) == 2
