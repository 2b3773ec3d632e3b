"""An answer that was acknowledged is there after a power cut: its row, and its blob."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import power_replay
from tests.power import Cut, PowerCuts, why_not

CUTS = 3


def cuts(folder: Path, durable: bool) -> Iterator[Cut]:
    """Cuts at random moments of the people's work."""
    moments = random.Random(7 + durable)
    with PowerCuts(folder) as disk, disk.people(durable=durable) as people:
        for _ in range(CUTS):
            time.sleep(moments.uniform(0.3, 1.0))
            yield disk.cut(people)


def test_what_was_acknowledged_before_a_power_cut_is_there(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    durable = list(cuts(tmp_path / "durable", durable=True))
    assert durable[-1].acknowledged, "nobody was answered, so nothing was proven"
    assert [cut.lost for cut in durable] == [()] * CUTS
    assert [cut.dangling for cut in durable] == [()] * CUTS
    careless = cuts(tmp_path / "careless", durable=False)
    assert any(cut.lost for cut in careless), "without waiting for the disk nothing is lost: no real attack"


def test_what_was_synced_by_then_is_enough(tmp_path: Path) -> None:
    """The same with all that was not synced dropped, from recorded system calls: no root, no loop device."""
    if reason := power_replay.why_not():
        pytest.skip(reason)
    durable = list(power_replay.cuts(tmp_path / "durable", CUTS, random.Random(1), 1.0, durable=True))
    assert max(cut.acknowledged for cut in durable), "nobody was answered, so nothing was proven"
    assert [cut.lost for cut in durable] == [()] * CUTS
    assert [cut.dangling for cut in durable] == [()] * CUTS
    careless = power_replay.cuts(tmp_path / "careless", CUTS, random.Random(2), 1.0, durable=False)
    assert any(cut.lost for cut in careless), "without waiting for the disk nothing is lost: no real attack"
