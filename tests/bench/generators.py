"""`make bench-generators`: what of the contract holds for every generator class that has a row.

Tiny pipelines of random weights, on the CPU. The contract is that of `make test-generators`; the figures say
how many classes keep it, how near sampling is to the stock call, and what the way through the pipeline's own
call costs against the hand-written families. With `FULL=1` the contract covers `more_tiny_pipelines`, too,
and ten classes go through a whole round.
"""

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import load_file

from dataengine.clinic import parts as clinic_parts
from dataengine.clinic.world import prompts
from dataengine.diagnosis.detector import load_detector
from dataengine.treatment.config import LoraSettings, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.families.lora import WEIGHTS
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.sharing import COMFYUI, to_comfyui
from storage.opening import create_workspace, open_workspace
from tests.bench.harness import ROOT, Figure, figure, full, quick, share, timing_ratio, write_in_parts
from tests.bench.rehearsal import prepare_real
from tests.dataengine.treatment.families.comfyui_keys import MAPPED, unread
from tests.dataengine.treatment.families.family_contract import disturb, draw
from tests.dataengine.treatment.families.more_tiny_pipelines import MORE
from tests.dataengine.treatment.families.stock_contract import StockContract
from tests.dataengine.treatment.families.tiny_pipelines import FEW, TINY, save_tiny
from tests.dataengine.treatment.tiny import SIDE

KINDS = FEW[3:5] if quick() else tuple(TINY)
ROUNDS = (
    "Flux2KleinPipeline",
    "QwenImagePipeline",
    "ZImagePipeline",
    "StableDiffusion3Pipeline",
    "SanaPipeline",
    "Krea2Pipeline",
    "ChromaPipeline",
    "AuraFlowPipeline",
    "Lumina2Pipeline",
    "PixArtSigmaPipeline",
)
PAIRS = 2 if quick() else 9
CONTRACT = "tests/dataengine/treatment/families/test_stock_contract.py"
NEAR = 1e-5
"""Largest difference of answers where the way of rounding differs: prompts asked one by one, and v-prediction
answered as noise."""


def contract() -> Iterator[Figure]:
    """How many classes keep all of it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = " or ".join(f"[{kind}]" for kind in (*KINDS, *(MORE if full() else ())))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", CONTRACT, f"--junitxml={report}"]
        # A name in brackets is matched as a part of the test's name, hyphens included.
        subprocess.run([*command, "-k", chosen], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        failed: dict[str, list[str]] = defaultdict(list)
        tests: dict[str, int] = defaultdict(int)
        for case in ET.parse(report).iter("testcase"):
            test, _, kind = case.attrib["name"].rstrip("]").partition("[")
            tests[kind] += 1
            if case.find("failure") is not None or case.find("error") is not None:
                failed[kind].append(test)
    kept = [kind for kind in tests if not failed[kind]]
    missed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in failed.items() if names)
    goal = "≥ 42 (FULL)" if full() else "≥ 16"
    note = f"{min(tests.values())} tests each; goal {goal}; missed: {missed or 'none'}"
    yield figure("classes_treated", len(kept), unit="classes", n=len(tests), note=note)


def equality() -> Iterator[Figure]:
    """Our answers at the states of the stock chain, our images, and LoRAs in fresh stock pipelines."""
    same, near, loaded, images = [], [], [], []
    trial = StockContract()
    with tempfile.TemporaryDirectory() as place:
        for kind in KINDS:
            folder = save_tiny(kind, Path(place) / kind)
            family = opened(folder)
            worst = max(trial.differences(family, folder))
            same.append(worst == 0)
            near.append(worst <= NEAR)
            images.append(difference(trial, family, folder))
            family.adapter.add(LoraSettings(rank=2, alpha=3.0, targets="all"), seed=1)
            disturb(family)
            family.adapter.save(Path(place) / "lora")
            whole = difference(trial, family, folder, Path(place) / "lora") < 1e-3
            loaded.append(whole and mapped(kind, Path(place) / "lora"))
    yield share(
        "stock_equality", sum(near), len(near), "answers at every step of the chain equal; goal ≥ 0.95"
    )
    yield share("stock_equality_bits", sum(same), len(same), "of them bit for bit")
    yield figure(
        "stock_image_difference", max(images), unit="of [0, 1]", n=len(images), note="largest, 3 steps"
    )
    without = [kind for kind in KINDS if not MAPPED[kind]]
    yield share(
        "lora_keys",
        sum(loaded),
        len(loaded),
        f"loads in the stock pipeline, same image, and ComfyUI maps the keys of its file; ComfyUI has no map "
        f"for {', '.join(without) or 'none'}; goal 1",
    )


def mapped(kind: str, lora: Path) -> bool:
    """Whether ComfyUI maps all keys of the file that is made for it, where it has a map."""
    if MAPPED[kind] is None:
        return True
    to_comfyui(lora / WEIGHTS, lora / COMFYUI)
    return not unread(kind, set(load_file(lora / COMFYUI)))


def opened(folder: Path) -> GeneratorFamily:
    family = load_family(folder, by_its_call=True)
    family.size = (SIDE, SIDE)  # type: ignore[misc]
    return family


@torch.no_grad()
def difference(
    trial: StockContract, family: GeneratorFamily, folder: Path, lora: Path | None = None
) -> float:
    """The largest of our images from the stock pipeline's."""
    pipeline = trial.stock_pipeline(folder)
    if lora is not None:
        trial.load_lora(pipeline, lora)
    ours = draw(family, settings=trial.settings)
    return float((ours - trial.stock_images(pipeline, family)).abs().max())


