"""`clinic dreambooth` on a tiny FLUX, with real parts: learned, treated, and compared with the instance."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import app
from dataengine.errors import ModelRefused
from dataengine.quality.likeness import Likeness, open_likeness
from pipelines.runtime.models import Models
from tests.dataengine.treatment import tiny

WEIGHTS = "pytorch_lora_weights.safetensors"


def pictures(folder: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.treating
def test_an_instance_is_learned_then_treated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, instance = tiny.flux(tmp_path / "flux"), pictures(tmp_path / "instance")
    (instance / "broken.png").write_bytes(b"not an image")
    encoder = tiny.clip(tmp_path / "clip")
    capsys.readouterr()
    words = ["dreambooth", str(folder), str(instance), "--out", str(tmp_path / "out"), "--json"]
    words += ["--prompt", "a red house", "--class-prompt", "a house", "--class-images", "2"]
    words += ["--updates", "1", "--detector", "clinic", "--encoder", str(encoder), "--guard-likeness"]
    words += ["--learn", "learning.sampling.steps=2", "--set", "tuning.sampling.steps=2"]
    words += ["--set", "tuning.updates=3", "--set", "tuning.batch=2", "--set", "judge_seeds=1"]
    words += ["--set", "tuning.guard.prompts=1", "--set", "tuning.guard.every=1"]
    words += ["--set", "tuning.learning_rate=0.01"]
    words += ["--set", "tuning.guard.scorers=[-99,99]", "--set", "tuning.guard.change=[0,1]"]
    words += ["--set", "tuning.guard.detail=[0,99]", "--set", "tuning.guard.diversity=[0,99]"]
    status = app.main(words)
    found = json.loads(capsys.readouterr().out)
    assert status == 0, found
    out = tmp_path / "out"
    assert found["images"] == 2 and len(found["refused"]) == 1 and "broken.png" in found["refused"][0]
    treated, likeness = found["treatment"], found["treatment"]["likeness"]
    assert treated["generator"] == found["learned"], "the layers of the instance are those that are treated"
    assert "scorer likeness" in treated["looks"][-1]["values"]
    assert (out / "likeness.png").is_file()
    learned, kept = (load_file(out / name / WEIGHTS) for name in ("instance-lora", "lora"))
    assert kept.keys() == learned.keys() and any((kept[name] != learned[name]).any() for name in kept)
    assert likeness["pairs"] == 6 and -1 <= likeness["before"] <= 1
    assert likeness["ratio"] == pytest.approx(likeness["after"] / likeness["before"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--guard-likeness",), "--guard-likeness needs the --encoder"),
        (("--learn", "updates=3"), "listed by `--help`"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    begin = ("dreambooth", "clinic-flux", str(tmp_path), "--out", str(tmp_path / "out"))
    status = app.main([*begin, "--prompt", "a sks dog", "--class-prompt", "a dog", *words])
    assert status == 1 and said in capsys.readouterr().err


def test_likeness_is_the_mean_cosine_to_the_instance(tmp_path: Path) -> None:
    folder, encoder = pictures(tmp_path / "instance", 3), tiny.clip(tmp_path / "clip")
    images = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    others = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    scorer = Models().open_scorer(f"likeness:{encoder}#{folder}")
    found = scorer.score(others, ["", ""])
    one_by_one = [Likeness(encoder, [image]).score(others, ["", ""]) for image in images]
    assert scorer.name == "likeness" and np.allclose(found, np.mean(one_by_one, axis=0), atol=1e-6)
    own = Likeness(encoder, images[:1]).score(np.stack(images[:1]), [""])
    assert own == pytest.approx([1.0], abs=1e-6)
    (tmp_path / "empty").mkdir()
    for named in (str(encoder), f"{encoder}#{tmp_path / 'empty'}", f"#{folder}"):
        with pytest.raises(ModelRefused, match="names no images"):
            open_likeness(named)
    with pytest.raises(ModelRefused, match="does not load as an image encoder"):
        open_likeness(f"{tmp_path / 'nowhere'}#{folder}")
