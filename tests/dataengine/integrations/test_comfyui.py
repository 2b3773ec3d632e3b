"""The written nodes, loaded as ComfyUI loads a folder of custom nodes.

ComfyUI executes a folder's `__init__.py` under a name of its own, reads NODE_CLASS_MAPPINGS, and calls each
node's FUNCTION with its inputs in inference mode. IMAGE is float BHWC in [0, 1], MASK float BHW.
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.clinic.parts import materialise
from dataengine.diagnosis.detector import NetworkDetector, load_detector
from dataengine.errors import ConfigRefused, InputRefused
from dataengine.integrations.comfyui.detector import connected_areas, crop_around, dilated
from dataengine.masks import components
from pipelines.services.standalone.comfyui import export_comfyui
from tests.without_us import run_without_us

LOADED = """
import importlib.util, pathlib, sys
import numpy as np, torch

def load(folder):
    name = str(folder.absolute())
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

def run(name, **inputs):
    node = module.NODE_CLASS_MAPPINGS[name]
    declared = node.INPUT_TYPES()
    assert inputs.keys() == declared["required"].keys(), name
    with torch.inference_mode():
        found = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(found, tuple) and len(found) == len(node.RETURN_TYPES)
    return dict(zip(getattr(node, "RETURN_NAMES", node.RETURN_TYPES), found))

module = load(pathlib.Path("nodes"))
assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == module.NODE_CLASS_MAPPINGS.keys()
"""

IMAGES = """
image = torch.from_numpy(np.load("image.npy"))
found = run("ArtifactClinicDetect", image=image, threshold=0.4)
np.save("mask.npy", found["mask"].numpy()); np.save("map.npy", found["map"].numpy())
detector = run("ArtifactClinicDetectorProvider")["SEGM_DETECTOR"]
assert type(detector) is type(found["segm_detector"])
with torch.inference_mode():
    shape, segs = detector.detect(image[:1], 0.4, 0, 2.0, drop_size=1, detailer_hook=None)
    combined = detector.detect_combined(image[:1], 0.4, 0)
    assert not detector.detect(image[:1], 1.1, 10, 3.0)[1]
np.save("combined.npy", combined.numpy())
fields = "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper".split()
for seg in segs:
    assert seg._fields == tuple(fields) and seg.cropped_image is None and seg.cropped_mask.dtype == np.float32
drawn = np.zeros(shape, np.float32)
for seg in segs:
    left, top, right, bottom = seg.crop_region
    assert seg.cropped_mask.shape == (bottom - top, right - left)
    drawn[top:bottom, left:right] = np.maximum(drawn[top:bottom, left:right], seg.cropped_mask)
np.save("segs.npy", drawn)
scores = found["map"].amax(dim=(1, 2, 3))
limit = float(scores.sort().values[1])
split = run("ArtifactClinicFilter", image=image, limit=limit)
everything = run("ArtifactClinicFilter", image=image, limit=0.0)
said = {
    "score": found["score"], "shape": shape, "boxes": [seg.bbox for seg in segs],
    "confidence": [seg.confidence for seg in segs],
    "kept": split["kept"].shape[0], "rejected": split["rejected"].shape[0], "count": split["rejected_count"],
    "empty": list(everything["kept"].shape),
    "threshold": module.NODE_CLASS_MAPPINGS["ArtifactClinicDetect"].INPUT_TYPES()["required"]["threshold"],
}
"""

SAMPLER = """
class Sampling:
    def percent_to_sigma(self, percent):
        return 1.0 - percent

class Inner:
    scale = None
    def process_latent_out(self, latents):
        return latents / self.scale + 0.1

class Patcher:
    def __init__(self):
        self.model, self.functions = Inner(), []
    def clone(self):
        twin = Patcher()
        twin.model = self.model
        return twin
    def get_model_object(self, name):
        assert name == "model_sampling"
        return Sampling()
    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self.functions.append(function)

class FirstStage(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3, padding=1), torch.nn.SiLU(),
            torch.nn.Upsample(scale_factor=4), torch.nn.Conv2d(16, 3, 3, padding=1))
    def decode(self, latents):
        return self.layers(latents)

class VAE:
    pass

torch.manual_seed(0)
with torch.inference_mode():  # as ComfyUI's loaders run
    vae = VAE(); vae.first_stage_model = FirstStage()
    model = Patcher(); model.model.scale = torch.full((1, 4, 1, 1), 0.5)
    start = torch.randn(2, 4, 16, 16)
inputs = dict(vae=vae, strength=400.0, last_strength=100.0, start_percent=0.1, end_percent=1.0)
guided = run("ArtifactClinicGuide", model=model, **inputs)["MODEL"]
assert guided is not model and not model.functions and len(guided.functions) == 1
try:
    run("ArtifactClinicGuide", model=model, **{**inputs, "start_percent": 1.0})
    raise SystemExit("an empty range was taken")
except ValueError as error:
    assert "must be below" in str(error)

def sample(patcher):
    latents, sigmas = start, torch.linspace(1, 0, 9)
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        denoised = latents * (1 - sigma / 2)
        for function in patcher.functions:
            before = denoised
            denoised = function({"denoised": denoised, "sigma": sigma.expand(2), "model": patcher.model})
            if sigma > 0.9:
                assert torch.equal(denoised, before), "outside the range nothing moves"
        latents = latents + (following - sigma) * (latents - denoised) / sigma
    images = (vae.first_stage_model.decode(patcher.model.process_latent_out(latents)) / 2 + 0.5).clamp(0, 1)
    detector = sys.modules[module.__name__ + ".detector"].open_detector()
    return detector.confidence(images).square().mean((1, 2)).tolist()

