"""The page on repairs states the defaults that the settings have."""

import re
from pathlib import Path

from dataengine.treatment.repair.config import RepairConfig

PAGE = Path(__file__).resolve().parents[4] / "docs" / "repair.md"


def test_the_page_states_every_default() -> None:
    stated = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `repair."):
            names, values = line.split("|")[1:3]
            stated |= zip(re.findall(r"`repair\.(\w+)`", names), map(float, values.split(",")), strict=True)
    settings = RepairConfig().model_dump(exclude={"seed", "feather"})
    assert stated == settings
