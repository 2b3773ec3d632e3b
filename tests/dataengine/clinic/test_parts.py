"""The shipped weights: frozen, small, and open in the stock libraries without us."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dataengine.clinic import parts
from dataengine.clinic.world import prompts, stream
from dataengine.errors import Corrupt, NotFound

PIPELINES = ("flux", "stable_diffusion")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every shipped model as a stock folder."""
    root = tmp_path_factory.mktemp("clinic")
    return {name: parts.materialise(name, root / name) for name in parts.model_names()}


def test_weights_are_those_that_were_frozen_and_small_enough() -> None:
    files = sorted(parts.SHIPPED.glob("*.safetensors"))
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert found == parts.frozen_sums()
    assert sum(file.stat().st_size for file in files) <= 32e6


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / parts.SUMS).write_text((parts.SHIPPED / parts.SUMS).read_text())
    original = (parts.SHIPPED / "judge.safetensors").read_bytes()
    (tmp_path / "judge.safetensors").write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    monkeypatch.setattr(parts, "SHIPPED", tmp_path)
    with pytest.raises(Corrupt, match="does not match its SHA-256"):
        parts.materialise("judge", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFound, match="teacher"):
        parts.materialise("teacher", tmp_path / "out")


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(NotFound, match="no model 'sdxl'"):
        parts.materialise("sdxl", Path("nowhere"))


def test_materialising_again_changes_nothing_and_mends_what_is_old(folders: dict[str, Path]) -> None:
    file = folders["judge"] / "model.safetensors"
    before = file.stat().st_mtime_ns
    parts.materialise("judge", folders["judge"])
    assert file.stat().st_mtime_ns == before
    (folders["judge"] / parts.STAMP).write_text("of an older version")
    parts.materialise("judge", folders["judge"])
    assert file.stat().st_mtime_ns != before
    assert (folders["judge"] / parts.STAMP).read_text() == parts.fingerprint("judge")


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_open_stock_and_a_seed_gives_one_image_through_both_doors(
    name: str, folders: dict[str, Path]
) -> None:
    from diffusers import DiffusionPipeline

    from dataengine.treatment.config import SamplingConfig
    from dataengine.treatment.families.loading import load_family
    from dataengine.treatment.sampling.sampler import generate

    text, seeds = prompts("evaluation", 2, ["house", "face"]), [7, 8]
    pipeline = DiffusionPipeline.from_pretrained(folders[name], torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    family = load_family(folders[name])
    extra = {"max_sequence_length": 16} if name == "flux" else {}
    stock = pipeline(
        prompt=[p.text for p in text],
        height=64,
        width=64,
        num_inference_steps=5,
        guidance_scale=family.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
        **extra,
    ).images
    ours = generate(family, [p.text for p in text], seeds, SamplingConfig(steps=5))
    assert np.abs(np.rint(stock * 255) - ours).max() <= 1
    assert ours.std() > 20, "the generator draws something"


def test_no_folder_holds_anything_but_data(folders: dict[str, Path]) -> None:
    suffixes = {file.suffix for folder in folders.values() for file in folder.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".sha256", ".txt"}


def test_the_first_doctor_opens_as_a_detector_and_finds_plain_flaws(folders: dict[str, Path]) -> None:
    from dataengine.diagnosis.detector import artifact_maps, load_detector

    doctor = load_detector(folders["first_doctor"])
    houses = stream("validation", flawed=1.0, categories=["house"])
    drawings = [houses[i] for i in range(24)]
    maps = artifact_maps(doctor, [drawing.image for drawing in drawings])
    inside = np.mean([m[d.label_map > 0].mean() for m, d in zip(maps, drawings, strict=True)])
    outside = np.mean([m[d.label_map == 0].mean() for m, d in zip(maps, drawings, strict=True)])
    assert inside > 0.3 > 0.1 > outside


@pytest.mark.parametrize("name", ["teacher", "judge"])
def test_oracles_tell_flawed_from_clean(name: str, folders: dict[str, Path]) -> None:
    from dataengine.clinic import oracles

    oracle = {"teacher": oracles.load_teacher, "judge": oracles.load_judge}[name](folders[name])
    flawed, clean = stream("validation", flawed=1.0), stream("validation", flawed=0.0)
    images = np.stack([s[i].image for s in (flawed, clean) for i in range(32)])
    confidence = oracle.confidence(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert confidence.shape == (64, 64, 64) and confidence.min() >= 0 and confidence.max() <= 1
    highest = confidence.flatten(1).amax(1) >= 0.5
    assert highest[:32].float().mean() > 0.7
    assert highest[32:].float().mean() < 0.15


def test_readers_see_what_was_drawn(folders: dict[str, Path]) -> None:
    from dataengine.clinic.readers import Reader

    reader = Reader.load(folders["readers"])
    drawings = [stream("validation", flawed=0.0)[i] for i in range(40)]
    images = np.stack([drawing.image for drawing in drawings])
    answers = reader.categories(images)
    assert np.mean([a == d.category for (a, _), d in zip(answers, drawings, strict=True)]) > 0.95
    right = reader.match(images, [drawing.caption for drawing in drawings])
    wrong = reader.match(images, [drawing.caption for drawing in drawings[1:] + drawings[:1]])
    assert right.mean() > 0.9 > 0.6 > wrong.mean()
    assert reader.match(images[:1], ["a portrait of nobody"]).tolist() == [1.0]
    flawed = np.stack([stream("validation", flawed=1.0)[i].image for i in range(40)])
    assert reader.plausibility(images).mean() > reader.plausibility(flawed).mean() + 0.1
