"""Shared by all tests: no network, no telemetry, one thread per process, and where the shared data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.services"]

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("clinic", deadline=None)
settings.load_profile("clinic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests run first, so that no process ends with one while the others wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Verdicts on generators are this session's own, also in processes that it starts."""
    os.environ["CLINIC_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and other makers' pictures that lie beside the checkout, never in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is absent: tests on pictures of other makers need it")
    return SHARED_DATA
