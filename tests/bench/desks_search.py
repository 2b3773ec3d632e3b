"""Search over prompts: a page of the grid among a million, on SQLite and on PostgreSQL."""

import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import text

from storage.opening import create_workspace
from storage.queries.images import PAGE, ImageFilter, page_of_images
from tests.bench.harness import RESULTS, Figure, figure, p95, quick
from tests.bench.large_catalog import fill_catalog
from tests.services import postgres_cluster

WORDS = 20_000
"""Size of the vocabulary; the frequency of words falls with their rank, as in prompts (Zipf)."""
LENGTHS = (6, 24)
KINDS = ("common", "rare", "two", "phrase", "without", "only without", "beginning", "none")


def search_figures() -> list[Figure]:
    """The 95th percentile of both databases, over searches of every kind in equal parts."""
    images, times = (20_000, 48) if quick() else (1_000_000, 400)
    found = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS) as scratch:
        found += _measured(
            "search_p95_ms", f"sqlite:///{scratch}/search.sqlite", Path(scratch), images, times
        )
        with postgres_cluster() as url:
            found += _measured("search_p95_ms_postgresql", url, Path(scratch), images, times)
    return found


def _measured(id: str, url: str, scratch: Path, images: int, times: int) -> list[Figure]:
    workspace = create_workspace(scratch / id, database_url=url)
    said = Prompts(images)
    fill_catalog(workspace.engine, images, prompts=said)
    with workspace.catalog() as catalog:
        catalog.connection.execute(text("ANALYZE"))
        catalog.commit()
    random, took, by_kind, cards = np.random.default_rng(1), [], dict[str, list[float]](), 0
    for number in range(times):
        kind = KINDS[number % len(KINDS)]
        wanted = ImageFilter(search=said.search(kind, random), order="newest")
        started = time.perf_counter()
        with workspace.catalog(read_only=True) as catalog:
            cards += len(page_of_images(catalog, wanted).cards)
        took.append(1000 * (time.perf_counter() - started))
        by_kind.setdefault(kind, []).append(took[-1])
    workspace.close()
    slowest = ", ".join(f"{kind} {np.percentile(one, 95):.0f}" for kind, one in by_kind.items())
    note = f"page of {PAGE} among {images:,} prompts, newest first; p95 by kind in ms: {slowest}"
    return [
        p95(id, took, note=note),
        figure(f"{id.replace('p95', 'median')}", float(np.median(took)), unit="ms", n=times, note="the same"),
    ]


class Prompts:
    """Prompts by number, of words whose frequency falls with their rank."""

    def __init__(self, images: int) -> None:
        random = np.random.default_rng(0)
        self.images = images
        self.lengths = random.integers(*LENGTHS, images)
        ranks = np.arange(1, WORDS + 1)
        share = 1 / ranks
        drawn = random.choice(WORDS, int(self.lengths.sum()), p=share / share.sum())
        self.drawn, self.ends = drawn.astype(np.uint16), np.cumsum(self.lengths)

    def __call__(self, number: int) -> str:
        return " ".join(map(_word, self.of(number)))

    def of(self, number: int) -> list[int]:
        """The ranks of a prompt's words."""
        end = int(self.ends[number])
        return [int(rank) for rank in self.drawn[end - int(self.lengths[number]) : end]]

    def search(self, kind: str, random: np.random.Generator) -> str:
        """A search of that kind; what it wants is taken from a prompt that there is."""
        words = self.of(int(random.integers(self.images)))
        first = int(random.integers(len(words) - 1))
        common, rare = _word(int(random.integers(30))), _word(int(random.integers(WORDS // 2, WORDS)))
        return {
            "common": common,
            "rare": rare,
            "two": f"{_word(words[0])} {_word(words[-1])}",
            "phrase": f'"{_word(words[first])} {_word(words[first + 1])}"',
            "without": f"{_word(words[first])} -{common}",
            "only without": f"-{common}",
            "beginning": f"{rare[:4]}*",
            "none": f"{common} absent{rare}",
        }[kind]


def _word(rank: int) -> str:
    """A word for a rank: letters as a number in base 26, so that beginnings are shared."""
    letters = ""
    for _ in range(4):
        rank, letter = divmod(rank, 26)
        letters = chr(97 + letter) + letters
    return f"w{letters}"


if __name__ == "__main__":
    for one in search_figures():
        print(one)
