"""Real exports of a real Label Studio: regions of every kind come in as they were drawn there, in whatever
format it writes, and what we export loads into a server that knows none of our people.
"""

import json
import re
import zipfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter import brush as sdk
from PIL import Image as Pillow

from dataengine.errors import InputRefused
from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import Label, QueueItem
from pipelines.exchange.label_studio.pull import pull
from pipelines.exchange.label_studio.push import push
from pipelines.exchange.label_studio.server import Server
from pipelines.exchange.label_studio.tasks import brush_results
from pipelines.exchange.readers.folders import import_folder
from pipelines.exchange.writers.snapshot_folder import export_folder
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.labelstudio.server import EMAIL
from tests.labelstudio.test_label_studio import AUTHOR, CLASSES, drawn, label_of, square, tasks_of
from tests.pipelines.exchange import pictures
from tests.pipelines.exchange.labelled import take
from tests.ui.conftest import SIDE

pytestmark = [pytest.mark.labelstudio, pytest.mark.timeout(1800)]
HEIGHT, WIDTH = 48, 64
LABELS = "".join(f'<Label value="{name}"/>' for name in CLASSES)
CONTROLS = (
    f'<Labels name="labels" toName="photo">{LABELS}</Labels><Brush name="brush" toName="photo"/>'
    f'<MagicWand name="wand" toName="photo"/>'
    '<Choices name="quality" toName="photo"><Choice value="usable"/><Choice value="broken"/></Choices>'
    '<TextArea name="why" toName="photo"/><Rating name="stars" toName="photo"/>'
    '<Number name="fingers" toName="photo"/>'
    + "".join(
        f'<{kind}Labels name="{kind}" toName="photo">{LABELS}</{kind}Labels>'
        for kind in ("Brush", "Polygon", "Rectangle", "Ellipse", "KeyPoint", "Bitmask")
    )
)
CONFIG = f'<View><Image name="photo" value="$photo"/>{CONTROLS}</View>'


def block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def region(kind: str, control: str, value: dict[str, Any], key: str = "r1") -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": key, "type": kind, "from_name": control, "to_name": "photo", "value": value} | size


def stroke(mask: np.ndarray) -> dict[str, Any]:
    return {"format": "rle", "rle": sdk.mask2rle(mask.astype(np.uint8) * 255)}


def ellipse(degrees: float) -> np.ndarray:
    """Centre (32, 24), half-axes 16 and 6, by its equation."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turn = np.exp(-1j * np.radians(degrees)) * ((columns - 32) + 1j * (rows - 24))
    return (turn.real / 16) ** 2 + (turn.imag / 6) ** 2 <= 1


def turned_rectangle() -> np.ndarray:
    """Corner (32, 10), sides 20 and 12, turned by 33° clockwise about the corner."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turn = np.exp(-1j * np.radians(33)) * ((columns - 32) + 1j * (rows - 10))
    return (turn.real >= 0) & (turn.real < 20) & (turn.imag >= 0) & (turn.imag < 12)


RING = block(10, 30, 10, 30) & ~block(15, 20, 15, 20)
ONE = {"brushlabels": [CLASSES[0]]}
CHOICE = {
    "id": "c",
    "type": "choices",
    "from_name": "quality",
    "to_name": "photo",
    "value": {"choices": ["broken"]},
}
TEXT = {
    "id": "t",
    "type": "textarea",
    "from_name": "why",
    "to_name": "photo",
    "value": {"text": ["six fingers"]},
}
STARS = {"id": "s", "type": "rating", "from_name": "stars", "to_name": "photo", "value": {"rating": 4}}
COUNT = {"id": "n", "type": "number", "from_name": "fingers", "to_name": "photo", "value": {"number": 6}}
STROKE = region("brushlabels", "Brush", stroke(RING) | ONE)
CORNERS = [(8, 6), (40, 6), (40, 30), (24, 30), (24, 18), (8, 18)]
POLYGON = region(
    "polygonlabels",
    "Polygon",
    {
        "points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CORNERS],
        "closed": True,
        "polygonlabels": [CLASSES[1]],
    },
    "p1",
)
POLYGON_MASK = block(6, 18, 8, 40) | block(18, 30, 24, 40)
RECTANGLE = {"x": 25, "y": 12.5, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": [CLASSES[2]]}
TURNED = {"x": 50, "y": 100 * 10 / 48, "width": 100 * 20 / 64, "height": 25, "rotation": 33}
ELLIPSE = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "ellipselabels": [CLASSES[0]]}

