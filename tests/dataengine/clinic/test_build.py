"""The recipe: every part in a few steps, once; and a killed training that comes out the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dataengine.clinic.config import PARTS, BuildConfig, PartConfig
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.optimisers import Muon, orthogonalise
from dataengine.errors import Cancelled, NotFound
from dataengine.records import Report, no_report


class Line:
    """Fits a line to noise: small enough to train in milliseconds."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 2)
        self.optimisers = [
            Muon([self.module.weight], lr=0.02),
            torch.optim.AdamW([self.module.bias], lr=0.02),
        ]

    def loss(self) -> Tensor:
        x = torch.randn(8, 4)
        return (self.module(x) - x[:, :2]).pow(2).mean()


def killed_at(step: int) -> Report:
    """A report that raises after a step, as a person's cancel does."""

    def report(done: float, total: int, message: str = "", **figures: float) -> None:
        if done == step:
            raise Cancelled("stopped")

    return report


def test_a_killed_training_comes_out_the_same(tmp_path: Path) -> None:
    schedule = Schedule(steps=100, warmup=5)
    whole, killed, resumed = Line(), Line(), Line()
    torch.manual_seed(1)
    train(whole, schedule, tmp_path / "whole", no_report)
    torch.manual_seed(1)
    with pytest.raises(Cancelled):
        train(killed, schedule, tmp_path / "killed", killed_at(75), checkpoint_seconds=1e-9)
    torch.manual_seed(99)
    train(resumed, schedule, tmp_path / "killed", no_report)
    assert torch.equal(whole.module.weight, resumed.module.weight)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    assert [len(log) for log in logs] == [4, 4]
    kept = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["average"]
    assert torch.equal(kept["weight"], resumed.module.weight)


def test_a_branch_goes_on_from_the_trunk(tmp_path: Path) -> None:
    train(Line(), Schedule(steps=50, warmup=5, decay_from=1.0), tmp_path / "trunk", no_report)
    branch = Line()
    start = tmp_path / "trunk" / "checkpoint.pt"
    train(
        branch, Schedule(steps=75, warmup=5, decay_from=50 / 75), tmp_path / "branch", no_report, start=start
    )
    entries = (tmp_path / "branch" / "log.jsonl").read_text().splitlines()
    assert len(entries) == 1 and '"step": 75' in entries[0]


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, warmup=10, decay_from=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(30) == 1
    assert schedule.rate(75) == pytest.approx(0.5)
    assert Schedule(steps=100, warmup=10, decay_from=1.0).rate(99) == 1


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.slow
def test_every_part_is_built_once_and_in_stock_formats(tmp_path: Path) -> None:
    from dataengine.clinic.build import build

    tiny = {part: PartConfig(steps=2, batch=2, drawings=8, seed=1) for part in PARTS}
    config = BuildConfig.model_validate(tiny)
    build(config, tmp_path, no_report)
    stamps = {part: (tmp_path / part).stat().st_mtime_ns for part in PARTS}
    build(config, tmp_path, no_report)
    assert stamps == {part: (tmp_path / part).stat().st_mtime_ns for part in PARTS}
    assert (tmp_path / "generator" / "model_index.json").is_file()
    assert (tmp_path / "first_doctor" / "detector.json").is_file()
    assert (tmp_path / "work" / "judge" / "log.jsonl").is_file()


def test_a_part_without_what_it_builds_on_says_so(tmp_path: Path) -> None:
    from dataengine.clinic.build import build

    with pytest.raises(NotFound, match="builds on autoencoder"):
        build(BuildConfig(parts=("judge",)), tmp_path, no_report)
