"""A whole round of fakes, played once, that the tests of the stages look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import recipes
from pipelines.context import Context, Waiting
from pipelines.requests import start_round
from pipelines.round import advance
from pipelines.stage import Done
from storage.workspace import Workspace
from tests.fakes import answer_queue, fake_tools, prepare


@dataclass(frozen=True)
class Played:
    """A round and what its stages answered."""

    context: Context
    round_id: str
    waited: tuple[Waiting, ...]

    @property
    def results(self) -> dict[str, Any]:
        with self.context.workspace.catalog(read_only=True) as catalog:
            return catalog.rounds.get(self.round_id).results


def play(context: Context, round_id: str, until: str = "") -> tuple[Waiting, ...]:
    """Advance until a stage (or to the end), answering what waits for people."""
    waited = []
    while True:
        with context.workspace.catalog(read_only=True) as catalog:
            if catalog.rounds.get(round_id).stage == until:
                return tuple(waited)
        step = advance(context, round_id)
        if isinstance(step, Done):
            return tuple(waited)
        if isinstance(step, Waiting):
            waited.append(step)
            answer_queue(context.workspace, round_id)


def fresh_context(folder: Path) -> tuple[Context, str]:
    """A prepared workspace of fakes with a round at its beginning."""
    workspace = Workspace.create(folder)
    prepare(workspace, real=24)
    row = start_round(workspace, recipes.fakes().model_dump(mode="json"), "test")
    return Context(workspace, fake_tools()), row.id


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    context, round_id = fresh_context(tmp_path_factory.mktemp("played") / "workspace")
    return Played(context, round_id, play(context, round_id))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Context, str]]:
    yield fresh_context(tmp_path / "workspace")
