"""Artifact detection and generator treatment in Python: `from dataengine import Detector, Generator, treat`.

The public names below are loaded when they are first used, so `import dataengine` costs nothing. The modules
are the algorithms: arrays in, arrays out; no SQL, no HTTP, no Gradio, no paths of ours.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataengine.api.detector import Detector
    from dataengine.api.diagnose import diagnose
    from dataengine.api.generator import Generator
    from dataengine.api.repairing import repair
    from dataengine.api.training import train_detector
    from dataengine.api.treating import Treated, treat
    from dataengine.diagnosis.config import DetectorTrainingConfig
    from dataengine.errors import ClinicError
    from dataengine.records.models import OperatingPoint
    from dataengine.treatment import presets
    from dataengine.treatment.config import SamplingConfig, TreatmentConfig
    from dataengine.treatment.repair.config import RepairConfig

PUBLIC = {
    "ClinicError": "dataengine.errors",
    "Detector": "dataengine.api.detector",
    "DetectorTrainingConfig": "dataengine.diagnosis.config",
    "Generator": "dataengine.api.generator",
    "OperatingPoint": "dataengine.records.models",
    "RepairConfig": "dataengine.treatment.repair.config",
    "SamplingConfig": "dataengine.treatment.config",
    "Treated": "dataengine.api.treating",
    "TreatmentConfig": "dataengine.treatment.config",
    "diagnose": "dataengine.api.diagnose",
    "presets": "dataengine.treatment",
    "repair": "dataengine.api.repairing",
    "train_detector": "dataengine.api.training",
    "treat": "dataengine.api.treating",
}
"""The public names, and the module that each is loaded from."""

__all__ = [
    "ClinicError",
    "Detector",
    "DetectorTrainingConfig",
    "Generator",
    "OperatingPoint",
    "RepairConfig",
    "SamplingConfig",
    "Treated",
    "TreatmentConfig",
    "diagnose",
    "presets",
    "repair",
    "train_detector",
    "treat",
]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562). Raises `AttributeError` for any other."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = PUBLIC[name]
    value = import_module(f"{home}.{name}") if name == "presets" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
