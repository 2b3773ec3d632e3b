"""What every family states about itself, held against the family."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dataengine.errors import ConfigRefused
from dataengine.treatment.families.catalog import FAMILIES, PIPELINES
from dataengine.treatment.families.family import GeneratorFamily, Refinable
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.lora import NoAdapter
from tests.dataengine.treatment import tiny
from tests.pipelines.rig import REPOSITORY

PACKAGE = REPOSITORY / "dataengine" / "treatment" / "families"
TINY = {
    "flux": tiny.flux,
    "stable-diffusion": tiny.stable_diffusion,
    "stable-diffusion-xl": tiny.stable_diffusion_xl,
    "dit": tiny.dit,
    "unconditional": tiny.ddpm,
    "latent-unconditional": tiny.ldm,
}


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GeneratorFamily:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return load_family(TINY[request.param](folder))


def heard(family: GeneratorFamily, sentence: str) -> list[torch.Tensor]:
    return list(family.encode_prompts([sentence]).tensors.values())


def test_a_family_states_what_it_is(opened: GeneratorFamily) -> None:
    facts = FAMILIES[opened.name]
    assert isinstance(opened, facts.load())
    assert type(opened.pipeline).__name__ == facts.pipelines[0]  # type: ignore[attr-defined]
    assert set(opened.modules()) == set(facts.networks)
    assert isinstance(opened, Refinable) == facts.refinable
    assert isinstance(opened.adapter, NoAdapter) != facts.takes_lora


def test_prompts_are_read_by_those_that_say_so(opened: GeneratorFamily) -> None:
    try:
        one, other = heard(opened, "a hand"), heard(opened, "the face of a cat")
    except ConfigRefused:  # classes, and a sentence is none
        differ = False
    else:
        differ = not all(map(torch.equal, one, other))
    assert differ == FAMILIES[opened.name].reads_prompts


def test_every_pipeline_belongs_to_one_family() -> None:
    stated = [pipeline for facts in FAMILIES.values() for pipeline in facts.pipelines]
    assert sorted(stated) == sorted(PIPELINES)
    assert PIPELINES["DDIMPipeline"] is PIPELINES["DDPMPipeline"] is FAMILIES["unconditional"]


def test_every_module_with_a_family_is_in_the_catalog() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py") if "    name: ClassVar" in path.read_text()}
    assert modules == {facts.implementation.partition(":")[0] for facts in FAMILIES.values()}


def test_the_catalog_loads_no_torch() -> None:
    code = (
        "import sys, dataengine.treatment.families.catalog; print(*({'torch', 'diffusers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