with torch.inference_mode():  # as ComfyUI samples
    print(json.dumps(said | {"plain": sample(model), "guided": sample(guided)}))
"""


def pictures() -> np.ndarray:
    """Three images, float32 BHWC, of areas of one colour and of noise."""
    rng = np.random.default_rng(3)
    image = rng.random((3, 1, 1, 3), np.float32) * np.ones((3, 72, 90, 3), np.float32)
    for number in range(3):
        image[number, 10:34, 12:40] = rng.random(3, np.float32)
        image[number, 50:66, 60:84] = rng.random((16, 24, 3), np.float32)
    return image


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the nodes were run, and what the program said of them."""
    folder = tmp_path_factory.mktemp("comfyui")
    done = export_comfyui(folder / "nodes", "clinic")
    assert (done.folder, done.licence) == (folder / "nodes", "Apache-2.0")
    np.save(folder / "image.npy", pictures())
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec("import json\n" + LOADED + IMAGES + SAMPLER, {})
    return folder, json.loads(printed.getvalue())


@pytest.mark.exports
def test_where_our_packages_are_absent_the_nodes_do_the_same(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, said = ran
    alone = run_without_us(LOADED + IMAGES + SAMPLER, folder)
    assert alone.keys() == said.keys() and alone["boxes"] == said["boxes"]
    assert alone["guided"] == pytest.approx(said["guided"], rel=1e-3)


def test_the_nodes_import_nothing_of_ours(ran: tuple[Path, dict[str, Any]]) -> None:
    theirs = {"torch", "numpy", "transformers", "comfy", "comfy_execution"}
    for file in (ran[0] / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            tops = {name.partition(".")[0] for name in names}
            assert tops <= theirs | sys.stdlib_module_names, f"{file.name} imports {tops}"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> NetworkDetector:
    return load_detector(materialise("first_doctor", tmp_path_factory.mktemp("clinic") / "detector"))


def test_images_become_masks_maps_scores_and_regions(
    ran: tuple[Path, dict[str, Any]], clinic: NetworkDetector
) -> None:
    (nodes, said), image = ran, pictures()
    with torch.no_grad():
        ours = clinic.confidence(torch.from_numpy(image).movedim(-1, 1)).numpy()
    shown = np.load(nodes / "map.npy")
    assert shown.shape == image.shape and np.abs(shown - ours[..., None]).max() < 1e-5
    assert np.array_equal(np.load(nodes / "mask.npy"), (shown[..., 0] >= 0.4).astype(np.float32))
    assert said["score"] == pytest.approx(ours.max(), abs=1e-5)
    mask = shown[0, ..., 0] >= 0.4
    regions, count = components(mask)
    assert 0 < mask.mean() < 1 and np.array_equal(np.load(nodes / "combined.npy") > 0, mask)
    large = [n for n in range(1, count + 1) if min(np.ptp(axis) for axis in np.nonzero(regions == n)) >= 1]
    assert said["shape"] == [72, 90] and len(said["boxes"]) == len(large) > 0
    for number, box, confidence in zip(large, said["boxes"], said["confidence"], strict=True):
        rows, columns = np.nonzero(regions == number)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert confidence == pytest.approx(shown[0, ..., 0][regions == number].max())
    assert (np.load(nodes / "segs.npy") > 0).sum() == np.isin(regions, large).sum()
    assert (said["kept"], said["rejected"], said["count"]) == (1, 2, 2)
    assert said["empty"] == [0, 72, 90, 3]
    assert said["threshold"] == ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.005}]


def test_the_sampler_is_guided_in_inference_mode(ran: tuple[Path, dict[str, Any]]) -> None:
    pairs = zip(ran[1]["plain"], ran[1]["guided"], strict=True)
    assert all(guided < 0.9 * plain for plain, guided in pairs)


def test_areas_are_those_of_eight_neighbours() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.5, 0.7, 1.0):
        mask = rng.random((23, 31)) < share
        regions, count = components(mask)
        found = connected_areas(mask)
        assert len(found) == count
        for number, area in enumerate(found, start=1):
            assert np.array_equal(area, regions == number)


def test_dilation_and_crops() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[4, 4] = True
    assert dilated(mask, 3).sum() == 9 and dilated(mask, 0) is mask and dilated(mask, 1) is mask
    assert torch.equal(dilated(dilated(mask, 5), -5), mask)
    assert crop_around((10, 10, 20, 30), 2.0, 100, 100) == (5, 0, 25, 40)
    assert crop_around((0, 90, 10, 100), 3.0, 100, 50) == (0, 70, 30, 100)
    assert crop_around((10, 10, 20, 30), 9.0, 40, 50) == (0, 0, 50, 40)


def test_what_comfyui_cannot_take_is_refused(tmp_path: Path) -> None:
    from dataengine.diagnosis.detector import save_detector
    from tests.dataengine.diagnosis.tiny import UNET

    save_detector(NetworkDetector.fresh(UNET), tmp_path / "unet")
    with pytest.raises(ConfigRefused, match="transformers has no such network"):
        export_comfyui(tmp_path / "out", str(tmp_path / "unet"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(InputRefused, match="exists already"):
        export_comfyui(tmp_path / "full", "clinic")
