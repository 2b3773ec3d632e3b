"""The Python client of Artifact Clinic, which is also a wheel of its own, `clinic-client`."""

from dataengine.errors import ClinicError, MaskRefused
from ui.client.clinic import Clinic
from ui.client.records import (
    Category,
    Comparison,
    Count,
    Detector,
    Generator,
    Image,
    ImageDetail,
    ImageFilter,
    Imported,
    Job,
    Run,
    Sent,
    Snapshot,
    Study,
    Task,
    Treatment,
)
from ui.client.transport import ApiError

__all__ = [
    "ApiError",
    "Category",
    "Clinic",
    "ClinicError",
    "Comparison",
    "Count",
    "Detector",
    "Generator",
    "Image",
    "ImageDetail",
    "ImageFilter",
    "Imported",
    "Job",
    "MaskRefused",
    "Run",
    "Sent",
    "Snapshot",
    "Study",
    "Task",
    "Treatment",
]
