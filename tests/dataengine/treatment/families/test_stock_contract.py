"""The contract on the classes with a row: six on every run, all of them by `make test-generators`."""

import pytest

from tests.dataengine.treatment.families.stock_contract import StockContract
from tests.dataengine.treatment.families.tiny_pipelines import FEW, TINY


class TestFew(StockContract):
    @pytest.fixture(scope="class", params=FEW)
    def kind(self, request):
        return request.param


@pytest.mark.generators
class TestOthers(StockContract):
    @pytest.fixture(scope="class", params=[name for name in TINY if name not in FEW])
    def kind(self, request):
        return request.param
