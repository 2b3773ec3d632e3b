"""Walk over a selection of images page by page, so that memory does not grow with their number."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from dataengine.api.models import CLINIC_DETECTOR
from dataengine.errors import NotFound
from dataengine.records import DetectorVersion, Image, Report
from pipelines.detectors.register import shipped_detector
from pipelines.runtime.context import Context, Result
from pipelines.runtime.open_detector import champion_version
from pipelines.selections.config import ImageQuery
from storage.queries.images import conditions_of
from storage.queries.selections import Conditions, count_of_selection, page_of_selection
from storage.workspace import Workspace

Work = Callable[[Context, list[Image]], Result]


def selected(workspace: Workspace, query: ImageQuery) -> tuple[Conditions, int]:
    """The conditions of the query, and how many images meet them. Raises `NotFound` when none does."""
    with workspace.catalog(read_only=True) as catalog:
        conditions = conditions_of(catalog, query.filter())
        count = count_of_selection(catalog, conditions)
    if not count:
        words = query.in_words()
        raise NotFound(
            f"no image matches {words}; see /curate or `clinic status` for what there is"
            if words
            else "this workspace has no images yet; import some with `clinic import PATH`"
        )
    return conditions, count


def detector_of(context: Context, detector_id: str | None) -> DetectorVersion:
    """The named detector, or the champion; "clinic" is the shipped one, which is registered on the way.

    Raises `NotFound`, and `ConfigRefused` without a champion.
    """
    if detector_id is None:
        return champion_version(context)
    if detector_id == CLINIC_DETECTOR:
        return shipped_detector(context.workspace)
    with context.workspace.catalog(read_only=True) as catalog:
        return catalog.detectors.get(detector_id)


def work_through(
    context: Context, conditions: Conditions, size: int, work: Work, limit: int | None = None
) -> list[Result]:
    """`work` on every page of the images that meet the conditions, at most `limit` of them; its results.

    The job may pause between pages, and its progress is that of all pages.
    """
    with context.workspace.catalog(read_only=True) as catalog:
        total = count_of_selection(catalog, conditions)
    total = total if limit is None else min(total, limit)
    results, done = [], 0
    for page in iter_pages(context.workspace, conditions, size, limit):
        context.may_pause()
        report = _part(context.report, done, len(page), total)
        results.append(work(replace(context, report=report), page))
        done += len(page)
    return results


def iter_pages(
    workspace: Workspace, conditions: Conditions, size: int, limit: int | None = None
) -> Iterator[list[Image]]:
    """The images that meet the conditions by id, `size` at a time, at most `limit` in all."""
    after, left = None, limit
    while left is None or left > 0:
        with workspace.catalog(read_only=True) as catalog:
            page = page_of_selection(catalog, conditions, after, size if left is None else min(size, left))
        if not page:
            return
        yield page
        after = page[-1].id
        left = None if left is None else left - len(page)


def _part(report: Report, start: int, length: int, whole: int) -> Report:
    def part(done: float, total: int, message: str = "", **figures: float) -> None:
        report(start + length * done // max(total, 1), max(whole, start + length), message, **figures)

    return part
