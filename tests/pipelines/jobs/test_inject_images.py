"""Artifacts injected into clean images: exact maps, the clean image's split and group, made once, and what is
left out named."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.errors import ConfigRefused, InputRefused, NotFound, Paused
from dataengine.images import decode, encode_png
from dataengine.injection.config import InjectionConfig, RedrawConfig
from dataengine.injection.inject import inject
from dataengine.injection.operations import OPERATIONS
from dataengine.masks import PackedMap, pack_label_map, unpack_label_map
from dataengine.records import INJECTED, INJECTION_KINDS, GeneratorVersion, Image, Label, Review, image_id
from pipelines.jobs import inject_images as jobs
from pipelines.jobs.inject_images import inject_images
from pipelines.runtime.context import Context
from pipelines.runtime.models import real_models
from pipelines.selections.config import ImageQuery, InjectionRun
from pipelines.services.benchmarks import real_item
from pipelines.worker.handlers import JOBS
from storage.opening import create_workspace, open_workspace
from storage.workspace import Workspace
from tests.dataengine.injection.test_inject import textured
from tests.dataengine.treatment import tiny
from tests.fakes import fake_models

REAL = ImageQuery(source="real")
CLEAN = 5
"""Clean images of the training split into which an artifact can be injected."""


def stored(workspace: Workspace, number: int, pixels: np.ndarray | None = None, **values: Any) -> Image:
    pixels = textured(64 - 16 * (number % 2), 64, number) if pixels is None else pixels
    sha256 = workspace.blobs.put(encode_png(pixels))
    named = {"source": "real", "origin": f"photos/{number}.png", "group": f"group {number}", **values}
    height, width = pixels.shape[:2]
    return Image(id=image_id(sha256, None, "", number), sha256=sha256, height=height, width=width, **named)


def label(image: Image, author: str, clean: bool = True, **values: Any) -> Label:
    return Label(
        image_id=image.id, author=author, height=image.height, width=image.width, clean=clean, **values
    )


def add(workspace: Workspace, images: Sequence[Image], labels: Sequence[Label] = ()) -> None:
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        for one in labels:
            catalog.labels.submit(one)
        catalog.commit()


def found(workspace: Workspace, **filters: Any) -> dict[str, Image]:
    with workspace.catalog(read_only=True) as catalog:
        return {image.id: image for image in catalog.images.find(**filters)}


def injected(workspace: Workspace) -> dict[str, Image]:
    return found(workspace, source=INJECTED)


def labels_by_image(workspace: Workspace, images: Sequence[str]) -> dict[str, Label]:
    with workspace.catalog(read_only=True) as catalog:
        return {one.image_id: one for one in catalog.labels.of_images(images)}


def map_of(workspace: Workspace, one: Label) -> np.ndarray:
    return unpack_label_map(workspace.blobs.get(one.label_map or ""), one.height, one.width)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean images of each sort, and others, in one workspace."""
    path = tmp_path_factory.mktemp("w") / "w"
    workspace = create_workspace(path)
    real = [stored(workspace, n, category="hand", prompt=f"photo {n}", licence="CC0") for n in range(3)]
    elsewhere = [stored(workspace, n, split=split) for n, split in ((10, "validation"), (11, "benchmark"))]
    brought = [stored(workspace, n, source="imported", group="") for n in range(20, 24)]
    called_clean, disputed, returned, _ = brought
    drawn = stored(workspace, 30, source="drawn")
    flawed = stored(workspace, 31)
    marked = workspace.blobs.put(pack_label_map(np.ones((flawed.height, flawed.width), np.uint8)))
    add(
        workspace,
        [*real, *elsewhere, *brought, drawn, flawed],
        [
            label(called_clean, "ann"),
            label(disputed, "ann"),
            label(disputed, "bob", clean=False, label_map=marked),
            label(returned, "ann"),
            label(drawn, "world", source="import"),
            label(flawed, "ann", clean=False, label_map=marked),
        ],
    )
    with workspace.catalog() as catalog:
        catalog.reviews.add(
            Review(image_id=returned.id, author="ann", revision=1, reviewer="cora", verdict="rejected")
        )
        catalog.commit()
    workspace.close()
    return path


@pytest.fixture
def context(prepared: Path, tmp_path: Path) -> Iterator[Context]:
    workspace = open_workspace(shutil.copytree(prepared, tmp_path / "w"))
    yield Context(workspace, fake_models())
    workspace.close()


