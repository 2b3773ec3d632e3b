"""A small workspace of the embedded clinic with real models, for tests that train and treat for real."""

from pathlib import Path

import pytest

from storage.opening import create_workspace
from storage.workspace import Workspace

REAL = ("pipelines.round:ROUND", "pipelines.runtime.models:real_models")
"""Stages and models of a worker."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a workspace, made once; tests copy it."""
    path = tmp_path_factory.mktemp("world") / "workspace"
    settle(path).close()
    return path


def settle(path: Path) -> Workspace:
    """A workspace with tiny FLUX, the first detector, clean pictures, labels of both splits and a
    benchmark."""
    from dataengine.clinic.world import stream
    from pipelines.config import DemoDataConfig
    from pipelines.demo.data import ingest, prepare, round_trip

    workspace = create_workspace(path)
    prepare(workspace, DemoDataConfig(clean=30, previous=24, validation=0, benchmark=6, benchmark_clean=6))
    drawings = stream("validation", flawed=0.5)
    watched = round_trip([drawings[index] for index in range(16)])
    ingest(workspace, "watched", enumerate(watched), "drawn", "validation")
    return workspace
