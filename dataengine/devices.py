"""The choice of a device, without loading a driver or a library."""

import os
import platform
import sys
from pathlib import Path

DEVICE = "CLINIC_DEVICE"
"""Variable of the environment that names the device where none is given: cpu, cuda:1, mps, …"""


def default_device() -> str:
    """The device that `CLINIC_DEVICE` names; else the first NVIDIA GPU by its device file; else "cpu".

    A Mac's GPU, "mps", is used only where it is named: torch lacks operators there, and computes others
    differently, and no test of ours runs on one.
    """
    if named := os.environ.get(DEVICE, "").strip():
        return named
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")
    return "cuda:0" if visible and Path("/dev/nvidia0").exists() else "cpu"


def has_apple_gpu() -> bool:
    """Whether this is a Mac with a GPU that torch calls "mps"."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