DRAWN: dict[str, tuple[list[Any], dict[int, np.ndarray] | None]] = {
    "plain.png": ([STROKE], {1: RING}),
    "my image (1).png": ([STROKE, CHOICE, TEXT, STARS, COUNT], {1: RING}),
    "größe.png": ([STROKE | {"id": "r2"}, STROKE, {"type": "relation", "from_id": "r1", "to_id": "r2",
                   "direction": "right", "labels": []}], {1: RING}),
    "50%20off.png": ([region("brush", "brush", stroke(RING)),
                      region("labels", "labels", stroke(RING) | {"labels": [CLASSES[2]]})], {3: RING}),
    "x+y.png": ([region("magicwand", "wand", stroke(RING)),
                 region("labels", "labels", stroke(RING) | {"labels": [CLASSES[1]]})], {2: RING}),
    "polygon.png": ([POLYGON], {2: POLYGON_MASK}),
    "rectangle.png": ([region("rectanglelabels", "Rectangle", RECTANGLE)], {3: block(6, 18, 16, 48)}),
    "turned.png": ([region("rectanglelabels", "Rectangle", TURNED | {"rectanglelabels": [CLASSES[0]]})],
                   {1: turned_rectangle()}),
    "ellipse.png": ([region("ellipselabels", "Ellipse", ELLIPSE)], {1: ellipse(0)}),
    "turned ellipse.png": ([region("ellipselabels", "Ellipse", ELLIPSE | {"rotation": 30})],
                           {1: ellipse(30)}),
    "point.png": ([STROKE, region("keypointlabels", "KeyPoint",
                   {"x": 5, "y": 5, "width": 1, "keypointlabels": [CLASSES[0]]}, "k1")], {1: RING}),
    "clean.png": ([], {}),
    "answered.png": ([CHOICE], None),
    "half.png": ([STROKE, region("polygonlabels", "Polygon",
                  POLYGON["value"] | {"polygonlabels": ["unheard of"]}, "p1")], None),
}  # fmt: skip
"""Each picture's results, and where each class is marked; None for one that gets no label."""


def map_of(masks: dict[int, np.ndarray]) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for number, mask in masks.items():
        found[mask] = number
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(DRAWN):
        (folder / name).write_bytes(pictures.encoded(pictures.scene(number, HEIGHT, WIDTH)))
    return folder


def annotated(server: Server, photos: Path, title: str, config: str, names: Iterable[str]) -> int:
    """A project with those pictures, uploaded, and their annotations."""
    number: int = server.client.projects.create(title=title, label_config=config).id
    for name in names:
        sent = {"file": (name, (photos / name).read_bytes(), "image/png")}
        task = server.post(f"projects/{number}/import", params={"return_task_ids": "true"}, files=sent)
        server.client.annotations.create(id=task["task_ids"][0], result=DRAWN[name][0], lead_time=3.0)
    return number


@pytest.fixture(scope="module")
def project(server: Server, photos: Path) -> int:
    """A project as a team has it, with annotations by every control."""
    return annotated(server, photos, "every control", CONFIG, DRAWN)


@pytest.fixture(scope="module")
def areas(server: Server, photos: Path) -> int:
    """One without key points, for which Label Studio's COCO export fails or repeats the ids of categories."""
    names = ("plain.png", "polygon.png", "rectangle.png", "ellipse.png", "clean.png")
    return annotated(server, photos, "areas", re.sub("<KeyPoint.*</KeyPointLabels>", "", CONFIG), names)


def exported(server: Server, project: int, kind: str, folder: Path) -> Path:
    parts = server.client.projects.exports.download_sync(project, export_type=kind, download_all_tasks=True)
    data = b"".join(parts)
    path = folder / (f"{kind}.zip" if data[:2] == b"PK" else f"{kind}.json")
    path.write_bytes(data)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    workspace = create_workspace(tmp_path / "empty")
    yield workspace
    workspace.close()


def maps(workspace: Workspace) -> dict[str, np.ndarray | None]:
    """Each picture's label map by the hash of its file; None without a label."""
    found: dict[str, np.ndarray | None] = {}
    with workspace.catalog(read_only=True) as catalog:
        for image in catalog.images.find():
            labels = catalog.labels.of_images([image.id])
            assert len(labels) < 2
            found[image.sha256] = None
            for label in labels:
                packed = workspace.blobs.get(label.label_map) if label.label_map else None
                found[image.sha256] = (
                    unpack_label_map(packed, HEIGHT, WIDTH)
                    if packed
                    else np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
                )
    return found


