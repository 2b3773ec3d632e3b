"""The tools. Each is one or two calls of the client; what the account may not do, its server refuses."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import anyio
from anyio.to_thread import run_sync
from fastmcp import Context
from fastmcp.tools import ToolResult
from fastmcp.utilities.types import Image
from pydantic import Field

from dataengine.errors import ClinicError
from ui.client import Clinic, Job, Run
from ui.client.jobs import ENDED
from ui.client.records import ImageFilter
from ui.mcp.pictures import map_png, pairs_png, plain_png

POINTS = 20
"""Of each curve."""
SHOWN_PAIRS = 4
STEP_SECONDS = 1.0
TRAINING, TREATING = "train-", "treat-"

Id = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(max_length=400, description='words of the prompt: hand "five fingers" -glove')]
Name = Annotated[str, Field(max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
State = Literal["unlabelled", "waiting", "unreviewed", "approved", "returned", "refused"]
Split = Literal["train", "validation", "benchmark"]
Sort = Literal["uncertainty", "max", "disagreement", "newest", "oldest"]
Answer = dict[str, Any]


class Tools:
    """The tools over a clinic; `clinic` gives the client of the account that calls."""

    def __init__(self, clinic: Callable[[], Clinic]) -> None:
        self.clinic = clinic

    @property
    def reading(self) -> Sequence[Callable[..., Any]]:
        """Tools that change nothing."""
        return (
            self.report,
            self.search_images,
            self.show_image,
            self.hard_categories,
            self.list_runs,
            self.training_progress,
            self.wait_for,
            self.compare,
            self.list_detectors,
            self.list_generators,
        )

    @property
    def changing(self) -> Sequence[Callable[..., Any]]:
        """Tools that queue images, use the workers, or change the champion."""
        return (
            self.find_artifacts,
            self.queue_for_people,
            self.start_training,
            self.start_treatment,
            self.promote_detector,
        )

    def report(self) -> Answer:
        """What there is and what goes on: who you are, images by state, the champion, unfinished runs."""
        clinic = self.clinic()
        person = clinic.whoami()
        found: Answer = {"server": clinic.url, "account": person["name"], "roles": person["roles"]}
        found["images"] = clinic.images.count().total
        for state in ("unlabelled", "waiting", "unreviewed"):
            found[state] = clinic.images.count(state=state).count
        if {"engineer", "admin"} & set(person["roles"]):
            champion = clinic.detectors.champion()
            found["champion"] = champion and {"id": champion.id, "name": champion.name}
            runs = [*clinic.training.list(), *clinic.treating.list()]
            found["unfinished_runs"] = [run_row(run) for run in runs if run.state not in ENDED]
        return found

    def search_images(
        self,
        words: Words = "",
        category: Name | None = None,
        state: State | None = None,
        split: Split | None = None,
        generator: Name | None = None,
        tag: Name | None = None,
        lowest_confidence: Share = 0.0,
        sort: Sort | None = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> Answer:
        """Images by the words of their prompt, category, state and confidence of an artifact; with the number
        that matches. Without `sort`, the most uncertain first, for words the newest."""
        wanted = {"search": words or None, "category": category, "state": state, "split": split}
        wanted |= {"generator": generator, "tag": tag}
        selection: ImageFilter = {name: value for name, value in wanted.items() if value is not None}  # type: ignore[assignment]
        if lowest_confidence:
            selection["low"] = lowest_confidence
        clinic = self.clinic()
        count = clinic.images.count(**selection)
        shown = ("id", "prompt", "category", "split", "max", "uncertainty", "labelled", "tags")
        images = [
            {name: getattr(image, name) for name in shown}
            for image in clinic.images.list(sort=sort, limit=limit, **selection)
        ]
        return {"matching": count.count, "of": count.total, "images": images}

    def show_image(
        self,
        image: Id,
        with_map: bool = True,
        detector: Annotated[str, Field(max_length=200)] | None = None,
    ) -> ToolResult:
        """An image, and the same under its artifact map: orange where a detector (default: the champion)
        finds artifacts. Also its labels and confidences."""
        clinic = self.clinic()
        detail, file = clinic.images.get(image), clinic.images.pixels(image)
        shown = ("id", "prompt", "category", "split", "generator", "height", "width", "tags", "snapshots")
        about: Answer = {name: getattr(detail, name) for name in shown}
        about["labels"] = [
            {name: one.get(name) for name in ("author", "revision", "clean", "source", "review")}
            for one in detail.labels
        ]
        figures = ("detector", "max", "mean", "note")
        about["predictions"] = [{name: one.get(name) for name in figures} for one in detail.predictions]
        images = [Image(data=plain_png(file), format="png")]
        if with_map:
            try:
                images.append(Image(data=map_png(file, clinic.images.map(image, detector)), format="png"))
            except ClinicError as error:
                if detector is not None:
                    raise
                about["map"] = f"there is none: {error}"
        return with_images(about, images)

    def hard_categories(self, detector: Annotated[str, Field(max_length=200)] | None = None) -> Answer:
        """Categories by how often a detector finds artifacts in them, the worst first. `verdict` says whether
        a category is hard by a statistical test, `p` is corrected for several categories."""
        shown = ("category", "images", "mean", "verdict", "p", "reviewed")
        found = self.clinic().images.categories(detector)
        return {"categories": [{name: getattr(one, name) for name in shown} for one in found]}

    def list_runs(self, kind: Literal["training", "treatment"] = "training") -> Answer:
        """Trainings of detectors, or treatments of generators, the newest first."""
        clinic = self.clinic()
        runs = clinic.training.list() if kind == "training" else clinic.treating.list()
        return {"runs": [run_row(run) for run in runs[:50]]}

    def training_progress(self, run: Id) -> Answer:
        """How a training or treatment stands: state, step, seconds left, and its curves, thinned."""
        clinic = self.clinic()
        runs = clinic.treating if run.startswith(TREATING) else clinic.training
        found, curves = runs.get(run), runs.curve(run)
        thin: Answer = {}
        for name, (steps, values) in curves.items():
            every = max(1, -(-len(steps) // POINTS))
            places = sorted({*range(0, len(steps), every), *([len(steps) - 1] if len(steps) else [])})
            thin[name] = [[int(steps[at]), round(float(values[at]), 5)] for at in places]
        return run_row(found) | {"note": found.note, "result": dict(found.result), "curves": thin}

    async def wait_for(
        self,
        id: Annotated[Id, Field(description="of a run or job")],
        context: Context,
        seconds: Annotated[float, Field(ge=0, le=600)] = 60.0,
    ) -> Answer:
        """Wait until a run or job has ended, at most so many seconds; how it stands then. Call it again while
        `ended` is false. A failure is told in `state` and `message`."""
        clinic, deadline = self.clinic(), time.monotonic() + seconds
        while True:
            found = await run_sync(standing, clinic, id)
            await context.report_progress(found.progress, 1.0, found.message)
            ended = found.state in ENDED or found.state == "paused"
            if ended or time.monotonic() >= deadline:
                break
            await anyio.sleep(min(STEP_SECONDS, max(0.0, deadline - time.monotonic())))
        row = {"id": id, "state": found.state, "ended": ended, "progress": found.progress}
        row |= {"message": found.error or found.message, "result": dict(found.result)}
        return row | {"note": what_it_waits_for(found)}

    def compare(
        self, id: Annotated[Id, Field(description="of a detector, a treatment, or a finished run")]
    ) -> ToolResult:
        """A detector beside the champion (its verdict on every figure, objections to promoting it), or a
        treated generator beside its base (how often held-out images are flawed; before and after as images).
        """
        clinic = self.clinic()
        kind, found = "", id
        if id.startswith((TRAINING, TREATING)):
            kind, found = made_by(standing(clinic, id))
        if kind != "treatment" and (kind or found in {one.id for one in clinic.detectors.list()}):
            return ToolResult(structured_content=compared_detector(clinic, found))
        if kind or found in clinic.generators.treatments():
            return compared_treatment(clinic, found)
        raise ClinicError(f"there is no detector or treatment {id!r}; list_detectors and list_runs name them")

    def list_detectors(self) -> Answer:
        """Detectors, the newest first, with their figures on validation images (lower is better)."""
        clinic = self.clinic()
        champion = clinic.detectors.champion()
        rows = [
            {"id": one.id, "name": one.name, "champion": one == champion, "figures": dict(one.figures)}
            for one in clinic.detectors.list()
        ]
        return {"detectors": rows}

    def list_generators(self) -> Answer:
        """Generators, the newest first; a treated one names its parent."""
        shown = ("id", "name", "parent", "licence")
        found = self.clinic().generators.list()
        return {"generators": [{name: getattr(one, name) for name in shown} for one in found]}

    def find_artifacts(
        self,
        category: Name | None = None,
        words: Words = "",
        detector: Annotated[str, Field(max_length=200)] | None = None,
    ) -> Answer:
        """Have a worker predict the artifact maps of images that a detector (default: the champion) has not
        seen: of a category, of prompts with words, or of all. Returns a job for `wait_for`."""
        selection: ImageFilter = {}
        if category:
            selection["category"] = category
        if words:
            selection["search"] = words
        return {"job": self.clinic().images.diagnose(by=detector, **selection).id}

    def queue_for_people(
        self,
        images: Annotated[list[Id], Field(max_length=500, description="ids")] | None = None,
        categories: Annotated[
            dict[str, Share], Field(max_length=100, description="lowest confidence by category: {hand: 0.4}")
        ]
        | None = None,
        people: Annotated[list[Name], Field(max_length=100, description="empty for everybody")] | None = None,
        annotations_per_image: Annotated[int, Field(ge=1, le=9)] = 1,
        at_most: Annotated[int, Field(ge=1, le=5000)] = 200,
    ) -> Answer:
        """Send images to annotators: chosen ones by id, or those of categories from a confidence on. Images
        that are labelled or wait already are left out."""
        if bool(images) == bool(categories):
            raise ClinicError("name either images or categories")
        queue, to = self.clinic().queue, people or ()
        if images:
            sent = queue.send(
                ids=images, people=to, annotations_per_image=annotations_per_image, at_most=at_most
            )
            return {"sent": sent.sent, "left_out": sent.left_out}
        new = queue.send_categories(
            categories or {}, people=to, annotations_per_image=annotations_per_image, at_most=at_most
        )
        return {"sent": new}

    def start_training(
        self,
        recipe: Annotated[str, Field(max_length=200, description="empty for the likeliest")] = "",
        name: Name = "",
        start: Annotated[
            str, Field(max_length=500, description="id of the detector to go on from, or random")
        ]
        | None = None,
        steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None,
    ) -> Answer:
        """Train a detector on the newest labels, by a recipe such as photo, demo or cpu-smoke. Returns a run
        for `wait_for`; `compare` then sets it beside the champion."""
        settings = {} if steps is None else {"training": {"steps": steps}}
        return run_row(self.clinic().training.start(recipe, start=start, name=name, settings=settings))

    def start_treatment(
        self,
        generator: Id,
        recipe: Annotated[str, Field(max_length=200, description="empty for the likeliest")] = "",
        name: Name = "",
        categories: Annotated[list[Name], Field(max_length=50)] | None = None,
        prompts: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=500)] | None = None,
        updates: Annotated[int, Field(ge=1, le=100_000)] | None = None,
        detector: Annotated[str, Field(max_length=200)] | None = None,
    ) -> Answer:
        """Treat a generator so that the champion (or another detector) finds fewer artifacts in its images:
        on prompts for categories, on prompts given here, or by default for the newest hard categories.
        Returns a run for `wait_for`; `compare` then shows before and after."""
        settings = {} if updates is None else {"tuning": {"updates": updates}}
        run = self.clinic().treating.start(
            generator,
            recipe,
            detector=detector,
            name=name,
            categories=categories or (),
            prompts=prompts or (),
            settings=settings,
        )
        return run_row(run)

    def promote_detector(self, detector: Id, reason: Annotated[str, Field(max_length=1000)] = "") -> Answer:
        """Make a detector the champion, whose maps count from then on. A reason is needed where `compare`
        shows objections."""
        return {"champion": self.clinic().detectors.promote(detector, reason)}


def run_row(run: Run) -> Answer:
    """A run in a list."""
    shown = ("run", "name", "state", "progress", "step", "total", "left", "by")
    return {name: getattr(run, name) for name in shown} | {"message": run.error or run.message}


def standing(clinic: Clinic, id: str) -> Run | Job:
    """The run or job of that id."""
    if id.startswith((TRAINING, TREATING)):
        return (clinic.treating if id.startswith(TREATING) else clinic.training).get(id)
    return clinic.jobs.get(id)


def what_it_waits_for(found: Run | Job) -> str:
    """What keeps a run or job from going on; "" for nothing."""
    if isinstance(found, Run):
        return found.note
    waits = found.state == "queued" and not found.worker
    return "no worker is running, so this job is waiting" if waits else ""


def made_by(run: Run | Job) -> tuple[str, str]:
    """What a finished run made, and its id. Raises `ClinicError` for an unfinished one."""
    if run.state != "succeeded":
        raise ClinicError(f"this run is {run.state}, so there is nothing to compare yet; wait for it")
    kind = "treatment" if "treatment" in run.result else "detector"
    return kind, str(run.result[kind])


def compared_detector(clinic: Clinic, id: str) -> Answer:
    """A detector beside the champion."""
    found = clinic.detectors.compare(id)
    return {
        "detector": {"id": found.id, "name": found.name},
        "champion": found.champion,
        "verdicts": [dict(one) for one in found.verdicts],
        "objections": list(found.objections),
    }


def compared_treatment(clinic: Clinic, id: str) -> ToolResult:
    """A treated generator beside its base, with the first pairs as one image."""
    found = clinic.generators.treatment(id)
    pairs = found.pairs[:SHOWN_PAIRS]
    about: Answer = {
        "treatment": found.id,
        "before": dict(found.base),
        "after": found.treated and dict(found.treated),
        "kept_update": found.kept,
        "updates": found.updates,
        "stopped": found.stopped,
        "held_out": dict(found.judged),
        "pairs": [{name: pair[name] for name in ("prompt", "before", "after")} for pair in pairs],
    }
    files = [tuple(clinic.images.pixels(pair[side]) for side in ("before", "after")) for pair in pairs]
    return with_images(about, [Image(data=pairs_png(files), format="png")] if files else [])  # type: ignore[arg-type]


def with_images(about: Mapping[str, Any], images: Sequence[Image]) -> ToolResult:
    """Figures, as JSON, and images."""
    return ToolResult(content=[dict(about), *images], structured_content=dict(about))
