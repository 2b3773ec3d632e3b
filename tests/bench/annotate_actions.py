"""How many clicks and strokes a good mask costs: accept and correct, against the brush alone.

Both ways are planned by the same greedy planner, which knows the truth, and then done in the browser with a
mouse: until the mask overlaps the truth by IoU ≥ 0.9. A brush stroke is a straight drag at the best of five
sizes (choosing the size is free); a lasso stroke goes once around a region. Moving the threshold is an
action.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Page
from scipy import ndimage

from dataengine.masks import components, unpack_label_map
from storage.workspace import Workspace
from tests.bench.annotate_browser import chromium, open_desk
from tests.bench.annotate_server import served, workspace_with_queue
from tests.bench.harness import Figure, bootstrap, figure

ENOUGH = 0.9
SIZES = (1, 3, 5, 9, 15)
CANDIDATES = 160
TRIES = 6
MOST_STROKES = 60
THRESHOLDS = tuple(range(10, 95, 5))
DEFAULT_THRESHOLD = 50
WORLD_USE = "validation"


@dataclass(frozen=True)
class Action:
    """One thing that a person does: "threshold", "accept" (a point), "brush" / "erase", "lasso" / "cut"."""

    kind: str
    points: tuple[tuple[float, float], ...] = ()
    size: int = 0


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def capsule(start: np.ndarray, end: np.ndarray, size: int, side: int) -> np.ndarray:
    """The pixels that a drag marks: their middles lie within half the size of the segment (x, y)."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    dx, dy = end - start
    length = max(dx * dx + dy * dy, 1e-9)
    along = np.clip(((columns - start[0]) * dx + (rows - start[1]) * dy) / length, 0, 1)
    return (columns - start[0] - along * dx) ** 2 + (rows - start[1] - along * dy) ** 2 <= (size / 2) ** 2


