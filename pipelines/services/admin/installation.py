"""Checks of the installation, and training of the embedded clinic's models."""

from pathlib import Path

from dataengine.clinic.config import BuildConfig
from dataengine.records import Report, no_report


def check_device() -> str:
    """The default device, after a test computation on it. Raises `RuntimeError` if that fails."""
    import torch

    from dataengine.devices import default_device

    device = default_device()
    left = torch.ones(2, 2, device=device, requires_grad=True)
    torch.nn.functional.interpolate(left[None, None], scale_factor=2, mode="bilinear").sum().backward()
    return device


def check_clinic_weights() -> list[str]:
    """Loads and names the embedded clinic's parts. Raises `Corrupt` when one does not match its hash."""
    from dataengine.clinic.parts import frozen_sums, load_part

    parts = [Path(name).stem for name in frozen_sums()]
    for part in parts:
        load_part(part)
    return parts


def build_clinic(config: BuildConfig, out: Path, report: Report = no_report) -> None:
    """Train the parts of the embedded clinic that the folder does not hold yet. Raises `NotFound` when a part
    needs another that is absent.
    """
    from dataengine.clinic.build import build

    build(config, out, report)
