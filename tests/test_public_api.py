"""The public surface of `dataengine`: names, signatures, docstrings, and what importing it loads."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dataengine

ROOT = Path(__file__).resolve().parents[1]

SIGNATURES = {
    "Detector.load": "location='clinic', *, device=None",
    "Detector.predict": "self, images, *, batch=16",
    "Detector.save": "self, folder",
    "Generator.load": "location='clinic-flux', *, lora=None, strength=1.0, device=None, precision='float32', "
    "bits=None",
    "Generator.generate": "self, prompts, seeds=None, *, sampling=None, progress=False",
    "Generator.untreated": "self",
    "Treated.save": "self, folder",
    "diagnose": "images, detector='clinic', *, batch=16, progress=False",
    "repair": "image, detector, generator, prompt='', *, chooser=None, config=None, sampling=None, "
    "progress=False",
    "train_detector": "images, masks, *, clean=None, start=None, config=None, validation=0.15, work=None, "
    "progress=False",
    "treat": "generator, detector, prompts, *, config=None, guard_prompts=None, clean=None, captions=(), "
    "work=None, progress=False",
}
NAMES = {
    *("ClinicError", "Detector", "DetectorTrainingConfig", "Generator", "OperatingPoint", "RepairConfig"),
    *("SamplingConfig", "Treated", "TreatmentConfig", "diagnose", "presets", "repair", "train_detector"),
    "treat",
}


def public(dotted: str) -> object:
    first, *rest = dotted.split(".")
    found: object = getattr(dataengine, first)
    for name in rest:
        found = getattr(found, name)
    return found


def test_the_names_are_these() -> None:
    assert set(dataengine.__all__) == dataengine.PUBLIC.keys() == NAMES
    assert list(dataengine.__all__) == sorted(dataengine.__all__)
    assert set(dir(dataengine)) >= NAMES
    with pytest.raises(AttributeError, match="no attribute 'diagnosed'"):
        dataengine.diagnosed  # noqa: B018


def test_what_type_checkers_see_is_what_the_table_loads() -> None:
    text = (ROOT / "dataengine/__init__.py").read_text()
    block = text.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    seen = {
        name.strip(): home
        for line in block.splitlines()
        for home, names in [line.strip().removeprefix("from ").split(" import ")]
        for name in names.split(",")
    }
    assert seen == dataengine.PUBLIC


@pytest.mark.parametrize("dotted", SIGNATURES)
def test_a_signature_stays(dotted: str) -> None:
    signature = inspect.signature(public(dotted))  # type: ignore[arg-type]
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == (
        f"({SIGNATURES[dotted]})"
    )


@pytest.mark.parametrize("dotted", sorted({*NAMES, *SIGNATURES}))
def test_everything_public_is_documented_and_typed(dotted: str) -> None:
    found = public(dotted)
    assert inspect.getdoc(found), f"{dotted} has no docstring"
    if dotted in SIGNATURES:
        signature = inspect.signature(found)  # type: ignore[arg-type]
        bare = [
            name
            for name, each in signature.parameters.items()
            if name != "self" and each.annotation is each.empty
        ]
        assert not bare and signature.return_annotation is not signature.empty


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pandas", "pydantic", "PIL", "diffusers", "transformers", "scipy")
    code = f"import sys, dataengine; dir(dataengine); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
