"""A progress bar for long work."""

from collections.abc import Iterator
from contextlib import contextmanager

from dataengine.records import Report, no_report


@contextmanager
def progress_bar(shown: bool) -> Iterator[Report]:
    """A `Report` that draws one bar on standard error, or in a notebook; nothing unless `shown`."""
    if not shown:
        yield no_report
        return
    from tqdm.auto import tqdm

    with tqdm(total=1, leave=False) as bar:

        def report(done: float, total: int, message: str = "", **figures: float) -> None:
            bar.total, bar.n = total, round(done, 2)
            bar.set_description_str(message, refresh=False)
            bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
            bar.refresh()

        yield report