def strokes(mask: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> list[Action]:
    """Straight drags, each the best of many, from this mask until it is good enough."""
    mask, done, tries = mask.copy(), list[Action](), 0
    while iou(mask, truth) < ENOUGH and len(done) < MOST_STROKES and tries < TRIES:
        action, after = best_stroke(mask, truth, rng)
        if action is None:
            tries += 1
        else:
            done.append(action)
            mask, tries = after, 0
    return done


def best_stroke(
    mask: np.ndarray, truth: np.ndarray, rng: np.random.Generator
) -> tuple[Action | None, np.ndarray]:
    """Of random drags between wrong pixels the one after which the masks overlap most, if any helps."""
    best: tuple[float, Action | None, np.ndarray] = (iou(mask, truth), None, mask)
    for kind, places in (("brush", np.argwhere(truth & ~mask)), ("erase", np.argwhere(mask & ~truth))):
        for size in SIZES if len(places) else ():
            for first, second in rng.integers(0, len(places), (CANDIDATES // len(SIZES), 2)):
                start, end = places[first][::-1] + 0.5, places[second][::-1] + 0.5
                touched = capsule(start, end, size, len(mask))
                after = mask | touched if kind == "brush" else mask & ~touched
                if (worth := iou(after, truth)) > best[0]:
                    best = worth, Action(kind, (tuple(start), tuple(end)), size), after
    return best[1], best[2]


def outline(region: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The region's outer outline as points (x, y), walked along pixel edges."""
    filled = np.pad(ndimage.binary_fill_holes(region), 1)
    rows, columns = np.nonzero(filled)
    start = here = int(columns[0]), int(rows[0])
    heading, points = (1, 0), []
    while not points or here != start:
        points.append((here[0] - 1.0, here[1] - 1.0))
        here = here[0] + heading[0], here[1] + heading[1]
        heading = turn(filled, here, heading)
    return tuple(points)


def turn(filled: np.ndarray, corner: tuple[int, int], heading: tuple[int, int]) -> tuple[int, int]:
    """The next corner of an outline that has the inside on its right."""
    x, y = corner
    dx, dy = heading
    for way in ((dy, -dx), (dx, dy), (-dy, dx)):  # left, straight on, right
        right, left = beside(x, y, way)
        if filled[right] and not filled[left]:
            return way
    return -dx, -dy


def beside(x: int, y: int, way: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The pixels (row, column) right and left of the edge that leaves corner (x, y) that way."""
    return {
        (1, 0): ((y, x), (y - 1, x)),
        (0, 1): ((y, x - 1), (y, x)),
        (-1, 0): ((y - 1, x - 1), (y, x - 1)),
        (0, -1): ((y - 1, x), (y - 1, x - 1)),
    }[way]


def lassos(mask: np.ndarray, truth: np.ndarray) -> list[Action]:
    """Loops around what is missing or too much, the largest first, until it is good enough."""
    mask, done = mask.copy(), []
    while iou(mask, truth) < ENOUGH and len(done) < MOST_STROKES:
        wrong = []
        for kind, where in (("lasso", truth & ~mask), ("lasso", truth), ("cut", mask & ~truth)):
            numbers, count = components(where)
            wrong += [(kind, ndimage.binary_fill_holes(numbers == number)) for number in range(1, count + 1)]
        changed = [(kind, mask | region if kind == "lasso" else mask & ~region) for kind, region in wrong]
        best = int(np.argmax([iou(after, truth) for _, after in changed]))
        if iou(changed[best][1], truth) <= iou(mask, truth):
            break
        done.append(Action(changed[best][0], outline(wrong[best][1])))
        mask = changed[best][1]
    return done


def accepted(confidence: np.ndarray, truth: np.ndarray) -> tuple[list[Action], np.ndarray]:
    """The threshold and the components to accept that overlap the truth best for their number of actions."""
    best: tuple[float, list[Action], np.ndarray] = (0.0, [], np.zeros_like(truth))
    for percent in THRESHOLDS:
        numbers, count = components(confidence >= max(1, round(255 * percent / 100)))
        actions = [] if percent == DEFAULT_THRESHOLD else [Action("threshold", size=percent)]
        mask = np.zeros_like(truth)
        for number in range(1, count + 1):
            region = numbers == number
            if np.count_nonzero(region) < 4 or iou(mask | region, truth) <= iou(mask, truth):
                continue
            mask = mask | region
            row, column = np.argwhere(region)[np.count_nonzero(region) // 2]
            actions.append(Action("accept", ((column + 0.5, row + 0.5),)))
        worth = iou(mask, truth) - 0.1 * len(actions)
        if mask.any() and worth > best[0]:
            best = worth, actions, mask
    return best[1], best[2]


def plans(confidence: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, list[Action]]:
    """What each way of working does for one image."""
    rng = np.random.default_rng([11, seed])
    taken, mask = accepted(confidence, truth)
    brush = strokes(np.zeros_like(truth), truth, rng)
    by_brush = taken + strokes(mask, truth, rng)
    loops = shorter(taken + lassos(mask, truth), lassos(np.zeros_like(truth), truth))
    # Who sees that the suggestions are no help leaves them.
    return {"brush": brush, "accept_then_brush": shorter(by_brush, brush), "accept": shorter(by_brush, loops)}


def shorter(one: list[Action], other: list[Action]) -> list[Action]:
    return one if len(one) <= len(other) else other


def perform(page: Page, actions: list[Action], side: int) -> None:
    """Do it with mouse and sliders."""
    box = page.locator("#layers").bounding_box()
    assert box
    scale = box["width"] / side
    tool, threshold = "", DEFAULT_THRESHOLD
    for action in actions:
        wanted = {"accept": "v", "brush": "b", "erase": "e", "lasso": "l", "cut": "l"}.get(action.kind, tool)
        if wanted != tool:
            page.keyboard.press(wanted)
            tool = wanted
        if action.kind == "threshold":
            threshold = action.size
            set_threshold(page, threshold)
            continue
        if action.size:
            page.locator("#size").fill(str(action.size))
        places = [(box["x"] + x * scale, box["y"] + y * scale) for x, y in action.points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        if action.kind == "cut":
            page.keyboard.down("Shift")
        page.mouse.up()
        if action.kind == "cut":
            page.keyboard.up("Shift")


def set_threshold(page: Page, percent: int) -> None:
    page.locator("#threshold").fill(str(percent))
    page.wait_for_selector("#stage[data-ready=true]")


def action_figures(scratch: Path, count: int) -> list[Figure]:
    """The ratio on clinic images with the first detector's maps, and the numbers it is computed from."""
    from dataengine.clinic.parts import materialise
    from dataengine.clinic.world import stream
    from dataengine.diagnosis.detector import load_detector

    doctor = load_detector(materialise("first_doctor", scratch / "doctor"))
    found = stream(WORLD_USE, flawed=1.0)
    drawings = [found[number] for number in range(count)]
    truths = [drawing.label_map > 0 for drawing in drawings]
    maps = [doctor.find_artifacts(drawing.image) for drawing in drawings]
    planned = [
        plans(np.rint(255 * confidence).astype(np.uint8), truth, number)
        for number, (confidence, truth) in enumerate(zip(maps, truths, strict=True))
    ]
    counts = {}
    for way in planned[0]:
        workspace = workspace_with_queue(
            scratch / way, [drawing.image for drawing in drawings], maps, ["ada"]
        )
        overlaps = draw_all(workspace, [plan[way] for plan in planned], truths)
        if min(overlaps) < ENOUGH - 0.02:
            raise AssertionError(f"{way}: a mask came out at IoU {min(overlaps):.3f}")
        counts[way] = np.array([len(plan[way]) for plan in planned], float)
        workspace.close()
    detail = f"mean actions: brush {counts['brush'].mean():.1f}"
    return [
        ratio("actions_ratio", counts["accept"], counts["brush"], detail, "every tool to correct with"),
        ratio(
            "actions_ratio_brush_corrects",
            counts["accept_then_brush"],
            counts["brush"],
            detail,
            "brush and eraser alone to correct with",
        ),
    ]


def ratio(id: str, some: np.ndarray, brush: np.ndarray, detail: str, what: str) -> Figure:
    """Total actions over total actions, resampled by image."""
    pairs = np.stack([some, brush], axis=1)
    interval = bootstrap(pairs, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()))
    note = f"IoU ≥ {ENOUGH}, first detector's maps, {what}; {detail}, here {some.mean():.1f}"
    return figure(id, some.sum() / brush.sum(), interval, "ratio", len(some), note)


def draw_all(workspace: Workspace, planned: list[list[Action]], truths: list[np.ndarray]) -> list[float]:
    """Carry the plans out in the browser; the overlap of what the server stored with the truth."""
    side = len(truths[0])
    with workspace.catalog(read_only=True) as catalog:
        images = [item.image_id for item in catalog.queue.of_round("r")]
    with served(workspace) as url, chromium() as browser:
        page = open_desk(browser, url, "ada")
        for image, actions in zip(images, planned, strict=True):
            page.wait_for_selector(f'#layers[data-image="{image}"]')
            page.wait_for_selector("#stage[data-ready=true]")
            if page.locator("#threshold").input_value() != str(DEFAULT_THRESHOLD):
                set_threshold(page, DEFAULT_THRESHOLD)
            perform(page, actions, side)
            page.keyboard.press("Enter")
        page.wait_for_selector("#empty:not([hidden])", state="visible")
        page.wait_for_selector('#outbox[data-waiting="0"]', state="attached")
        page.context.close()
    overlaps = []
    for image, truth in zip(images, truths, strict=True):
        with workspace.catalog(read_only=True) as catalog:
            label = catalog.labels.latest(image, "ada")
        assert label is not None and label.label_map is not None
        drawn = unpack_label_map(workspace.blobs.get(label.label_map), side, side)
        overlaps.append(iou(drawn > 0, truth))
    return overlaps
