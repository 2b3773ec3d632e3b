"""Treatment by several processes: they share gradients, resume exactly, and stop together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dataengine.errors import Cancelled, NonFinite
from dataengine.treatment.tuning.batches import Batches
from tests.dataengine.treatment.tuning.test_trainer import numbers, run

ADAPTER = "pytorch_lora_weights.safetensors"


def program(folder: Path, out: Path) -> None:
    """What each of the processes does."""
    _, whole = run(folder, out / "whole")
    rank = torch.distributed.get_rank()

    def stop(done: float, total: int, message: str = "", **figures: float) -> None:
        if message == "treating" and done == 3:
            raise Cancelled("a person")

    with pytest.raises(Cancelled):
        run(folder, out / "cut", report=stop)
    _, resumed = run(folder, out / "cut")
    assert numbers(resumed) == numbers(whole)
    gathered: list[object] = [None, None]
    torch.distributed.all_gather_object(gathered, numbers(whole))
    assert gathered[0] == gathered[1]
    terms = Batches.terms

    def spoiled(self: Batches, number: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
        factor = float("nan") if rank else 1.0
        return {name: value * factor for name, value in terms(self, number, rng).items()}

    Batches.terms = spoiled  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match="the loss"):
        run(folder, out / "spoiled")
    (out / f"rank-{rank}.json").write_text(json.dumps(whole.kept_step))


@pytest.mark.slow
def test_two_processes_treat_one_generator(flux_folder: Path, tmp_path: Path) -> None:
    text = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.dataengine.treatment.tuning.test_processes import program
program(Path({str(flux_folder)!r}), Path({str(tmp_path)!r}))
"""
    (tmp_path / "program.py").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("rank-*.json"))) == 2
    first, second = (load_file(tmp_path / name / "lora" / ADAPTER) for name in ("whole", "cut"))
    assert first and all(torch.equal(value, second[key]) for key, value in first.items())
