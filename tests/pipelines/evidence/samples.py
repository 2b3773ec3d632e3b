"""An evidence with every field, as a finished run writes it, and the work of a run that did nothing."""

from pathlib import Path
from typing import Any

from pipelines.evidence.journal import Journal
from pipelines.evidence.parts import PARTS, Work
from pipelines.evidence.plan import EvidenceRequest, default_settings, preset_named
from pipelines.evidence.schema import Evidence
from storage.workspace import Workspace

FLAGGED = {"before": 0.5, "after": 0.25, "ratio": 0.5, "interval": [0.25, 0.8]}
SAMPLE: dict[str, Any] = {
    "schema_version": 1,
    "state": "complete",
    "created": "2026-11-30T10:00:00+00:00",
    "updated": "2026-11-30T15:00:00+00:00",
    "product": {"version": "0.1.0", "commit": "0123456789ab"},
    "machine": {
        "system": "Linux",
        "python": "3.12.1",
        "torch": "2.9",
        "cpu": "a processor",
        "cores": 16,
        "memory_gb": 128.0,
        "device": "cuda:0",
        "gpu": "a card",
        "gpu_memory_gb": 80.0,
    },
    "model": {
        "name": "owner/model",
        "revision": "abc",
        "pipeline": "FluxPipeline",
        "licence": "Apache-2.0",
        "digest": "d1",
        "weights_gb": 33.7,
    },
    "seed": 0,
    "settings": {"draw": {"seed": 0}},
    "prompts": 50,
    "prompts_digest": "d2",
    "parts": [
        {
            "name": name,
            "state": "done",
            "hours": 0.5,
            "host_gb_peak": 3.2,
            "device_gb_peak": 61.0,
            "runs": 1,
        }
        for name, _, _ in PARTS
    ],
    "hours": 5.0,
    "photos": {"used": 300, "captioned": 300, "refused": 1, "injected": 255},
    "labels": {"by": "people", "asked": 200, "given": 200, "clean": 80, "people": 2, "minutes": 61.5},
    "detectors": {
        "first": {
            "name": "photographs and injected artifacts",
            "licence": "Apache-2.0",
            "samples": {"real": 255, "injected": 255},
            "validation": 45,
            "pixel_ap": None,
            "miss": None,
            "false_alarm": 0.02,
            "threshold": 0.5,
        },
        "second": {
            "name": "people's labels",
            "licence": "Apache-2.0",
            "samples": {"true": 160, "real": 255},
            "validation": 85,
            "pixel_ap": 0.41,
            "miss": 0.3,
            "false_alarm": 0.05,
            "threshold": 0.4,
        },
        "used": "second",
        "objections": [],
    },
    "treatment": {
        "objective": "diffdoctor",
        "updates": 110,
        "kept": 80,
        "stopped": "all updates done",
        "pairs": 20,
        "prompts": 10,
        "worse": 3,
        "figures": {
            "flagged": FLAGGED,
            "attributes": {"before": 0.9, "after": 0.88, "difference": -0.02, "interval": [-0.05, 0.01]},
        },
        "similarity": {"psnr": 24.0, "ssim": 0.9, "lpips": None},
    },
    "under": {
        "limit": 0.7,
        "prompts": 10,
        "cells": [
            {
                "name": "as trained",
                "axis": "",
                **FLAGGED,
                "verdict": "holds",
            },
            {
                "name": "steps 2",
                "axis": "steps",
                "before": 0.0,
                "after": 0.0,
                "ratio": None,
                "interval": None,
                "verdict": "no artifacts in the base",
            },
        ],
        "held": 1,
        "left_out": ["8 bits"],
    },
    "study": {
        "pairs": 20,
        "votes": 440,
        "raters": 11,
        "left_out": 1,
        "minutes": 90.0,
        "questions": [
            {
                "question": "artifacts",
                "votes": 220,
                "pairs": 20,
                "after": 12,
                "before": 4,
                "ties": 4,
                "win_rate": 0.75,
                "interval": [0.505, 0.898],
                "p_value": 0.077,
            }
        ],
    },
    "notes": ["a note"],
}


def evidence(**changes: Any) -> Evidence:
    """The sample with changes."""
    return Evidence.model_validate(SAMPLE | changes)


def request(out: Path, **changes: Any) -> EvidenceRequest:
    """A request for the embedded clinic's FLUX on the smallest recipe."""
    generator = changes.get("generator", "clinic-flux")
    given: dict[str, Any] = {
        "generator": generator,
        "photos": out.parent / "photos",
        "out": out,
        "preset": preset_named(generator, "cpu-smoke"),
        "settings": default_settings(generator, "cpu-smoke"),
    }
    return EvidenceRequest(**given | changes)


def work(workspace: Workspace, asked: EvidenceRequest) -> Work:
    """The work at its beginning; it serves nobody."""

    def serve(workspace: Workspace) -> Any:
        raise AssertionError("nobody is served")

    return Work(
        request=asked, workspace=workspace, journal=Journal(workspace.path), device="cpu", serve=serve
    )