# ---- operations on pixels ------------------------------------------------------------------------------


def test_every_clean_image_of_the_training_split_gets_one_with_its_exact_map(context: Context) -> None:
    workspace = context.workspace
    before = found(workspace)
    result = inject_images(context, InjectionRun())
    made = injected(workspace)
    assert result["images"] == result["clean"] == len(made) == CLEAN and result["known"] == 0
    assert result["selected"] == sum(image.split == "train" for image in before.values())
    assert sum(result["kinds"].values()) == CLEAN and set(result["kinds"]) <= set(INJECTION_KINDS)
    assert "found none of the flaws in 42 generated images" in result["note"]
    assert "left_out" not in result and "unreadable" not in result
    labels = labels_by_image(workspace, list(made))
    for image in made.values():
        about = image.settings[INJECTED]
        clean = before[about["of"]]
        pixels, original = (decode(workspace.blobs.get(each.sha256)) for each in (image, clean))
        again = inject(original, clean.id, InjectionConfig())
        assert np.array_equal(pixels, again.pixels), "stored without loss"
        one = labels[image.id]
        assert np.array_equal(map_of(workspace, one), again.label_map)
        assert (one.author, one.source, one.clean, one.round_id) == (INJECTED, INJECTED, False, None)
        assert about == {"of": clean.id, **again.parameters}
        kept = ("prompt", "category", "split", "licence", "origin", "height", "width")
        assert all(getattr(image, name) == getattr(clean, name) for name in kept)
        assert image.media_type == "image/png" and image.thumbnail and image.generator_id is None
        assert set(np.unique(again.label_map)) == {0, OPERATIONS[about["kind"]].label_class}


def test_it_shares_the_clean_images_group_so_that_no_split_parts_them(context: Context) -> None:
    """Images without a group get one, too: a benchmark reserves whole groups."""
    assert any(image.group == "" for image in found(context.workspace).values())
    inject_images(context, InjectionRun(copies=2))
    every = found(context.workspace)
    for image in injected(context.workspace).values():
        clean = every[image.settings[INJECTED]["of"]]
        assert image.group == clean.group != "" and image.split == clean.split
    with context.workspace.catalog() as catalog:
        chosen = next(image for image in every.values() if image.source == "real" and image.category)
        catalog.benchmarks.draft("b", [real_item(chosen.id, "", "test")], "test")
        catalog.commit()
    copies = [
        one for one in injected(context.workspace).values() if one.settings[INJECTED]["of"] == chosen.id
    ]
    assert [one.split for one in copies] == ["benchmark", "benchmark"]


@pytest.mark.parametrize("split", ["validation", "benchmark"])
def test_other_splits_are_injected_into_only_if_named(context: Context, split: Any) -> None:
    result = inject_images(context, InjectionRun(images=ImageQuery(split=split)))
    assert (result["images"], result["selected"]) == (1, 1)
    assert {image.split for image in injected(context.workspace).values()} == {split}


def test_a_repeated_run_adds_nothing_and_other_settings_add_others(context: Context) -> None:
    first = InjectionRun(images=REAL)
    count = inject_images(context, first)["images"]
    rows = injected(context.workspace)
    again = inject_images(context, first)
    assert (again["images"], again["known"], again["kinds"]) == (0, count, {})
    assert injected(context.workspace) == rows
    more = inject_images(context, InjectionRun(images=REAL, copies=3))
    assert (more["images"], more["known"]) == (2 * count, count)
    for changes in ({"seed": 1}, {"kinds": ("warp",)}, {"least": 0.2}):
        other = inject_images(context, InjectionRun(images=REAL, injection=InjectionConfig(**changes)))
        assert (other["images"], other["known"]) == (count, 0), changes
    copies = injected(context.workspace)
    assert len(copies) == 6 * count == len({image.sha256 for image in copies.values()})


