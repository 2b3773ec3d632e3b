"""The contract: on six classes on every run, on all by `make test-generators`."""

import pytest

from tests.dataengine.treatment.families.more_tiny_pipelines import MORE
from tests.dataengine.treatment.families.stock_contract import StockContract
from tests.dataengine.treatment.families.tiny_pipelines import FEW, TINY, save_tiny


class TestFew(StockContract):
    @pytest.fixture(scope="class", params=FEW)
    def kind(self, request):
        return request.param


@pytest.mark.generators
class TestOthers(StockContract):
    @pytest.fixture(scope="class", params=[name for name in TINY if name not in FEW])
    def kind(self, request):
        return request.param


@pytest.mark.generators
class TestMore(StockContract):
    @pytest.fixture(scope="class", params=MORE)
    def kind(self, request):
        return request.param

    @pytest.fixture(scope="class")
    def folder(self, kind, tmp_path_factory):
        return save_tiny(kind, tmp_path_factory.mktemp("stock"), MORE)
