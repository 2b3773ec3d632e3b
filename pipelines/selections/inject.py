"""Inject artifacts into clean images: new images with exact label maps, in the clean image's split and group.

An injected image's id follows from the clean image, the settings and the number of the copy, so that a
repeated run makes nothing twice. Its settings say of which image it was made, and how.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import InputRefused
from dataengine.images import encode_png, thumbnail
from dataengine.injection.inject import Injection, inject
from dataengine.injection.redraw import RedrawPlan, plan_redraw, redrawn
from dataengine.masks import PackedMap
from dataengine.records import INJECTED, Image, Label, digest
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import read_readable
from pipelines.selections.config import InjectionRun
from pipelines.selections.diagnose import NAMED, unreadable_images
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily

STORED_AT_ONCE, STORED_PIXELS = 16, 16_000_000
"""Images of one transaction, and from how many pixels they are fewer: the most that a killed run repeats."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An image to be made of a clean one."""

    clean: Image
    number: int
    """From 0, among those made of the same image."""
    id: str

    @property
    def name(self) -> str:
        """What the random choices depend on, beside the seed."""
        return f"{self.clean.id} {self.number}" if self.number else self.clean.id


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A generator that redraws: opened when it is first needed."""

    open: "Callable[[], GeneratorFamily]"
    reads_prompts: bool
    name: str


@dataclass
class Tally:
    """What became of a page's images."""

    made: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def leave_out(self, image: Image, error: InputRefused) -> None:
        """Name an image into which no artifact was injected, with the reason."""
        self.left_out.append(f"{image.id}{f' ({image.origin})' if image.origin else ''}: {error}")


def inject_artifacts(
    context: Context, images: Sequence[Image], run: InjectionRun, canvas: Canvas | None = None
) -> Result:
    """Inject artifacts into clean images and store the results; those made before are skipped.

    The result counts new images, by kind, and `known` ones. Images in which no artifact could be seen, or
    that are too small, are left out, and those left out or unreadable are named in it.
    """
    copies = [
        Copy(clean=image, number=number, id=_id_of(image, run, number))
        for image in images
        for number in range(run.copies)
    ]
    with context.workspace.catalog(read_only=True) as catalog:
        known = {image.id for image in catalog.images.get_many([copy.id for copy in copies])}
    tally = Tally()
    made = (
        _operated(context, copies, known, run, tally)
        if canvas is None
        else _redrawn(context, copies, known, run, canvas, tally)
    )
    for stored in _portions(made):
        tally.made += _store(context.workspace, stored)
        tally.kinds.update(injection.parameters["kind"] for _, injection in stored)
    return {
        "images": tally.made,
        "known": len(known),
        "kinds": dict(sorted(tally.kinds.items())),
        **left_out_images(tally.left_out),
        **unreadable_images(list(dict.fromkeys(tally.unreadable))),
    }


Made = Iterator[tuple[Copy, Injection]]


def _portions(made: Made) -> Iterator[list[tuple[Copy, Injection]]]:
    """What is stored at once, so that memory does not grow with the images' size."""
    portion: list[tuple[Copy, Injection]] = []
    for one in made:
        portion.append(one)
        pixels = sum(injection.label_map.size for _, injection in portion)
        if len(portion) >= STORED_AT_ONCE or pixels >= STORED_PIXELS:
            yield portion
            portion = []
    if portion:
        yield portion


def left_out_images(reasons: Sequence[str]) -> Result:
    """What a result says of images left out: their number and the first of them; {} of none."""
    return (
        {"left_out": len(reasons), "left_out_images": list(dict.fromkeys(reasons))[:NAMED]} if reasons else {}
    )


def _id_of(image: Image, run: InjectionRun, number: int) -> str:
    how = [run.injection.model_dump_json()]
    if run.source == "redraw":
        how = [
            run.injection.model_dump_json(exclude={"kinds"}),
            run.redraw.model_dump_json(exclude={"batch"}),
            str(run.generator),
        ]
    return digest(INJECTED, image.id, run.source, number, *how)


def _operated(
    context: Context, copies: Sequence[Copy], known: set[str], run: InjectionRun, tally: Tally
) -> Made:
    """Artifacts by operations on pixels."""
    kept: tuple[str, np.ndarray | None] = ("", None)
    for done, copy in enumerate(copies):
        context.report(done, len(copies), "injecting artifacts")
        if copy.id in known:
            continue
        if kept[0] != copy.clean.id:
            _, read = read_readable(context.workspace, [copy.clean], tally.unreadable)
            kept = copy.clean.id, read[0] if read else None
        if kept[1] is None:
            continue
        try:
            yield copy, inject(kept[1], copy.name, run.injection)
        except InputRefused as error:
            tally.leave_out(copy.clean, error)


def _redrawn(
    context: Context,
    copies: Sequence[Copy],
    known: set[str],
    run: InjectionRun,
    canvas: Canvas,
    tally: Tally,
) -> Made:
    """Artifacts by a generator. Batches do not depend on what was made before, so that a resumed run draws
    the same."""
    if known.issuperset(copy.id for copy in copies):
        return
    family = canvas.open()
    done = 0
    for batch in _batches(copies, run, canvas, family, tally):
        context.report(done, len(copies), f"{canvas.name} redraws")
        done += len(batch)
        if known.issuperset(copy.id for copy, _ in batch):
            continue
        pixels = _pixels_of(context.workspace, [copy.clean for copy, _ in batch], tally)
        batch = [(copy, plan) for copy, plan in batch if copy.clean.id in pixels]
        for copy, plan, window in _drawn(family, batch, pixels, run, tally):
            if copy.id in known:
                continue
            about = {"name": copy.name, "attempt": 0, "generator": run.generator}
            about |= run.redraw.model_dump(mode="json", exclude={"batch"})
            try:
                yield copy, redrawn(pixels[copy.clean.id], plan, window, run.injection, about)
            except InputRefused as error:
                tally.leave_out(copy.clean, error)


