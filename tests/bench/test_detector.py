import pytest

from tests.bench.detector import needed


@pytest.mark.parametrize(
    ("errors", "wanted", "labels"),
    [
        ([0.4, 0.3, 0.2], 0.5, 100),
        ([0.4, 0.3, 0.2], 0.3, 200),
        ([0.4, 0.5, 0.2], 0.2, 400),
        ([0.4, 0.3, 0.2], 0.1, 800),
    ],
)
def test_labels_needed_for_an_error(errors: list[float], wanted: float, labels: float) -> None:
    assert needed((100, 200, 400), errors, wanted) == pytest.approx(labels)


def test_between_two_counts_the_logarithm_is_interpolated() -> None:
    assert needed((100, 400), [0.4, 0.2], 0.3) == pytest.approx(200)