def test_a_kill_and_a_resume_give_the_same_rows(
    context: Context, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_workspace(shutil.copytree(prepared, tmp_path / "whole"))
    run = InjectionRun(copies=3)
    inject_images(Context(whole, fake_models()), run)
    monkeypatch.setattr("pipelines.selections.inject.STORED_AT_ONCE", 2)
    for kill_at in (1, 3):
        stops = iter(range(100))

        def killed(name: str, at: int = kill_at, stops: Iterator[int] = stops) -> None:
            if next(stops) == at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("pipelines.selections.inject.fail_point", killed)
            with pytest.raises(KeyboardInterrupt):
                inject_images(context, run)
    some = len(injected(context.workspace))
    assert 0 < some < 3 * CLEAN
    resumed = inject_images(context, run)
    assert (resumed["images"], resumed["known"]) == (3 * CLEAN - some, some)
    assert content(context.workspace) == content(whole)
    whole.close()


def content(workspace: Workspace) -> list[Any]:
    """Images and labels without the time at which they were made."""
    images = injected(workspace)
    labels = labels_by_image(workspace, list(images))
    rows = [(asdict(images[id]), asdict(labels[id])) for id in sorted(images)]
    for image, one in rows:
        del image["created"], one["created"]
    return rows


def test_what_takes_no_artifact_is_left_out_and_named_and_the_rest_goes_on(context: Context) -> None:
    workspace = context.workspace
    flat = stored(workspace, 40, np.full((64, 64, 3), 9, np.uint8))
    small = stored(workspace, 41, textured(20, 90))
    cut = stored(workspace, 42)
    cut = replace(cut, sha256=workspace.blobs.put(workspace.blobs.get(cut.sha256)[:60]))
    add(workspace, [flat, small, cut])
    run = InjectionRun(images=REAL, copies=2, injection=InjectionConfig(kinds=("warp",)))
    result = inject_images(context, run)
    assert (result["images"], result["clean"]) == (6, 6)
    assert result["left_out"] == 4 and result["unreadable"] == 1
    reasons = " ".join(result["left_out_images"])
    assert f"{flat.id} (photos/40.png): no 'warp' could be seen" in reasons
    assert f"{small.id} (photos/41.png): an image of 20×90 pixels is too small" in reasons
    assert len(result["left_out_images"]) == 2, "each is named once"
    assert cut.id in result["unreadable_images"][0]
    assert inject_images(context, run)["images"] == 0


def test_an_injection_that_gives_nothing_is_refused_with_the_first_reason(context: Context) -> None:
    workspace = context.workspace
    add(workspace, [stored(workspace, 40, np.full((64, 64, 3), 9, np.uint8), category="sky")])
    run = InjectionRun(images=ImageQuery(category="sky"), injection=InjectionConfig(kinds=("smooth",)))
    with pytest.raises(InputRefused, match=r"into any of 1 images; the first is .*no 'smooth' could be seen"):
        inject_images(context, run)


@pytest.mark.parametrize(
    "query",
    [
        {"source": "injected"},
        {"source": "imported", "state": "unlabelled"},
        {"state": "returned"},
        {"class": 1},
    ],
)
def test_images_not_known_to_be_clean_are_refused(context: Context, query: dict[str, Any]) -> None:
    inject_images(context, InjectionRun())
    count = len(injected(context.workspace))
    with context.workspace.catalog() as catalog:
        flawed = next(iter(found(context.workspace, origin="photos/31.png").values()))
        packed = PackedMap.of(np.ones((flawed.height, flawed.width), np.uint8))
        catalog.label_map_statistics.add_many([(context.workspace.blobs.put(packed.data), packed)])
        catalog.commit()
    with pytest.raises(
        InputRefused, match="selected images is known to be clean: artifacts are injected only"
    ):
        inject_images(context, InjectionRun(images=ImageQuery.model_validate(query)))
    assert len(injected(context.workspace)) == count


def test_an_empty_selection_and_a_wrong_source_are_refused(context: Context) -> None:
    for run, error, reason in (
        (InjectionRun(images=ImageQuery(category="zebra")), NotFound, "no image matches category=zebra"),
        (InjectionRun(source="redraw"), ConfigRefused, "needs the id of the generator"),
        (InjectionRun(generator="g"), ConfigRefused, "operations on pixels need no generator"),
        (InjectionRun(source="redraw", generator="g"), NotFound, "no generator 'g'"),
    ):
        with pytest.raises(error, match=reason):
            inject_images(context, run)


def test_it_reports_progress_of_the_whole_and_pauses_between_pages(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAGE", 2)
    steps: list[tuple[int, int]] = []
    asked = iter([False, True])
    counting = replace(
        context, report=lambda done, total, *_, **__: steps.append((done, total)), pausing=lambda: next(asked)
    )
    with pytest.raises(Paused):
        inject_images(counting, InjectionRun())
    assert len(injected(context.workspace)) == 2 and {total for _, total in steps} == {CLEAN}
    counting = replace(counting, pausing=lambda: False)
    assert JOBS["inject"](counting, {"settings": InjectionRun().model_dump(mode="json")})["known"] == 2
    assert [done for done, _ in steps] == sorted(done for done, _ in steps[:2]) + [
        done for done, _ in steps[2:]
    ]


# ---- a generator redraws -------------------------------------------------------------------------------

QUICK = RedrawConfig(steps=2, batch=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"ddpm": tiny.ddpm, "sd": tiny.stable_diffusion, "dit": tiny.dit, "flux": tiny.flux}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


@pytest.fixture
def drawing(context: Context, folders: dict[str, Path]) -> Context:
    """The real models, with every tiny generator registered."""
    with context.workspace.catalog() as catalog:
        for name, folder in folders.items():
            catalog.generators.add(GeneratorVersion(id=name, name=f"tiny {name}", location=str(folder)))
        catalog.commit()
    return Context(context.workspace, real_models("cpu"))


@pytest.mark.parametrize("generator", ["ddpm", "sd", "flux"])
def test_a_generator_redraws_a_region_of_each_clean_image(drawing: Context, generator: str) -> None:
    workspace = drawing.workspace
    run = InjectionRun(images=REAL, source="redraw", generator=generator, redraw=QUICK)
    result = inject_images(drawing, run)
    assert (result["images"], result["kinds"], result["clean"]) == (
        3,
        {"redraw": 3},
        3,
    ) and "note" not in result
    made = injected(workspace)
    labels, before = labels_by_image(workspace, list(made)), found(workspace, source="real")
    for image in made.values():
        about = image.settings[INJECTED]
        clean = before[about["of"]]
        pixels, original = (decode(workspace.blobs.get(each.sha256)) for each in (image, clean))
        mask = map_of(workspace, labels[image.id]) > 0
        assert mask.any() and np.array_equal(pixels[~mask], original[~mask])
        assert (pixels[mask] != original[mask]).mean() > 0.2
        expected = {
            "generator": generator,
            "steps": 2,
            "strength": 1.0,
            "excess": 2.0,
            "seed": 0,
            "attempt": 0,
        }
        assert expected.items() <= about.items() and image.generator_id is None
    again = inject_images(drawing, run)
    assert (again["images"], again["known"]) == (0, 3)
    assert inject_images(drawing, run.model_copy(update={"redraw": RedrawConfig(steps=3)}))["images"] == 3


def test_a_resumed_redraw_gives_the_same_rows(
    drawing: Context, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_workspace(shutil.copytree(drawing.workspace.path, tmp_path / "whole"))
    run = InjectionRun(images=REAL, source="redraw", generator="ddpm", redraw=QUICK, copies=2)
    inject_images(Context(whole, real_models("cpu")), run)
    monkeypatch.setattr("pipelines.selections.inject.STORED_AT_ONCE", 3)
    stops = iter((False, True))
    with monkeypatch.context() as patch:

        def killed(name: str) -> None:
            if next(stops):
                raise KeyboardInterrupt

        patch.setattr("pipelines.selections.inject.fail_point", killed)
        with pytest.raises(KeyboardInterrupt):
            inject_images(drawing, run)
    assert len(injected(drawing.workspace)) == 3
    inject_images(drawing, run)
    assert content(drawing.workspace) == content(whole)
    whole.close()


def test_what_a_generator_cannot_draw_is_left_out_by_one_sentence_each(drawing: Context) -> None:
    workspace = drawing.workspace
    silent = stored(workspace, 50)
    numbered = stored(workspace, 52, textured(64, 64), prompt="1")
    add(workspace, [silent, numbered])
    run = InjectionRun(images=REAL, source="redraw", generator="flux", redraw=QUICK)
    result = inject_images(drawing, run)
    assert (result["images"], result["left_out"]) == (4, 1)
    assert result["left_out_images"][0].startswith(
        f"{silent.id} (photos/50.png): it has no prompt, which tiny flux"
    )
    of_classes = inject_images(drawing, run.model_copy(update={"generator": "dit"}))
    assert (of_classes["images"], of_classes["left_out"]) == (2, 3), "a number is a class, nothing is none"
    assert sum("there is no class 'photo" in reason for reason in of_classes["left_out_images"]) == 3


def test_nothing_is_opened_when_all_was_made(drawing: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    run = InjectionRun(images=REAL, source="redraw", generator="ddpm", redraw=QUICK)
    inject_images(drawing, run)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to draw")

    monkeypatch.setattr(jobs, "open_generator", refuse)
    assert inject_images(drawing, run)["known"] == 3
