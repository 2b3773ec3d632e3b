"""What is undefined reads as a dash, and a log says what the job did and nothing else."""

import pytest

from pipelines.generators.comparison import _compare_means
from pipelines.services.jobs import legible
from pipelines.services.model_card import row


@pytest.mark.parametrize(
    "noise",
    [
        "Loading pipeline components...: 100%|██████████| 5/5 [00:00<00:00, 8.21it/s]",
        "  0%|          | 0/1 [00:00<?, ?it/s]",
        "12it [00:03,  3.9it/s]",
        "/x/torch/amp.py:3: FutureWarning: `torch.cuda.amp` is deprecated.",
        "/x/numpy/a.py:1: UserWarning: nothing",
        "  warnings.warn(",
        "The config {'a': 1} were passed to FluxPipeline, but are not expected and will be ignored.",
    ],
)
def test_a_log_has_no_bars_and_no_warnings_of_libraries(noise: str) -> None:
    """desks 4.11."""
    assert legible(f"one\n{noise}\ntwo") == "one\ntwo"


@pytest.mark.parametrize(
    "line",
    [
        "step 3/8: 37% of images are flawed | 2 | 3",
        "WARNING: the disk is nearly full",
        "treat: run",
        "RuntimeError: out of memory",
        "10:04 loss 0.1 (5/8)",
    ],
)
def test_a_log_keeps_what_the_job_said(line: str) -> None:
    assert legible(line) == line


def test_an_overwritten_line_is_its_last_text() -> None:
    assert legible("a\rb\rdone\nnext") == "done\nnext"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], {"before": None, "after": None, "ratio": None, "interval": None}),
        ([0.0, 0.0], [0.0, 0.0], {"before": 0.0, "after": 0.0, "ratio": None, "interval": None}),
        ([False, False], [True, False], {"before": 0.0, "after": 0.5, "ratio": None, "interval": None}),
    ],
)
def test_a_ratio_to_nothing_is_undefined(
    before: list[float], after: list[float], expected: dict[str, float | None]
) -> None:
    """desks 4.12."""
    assert _compare_means(before, after, [str(at) for at in range(len(before))]) == expected


def test_a_defined_ratio_stays_one() -> None:
    found = _compare_means([1.0, 1.0], [0.5, 0.5], ["a", "b"])
    assert found["ratio"] == 0.5 and found["interval"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("figure", "line"),
    [
        (
            {"before": 0.0, "after": 0.0, "ratio": 0.0, "interval": [0.0, 0.0]},
            "| x | 0.0000 | 0.0000 | – | – |",
        ),
        ({"before": None, "after": None, "ratio": None, "interval": None}, "| x | – | – | – | – |"),
        (
            {"before": 0.5, "after": 0.25, "ratio": 0.5, "interval": [0.4, 0.6]},
            "| x | 0.5000 | 0.2500 | 0.500 | 0.400 – 0.600 |",
        ),
    ],
)
def test_the_loras_readme_writes_a_dash(figure: dict[str, object], line: str) -> None:
    """desks 4.12: also of results that older versions stored."""
    assert row("x", figure) == line
