"""When parts pay: pseudo-labels, dynamic shrink and strong augmentation by labels, noise and size of flaws;
mining's terms one by one; injected artifacts alone.

`make bench-regimes` writes `build/bench/regimes.json`; `PART=NAME` measures one part alone. Resumable: every
detector is kept under all that it follows from. One seed and the cells of the goals by default, the grid and
three seeds with `FULL=1`.
"""

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import torch

from tests.bench.harness import quick
from tests.bench.modules import chosen_parts, measure_parts, module_of
from tests.bench.regime_training import Mined, Training, first_detector
from tests.bench.regimes_labels import seeds_of_run


def train_all(wanted: Iterable[Training], jobs: int) -> None:
    """Train what is missing, `jobs` at a time, after what it builds on."""
    waves: dict[int, list[Training]] = {}
    for training in {training.work: training for training in wanted}.values():
        waves.setdefault(depth(training), []).append(training)
    first_detector()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for level in sorted(waves):
            for trained in [pool.submit(training.trained) for training in waves[level]]:
                trained.result()


def depth(training: Training) -> int:
    """How many trainings must follow one another before this one can begin."""
    before = [] if training.start is None else [training.start]
    before += [examples.second for examples in training.examples if isinstance(examples, Mined)]
    return 1 + max(map(depth, before)) if before else 0


def main() -> None:
    wanted = [
        training
        for part in chosen_parts("regimes")
        for training in module_of("regimes", part).trainings(quick())
    ]
    train_all(wanted, int(os.environ.get("JOBS") or os.cpu_count() or 1))
    measure_parts("regimes", seeds_of_run())


if __name__ == "__main__":
    main()
