import pytest

from dataengine.curation.balance import CategoryBalance, balance_of


def test_the_most_one_sided_category_comes_first() -> None:
    examples = (
        [("hand", True)] * 24 + [("hand", False)] + [("tree", False)] * 5 + [("mug", True), ("mug", False)]
    )
    found = balance_of(examples)
    assert [each.category for each in found] == ["hand", "mug", "tree"]
    assert [each.positive_share for each in found] == pytest.approx([0.96, 0.5, 0.0])
    assert balance_of([]) == []


@pytest.mark.parametrize(
    ("positive", "negative", "share", "wanted"),
    [(24, 1, 0.5, 23), (1, 9, 0.5, 0), (3, 0, 0.3, 7), (0, 0, 0.5, 0)],
)
def test_clean_examples_wanted(positive: int, negative: int, share: float, wanted: int) -> None:
    found = CategoryBalance(category="hand", positive=positive, negative=negative)
    assert found.negatives_wanted(share) == wanted
    if positive:
        assert positive / (positive + negative + wanted) <= share + 1e-9