Planned = list[tuple[Copy, RedrawPlan]]


def _batches(
    copies: Sequence[Copy], run: InjectionRun, canvas: Canvas, family: "GeneratorFamily", tally: Tally
) -> Iterator[Planned]:
    """The copies with what is redrawn of each, in batches of windows of equal size."""
    pending: dict[tuple[int, ...], Planned] = {}
    for copy in copies:
        clean = copy.clean
        try:
            if canvas.reads_prompts and not clean.prompt:
                raise InputRefused(
                    f"it has no prompt, which {canvas.name} needs; give it one with `clinic import --update`"
                )
            size = clean.height, clean.width
            plan = plan_redraw(size, copy.name, run.injection, family.size, family.multiple)
        except InputRefused as error:
            tally.leave_out(clean, error)
            continue
        group = pending.setdefault(plan.region.shape, [])
        group.append((copy, plan))
        if len(group) == run.redraw.batch:
            yield pending.pop(plan.region.shape)
    yield from pending.values()


def _pixels_of(workspace: Workspace, images: Sequence[Image], tally: Tally) -> dict[str, np.ndarray]:
    """Pixels by image id, of those that can be read."""
    by_id = {image.id: image for image in images}
    readable, pixels = read_readable(workspace, list(by_id.values()), tally.unreadable)
    return {image.id: one for image, one in zip(readable, pixels, strict=True)}


def _drawn(
    family: "GeneratorFamily",
    batch: Planned,
    pixels: dict[str, np.ndarray],
    run: InjectionRun,
    tally: Tally,
) -> list[tuple[Copy, RedrawPlan, np.ndarray]]:
    """The batch with its windows as the generator redraws them, without those whose prompt or size it
    refuses."""
    if not batch:
        return []
    try:
        windows = _inpainted(family, batch, pixels, run)
    except InputRefused as error:
        if len(batch) == 1:
            tally.leave_out(batch[0][0].clean, error)
            return []
        return [one for each in batch for one in _drawn(family, [each], pixels, run, tally)]
    return [(copy, plan, window) for (copy, plan), window in zip(batch, windows, strict=True)]


def _inpainted(
    family: "GeneratorFamily", batch: Planned, pixels: dict[str, np.ndarray], run: InjectionRun
) -> np.ndarray:
    from dataengine.treatment.config import SamplingConfig
    from dataengine.treatment.guided_sampling.inpainting import inpaint

    redraw = run.redraw
    return inpaint(
        family,
        np.stack([pixels[copy.clean.id][plan.window] for copy, plan in batch]),
        np.stack([plan.region for _, plan in batch]),
        [copy.clean.prompt for copy, _ in batch],
        [plan.seed for _, plan in batch],
        SamplingConfig(steps=redraw.steps, guidance=redraw.guidance, batch=len(batch)),
        strength=redraw.strength,
        excess=redraw.excess,
    )


def _store(workspace: Workspace, made: Sequence[tuple[Copy, Injection]]) -> int:
    """Store images with their label maps, blobs before the rows that refer to them; how many are new."""
    maps = [PackedMap.of(injection.label_map) for _, injection in made]
    hashes = workspace.blobs.put_many([encode_png(injection.pixels) for _, injection in made])
    thumbnails = workspace.blobs.put_many([thumbnail(injection.pixels) for _, injection in made])
    targets = workspace.blobs.put_many([packed.data for packed in maps])
    fail_point("inject:blobs")
    with workspace.catalog() as catalog:
        groups = {copy.clean.id: copy.clean.group or digest("group of", copy.clean.id) for copy, _ in made}
        for clean in {copy.clean.id: copy.clean for copy, _ in made if not copy.clean.group}.values():
            catalog.images.describe(clean.id, group=groups[clean.id])
        new = catalog.images.add_many(
            _image(copy, injection, sha256, small, groups[copy.clean.id])
            for (copy, injection), sha256, small in zip(made, hashes, thumbnails, strict=True)
        )
        catalog.label_map_statistics.add_many(zip(targets, maps, strict=True))
        for (copy, _), target, packed in zip(made, targets, maps, strict=True):
            catalog.labels.submit(_label(copy.id, target, packed), expected_revision=0)
        catalog.commit()
    return new


def _image(copy: Copy, injection: Injection, sha256: str, small: str, group: str) -> Image:
    clean = copy.clean
    about: dict[str, Any] = {"of": clean.id, **injection.parameters}
    return Image(
        id=copy.id,
        sha256=sha256,
        height=clean.height,
        width=clean.width,
        prompt=clean.prompt,
        category=clean.category,
        settings={INJECTED: about},
        source=INJECTED,
        origin=clean.origin,
        licence=clean.licence,
        split=clean.split,
        group=group,
        thumbnail=small,
    )


def _label(image_id: str, target: str, packed: PackedMap) -> Label:
    return Label(
        image_id=image_id,
        author=INJECTED,
        height=packed.height,
        width=packed.width,
        label_map=target,
        source=INJECTED,
    )
