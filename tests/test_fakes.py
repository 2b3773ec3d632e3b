"""The fakes keep the contracts of the real parts."""

import subprocess
import sys

import pytest

from tests.dataengine.diagnosis.detector_contract import DetectorContract
from tests.dataengine.treatment.families.family_contract import FamilyContract
from tests.fakes import TinyDetector, TinyGenerator
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
    code = "import sys, tests.fakes, pipelines.round; tests.fakes.fake_tools(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
