"""The fakes keep the contracts of the real parts."""

import subprocess
import sys

import pytest

from pipelines.runtime.loading import import_object
from pipelines.runtime.models import Models
from tests.dataengine.diagnosis.detector_contract import DetectorContract
from tests.dataengine.treatment.families.family_contract import FamilyContract
from tests.fakes import TinyDetector, TinyGenerator, fake_models
from tests.pipelines.rig import REPOSITORY


class TestTinyDetector(DetectorContract):
    @pytest.fixture
    def detector(self) -> TinyDetector:
        return TinyDetector()


class TestTinyGenerator(FamilyContract):
    @pytest.fixture
    def family(self) -> TinyGenerator:
        return TinyGenerator()

    @pytest.fixture
    def again(self) -> TinyGenerator:
        return TinyGenerator()


def test_fakes_and_stages_load_no_torch() -> None:
    code = (
        "import sys, tests.fakes, pipelines.round; tests.fakes.fake_models(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_fakes_stand_for_every_model() -> None:
    methods = {name for name in vars(Models) if not name.startswith("_")}
    assert methods <= vars(fake_models("cpu")).keys()
    assert fake_models("cpu").device == "cpu"


def test_real_models_are_named_by_what_workers_load() -> None:
    opened = import_object("pipelines.runtime.models:real_models")("cuda:3")
    assert type(opened) is Models and opened.device == "cuda:3" and opened.kept == {}
