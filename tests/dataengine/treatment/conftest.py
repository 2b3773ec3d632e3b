"""Tiny pipelines, saved once per run."""

from pathlib import Path

import pytest

from tests.dataengine.treatment import tiny


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory) -> Path:
    """A tiny FLUX."""
    return tiny.flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("sd"))