def hash_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_json(server: Server, project: int, photos: Path, empty: Workspace, tmp_path: Path) -> None:
    """By the pictures as people have them, whose names the server has changed."""
    result = take(empty, "label-studio", exported(server, project, "JSON", tmp_path), images=photos)
    assert result.added == len(DRAWN)
    found = maps(empty)
    for name, (_, masks) in DRAWN.items():
        label_map = found[hash_of(photos / name)]
        if masks is None:
            assert label_map is None, name
        else:
            assert label_map is not None and np.array_equal(label_map, map_of(masks)), name
    reasons = " ".join(one.reason for one in result.refused)
    assert len(result.refused) == 3
    assert "unheard of" in reasons and "is a point" in reasons and "choices and marks nothing" in reasons
    kinds = {loss.split()[3] for loss in result.losses[1:]}
    assert kinds == {"choices", "textarea", "rating", "number", "relation"}
    again = take(empty, "label-studio", exported(server, project, "JSON", tmp_path), images=photos)
    assert (again.added, again.labels) == (0, 0)


@pytest.mark.parametrize("kind", ["COCO", "COCO_WITH_IMAGES"])
def test_coco(kind: str, server: Server, areas: int, photos: Path, empty: Workspace, tmp_path: Path) -> None:
    """Polygons and upright rectangles are the same pixels by COCO; it has nothing of strokes and ellipses."""
    path = exported(server, areas, kind, tmp_path)
    given = {}
    if kind == "COCO":  # it names the uploads, and has none of them
        with zipfile.ZipFile(path) as archive:
            payload = json.loads(archive.read("result.json"))
        given = {"images": tmp_path / "uploads"}
        given["images"].mkdir()
        for name in [one["file_name"].rpartition("/")[2] for one in payload["images"]]:
            (given["images"] / name).write_bytes((photos / name.partition("-")[2]).read_bytes())
    result = take(empty, "coco", path, **given)
    assert result.added == 5 and not result.refused
    found = maps(empty)
    for name in ("polygon.png", "rectangle.png"):
        masks, label_map = DRAWN[name][1], found.pop(hash_of(photos / name))
        assert masks is not None and label_map is not None
        assert np.array_equal(label_map, map_of(masks))
    assert set(map(type, found.values())) == {type(None)}
    with pytest.raises(InputRefused, match=r"leaves out brush strokes.*export JSON"):
        take(empty, "coco", path, clean=True, **given)