def speed() -> Iterator[Figure]:
    """An update of the clinic's generators by their own calls over the hand-written families."""
    with tempfile.TemporaryDirectory() as place:
        detector = load_detector(clinic_parts.materialise("first_doctor", Path(place) / "detector"))
        for name, model in {"flux": "flux", "sd": "stable_diffusion"}.items():
            folder = clinic_parts.materialise(model, Path(place) / model)
            ours, by_its_call = load_family(folder), load_family(folder, by_its_call=True)
            by_its_call.size = ours.size  # type: ignore[misc]
            yield timing_ratio(
                f"stock_over_handwritten_{name}",
                update(by_its_call, detector),
                update(ours, detector),
                PAIRS,
                "batch 4, five steps, gradient through the last; interleaved; goal ≤ 1.2",
            )


def update(family: GeneratorFamily, detector: torch.nn.Module) -> Callable[[], None]:
    """One update of the weights as treatment makes it."""
    family.adapter.add(LoraSettings(targets="all"), seed=0)
    weights = list(family.adapter.parameters().values())
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    config = TreatmentConfig(batch=4, grad_steps=1, offline=None, sampling=SamplingConfig(steps=5))
    texts = [prompt.text for prompt in prompts("treatment", 8)]
    batches = Batches(config, family, detector, texts, lambda: None)

    def run() -> None:
        optimizer.zero_grad()
        torch.stack(list(batches.terms(0, torch.Generator().manual_seed(0)).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return run


def rounds() -> Iterator[Figure]:
    """A round by `clinic generators --add` and `clinic round`: survey with correction, hard categories,
    treatment, judge; then `clinic dynamics` on its images."""
    kinds = ROUNDS if full() else ROUNDS[3:4]
    done, notes = 0, []
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:
            reason = whole_loop(kind, Path(place) / kind)
            done += not reason
            notes += [f"{kind}: {reason}"] if reason else []
    yield figure(
        "whole_loop_classes",
        done,
        unit="classes",
        n=len(kinds),
        note="; ".join(notes) or f"goal ≥ 8 (FULL, of {len(ROUNDS)})",
    )


def whole_loop(kind: str, place: Path) -> str:
    """Run the round; why it failed, or nothing."""

    workspace = create_workspace(place / "workspace")
    prepare_real(workspace)
    workspace.close()
    folder = save_tiny(kind, place / "generator")
    if reason := clinic(place, "generators", "--add", str(folder), "--name", "candidate"):
        return reason
    workspace = open_workspace(place / "workspace")
    with workspace.catalog(read_only=True) as catalog:
        candidate = next(each.id for each in catalog.generators.list() if each.name == "candidate")
    workspace.close()
    sampling = {"steps": 6, "batch": 8, "height": 64, "width": 64}
    settings = {
        "parts": ["hard", "treatment"],
        "generate.generators": [candidate],
        "generate.sampling": sampling,
        "generate.correction": {},
        "treat.tuning.sampling": sampling,
        # What random weights need for an update that lowers the confidence and is kept.
        "treat.tuning.updates": 6,
        "treat.tuning.batch": 8,
        "treat.tuning.learning_rate": 0.002,
        "treat.tuning.offline.gamma": 1e-6,
        "treat.tuning.guard.attributes": [-1, 1],
    }
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    reason = clinic(place, "round", "--recipe", "cpu-smoke", "--local", *changes)
    return reason or missed(place, candidate) or clinic(place, "dynamics", "--batch", "8")


def missed(place: Path, candidate: str) -> str:
    """What a finished round did not do; nothing if it treated, judged and corrected."""
    with (
        closing(open_workspace(place / "workspace")) as workspace,
        workspace.catalog(read_only=True) as catalog,
    ):
        (row,) = catalog.rounds.list()
        images = catalog.images.find(round_id=row.id)
        treated = [one.id for one in catalog.generators.list() if one.lora and one.parent == candidate]
    if row.state != "done" or not treated or not row.results["judge"]["pairs"]:
        return f"the round ended {row.state} at {row.stage}, with {len(treated)} treated generators"
    corrected = {image.generator_id for image in images if "correction" in image.settings}
    return "" if corrected == {candidate, *treated} else "not every image was corrected"


def clinic(place: Path, *command: str) -> str:
    """Run the command on the workspace; why it failed, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "--workspace", str(place / "workspace"), *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stderr or done.stdout).strip().splitlines()
    return (lines or ["it said nothing"])[-1] if done.returncode else ""


PARTS = {"contract": contract, "equality": equality, "speed": speed, "rounds": rounds}
"""The parts by name; `ONLY=NAME` measures one."""


def main() -> None:
    chosen = os.environ.get("ONLY")
    torch.set_num_threads(1)
    write_in_parts("generators", {n: part for n, part in PARTS.items() if chosen in (None, n)}, seeds=[0])


if __name__ == "__main__":
    main()
