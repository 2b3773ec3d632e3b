"""The program and the machine, as `evidence.json` states them: no host name, no user, no path."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipelines.evidence.schema import Machine, Product

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 1e9
PROCESSORS = Path("/proc/cpuinfo")


def product() -> Product:
    """Version and commit of this program."""
    try:
        number = version("artifact-clinic")
    except PackageNotFoundError:
        number = ""
    return Product(version=number, commit=commit())


def commit() -> str:
    """The commit of the checkout that this program runs from; "" where it is installed as a package."""
    if not (ROOT / ".git").exists():
        return ""
    name = _git("rev-parse", "--short=12", "HEAD")
    return f"{name}+dirty" if name and _git("status", "--porcelain", "--untracked-files=no") else name


def machine(device: str) -> Machine:
    """What the command runs on."""
    import torch

    gpu, memory = "", None
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        gpu, memory = str(properties.name), round(properties.total_memory / GIGABYTE, 1)
    return Machine(
        system=platform.platform(terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        cpu=_processor(),
        cores=os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGABYTE, 1),
        device=device,
        gpu=gpu,
        gpu_memory_gb=memory,
    )


def _processor() -> str:
    try:
        lines = PROCESSORS.read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