@pytest.mark.parametrize(
    ("kind", "format", "says"),
    [
        ("JSON_MIN", "label-studio", "JSON-MIN export.*export JSON"),
        ("CSV", "label-studio", "export JSON from Label Studio"),
        ("TSV", "label-studio", "export JSON from Label Studio"),
        ("BRUSH_TO_COCO", "coco", "outermost pixels.*export JSON"),
    ],
)
def test_exports_that_lose_too_much_are_named(
    kind: str, format: str, says: str, server: Server, project: int, empty: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(InputRefused, match=says):
        take(empty, format, exported(server, project, kind, tmp_path))


def test_strokes_are_those_of_its_own_png(
    server: Server, project: int, photos: Path, empty: Workspace, tmp_path: Path
) -> None:
    exports = exported(server, project, "JSON", tmp_path)
    tasks = {one["id"]: one["file_upload"] for one in json.loads(exports.read_text())}
    take(empty, "label-studio", exports, images=photos)
    found = maps(empty)
    with zipfile.ZipFile(exported(server, project, "BRUSH_TO_PNG", tmp_path)) as archive:
        archive.extractall(tmp_path / "png")
    compared = 0
    for path in (tmp_path / "png").glob("*.png"):
        upload = tasks[int(path.name.split("-")[1])]
        photo = next((p for p in photos.iterdir() if upload.endswith(f"-{p.name}")), None)
        label_map = found.get(hash_of(photo)) if photo else None
        if label_map is not None:
            compared += 1
            assert np.array_equal(label_map > 0, np.asarray(Pillow.open(path)) >= 128)
    assert compared >= 2


def test_our_export_loads_into_an_empty_server(
    server: Server, title: str, empty: Workspace, photos: Path, tmp_path: Path
) -> None:
    import_folder(empty, photos)
    truth: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(7)
    with empty.catalog() as catalog:
        for number, image in enumerate(catalog.images.find()):
            label_map = np.where(rng.random((HEIGHT, WIDTH)) < 0.2, rng.integers(1, 4, (HEIGHT, WIDTH)), 0)
            label_map = (label_map * (number > 0)).astype(np.uint8)
            truth[image.sha256] = label_map
            (blob,) = empty.blobs.put_many([pack_label_map(label_map)])
            catalog.labels.submit(
                Label(
                    image_id=image.id, author="somebody whom no server knows", height=HEIGHT, width=WIDTH,
                    label_map=blob if number else None, clean=not number, lead_seconds=2.0,
                )
            )  # fmt: skip
        catalog.commit()
    out = export_folder(empty, tmp_path / "out", format="label-studio").folder
    project = server.client.projects.create(title=title)
    tasks = json.loads((out / "tasks.json").read_text())
    done = server.post(f"projects/{project.id}/import", json=tasks)
    assert (done["task_count"], done["annotation_count"]) == (len(DRAWN), len(DRAWN))
    server.client.projects.update(project.id, label_config=(out / "label_config.xml").read_text())

    other = create_workspace(tmp_path / "other")
    back = take(other, "label-studio", exported(server, project.id, "JSON", tmp_path), images=out / "images")
    assert back.labels == len(DRAWN) and not back.refused
    found = maps(other)
    assert found.keys() == truth.keys()
    assert all(np.array_equal(found[key], label_map) for key, label_map in truth.items())
    with other.catalog(read_only=True) as catalog:
        assert {label.author for label in catalog.labels.by(AUTHOR)} <= {f"label-studio:{EMAIL}"}
    other.close()


def test_pull_reads_what_import_reads(workspace: Workspace, server: Server, title: str) -> None:
    """A pushed project to which a team adds controls."""
    pushed = push(workspace, server, title, round_id="r1")
    config = server.client.projects.get(pushed.project).label_config
    more = CONTROLS.replace('toName="photo"', 'toName="image"')
    server.client.projects.update(pushed.project, label_config=config.replace("</View>", more + "</View>"))
    tasks = tasks_of(server, pushed.project)
    (stroke_region,) = brush_results(np.where(square() == 1, 1, 0).astype(np.uint8), CLASSES)
    size = {"original_width": SIDE, "original_height": SIDE, "image_rotation": 0, "to_name": "image"}
    value = {"x": 50, "y": 50, "width": 25, "height": 12.5, "rotation": 0, "rectanglelabels": [CLASSES[1]]}
    box = {"id": "b", "type": "rectanglelabels", "from_name": "Rectangle", "value": value} | size
    lost = box | {"id": "l", "value": value | {"rectanglelabels": ["unheard of"]}}
    cases = ([stroke_region, CHOICE, TEXT], [stroke_region, box], [stroke_region, lost], [CHOICE], [])
    for image, results in zip(sorted(tasks), cases, strict=False):
        server.client.annotations.create(id=tasks[image], result=results)
    result = pull(workspace, server, title)
    assert (result.annotations, result.labels, len(result.refused)) == (5, 3, 2)
    assert "--partial" in result.refused[0].reason and "choices" in result.refused[1].reason
    assert [loss.split()[3] for loss in result.losses] == ["choices", "textarea"]
    first, second, third, fourth, fifth = sorted(tasks)[:5]
    plain = np.where(square() == 1, 1, 0)
    assert np.array_equal(drawn(workspace, label_of(workspace, first)), plain)
    plain[SIDE // 2 : SIDE // 2 + SIDE // 8, SIDE // 2 : SIDE // 2 + SIDE // 4] = 2
    assert np.array_equal(drawn(workspace, label_of(workspace, second)), plain)
    assert label_of(workspace, fifth).clean
    assert pull(workspace, server, title).labels == 0
    assert pull(workspace, server, title, partial=True).labels == 1
    assert drawn(workspace, label_of(workspace, third)).any()
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.latest(fourth, AUTHOR) is None


def test_push_sends_those_that_wait_and_a_pull_answers_them(
    workspace: Workspace, server: Server, title: str
) -> None:
    with workspace.catalog() as catalog:
        waiting = [item.image_id for item in catalog.queue.waiting("r1")]
        for image in waiting:
            label = Label(image_id=image, author="ada", height=SIDE, width=SIDE, clean=True, round_id="r1")
            catalog.labels.submit(label)
        asked = sorted(waiting)[:2]
        catalog.queue.add_many(QueueItem(image_id=image, round_id="desk-2026-11-30") for image in asked)
        catalog.commit()
    pushed = push(workspace, server, title)
    tasks = tasks_of(server, pushed.project)
    assert sorted(tasks) == asked and (pushed.tasks, pushed.known) == (2, 0)
    for task in tasks.values():
        server.client.annotations.create(id=task, result=[])
    assert pull(workspace, server, title).labels == 2
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.queue.remaining() == 0
    with pytest.raises(InputRefused, match="no image waits for people"):
        push(workspace, server, title)
    # Asked for again, its task is there; a changed annotation answers whoever asked last.
    with workspace.catalog() as catalog:
        catalog.queue.add_many([QueueItem(image_id=asked[0], round_id="desk-2026-12-01")])
        catalog.commit()
    again = push(workspace, server, title)
    assert (again.tasks, again.known) == (0, 1)
    results = brush_results(square(), CLASSES)
    server.client.annotations.create(id=tasks[asked[0]], result=results)
    assert pull(workspace, server, title).labels == 1
    assert label_of(workspace, asked[0]).round_id == "desk-2026-12-01"
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.queue.remaining() == 0
