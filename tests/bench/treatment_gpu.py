"""`make bench-treatment-gpu`: does a treatment of FLUX.1's true dimensions work on a GPU, and how fast?

The only run so far ended in an illegal memory access in its first backward pass. So everything is measured in
parts, the most telling first: VAE, detector and denoiser alone, kinds of attention, one update with and
without checkpointing, then updates at 512² and 1024² beside what the estimator predicts. Parts of one group
share their networks in a child process; one that crashes is run again alone with CUDA_LAUNCH_BLOCKING=1,
which says where, and the others go on in a new process.

    python -m tests.bench.treatment_gpu [--out FOLDER] [--minutes 8] [--groups vae detector …]

Every part writes `FOLDER/PART.json` when it is done; a part whose file is there is not run again, so a run
that was cut off is repeated with the same folder. It needs only the packages that `dataengine.treatment`
imports: torch, transformers, diffusers, accelerate, peft, safetensors, numpy, scipy, pillow, pydantic; the
4-bit base needs bitsandbytes. `--tiny --device cpu` proves without a GPU that the script works.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dataengine.diagnosis.detector import NetworkDetector
from dataengine.treatment.config import LoraSettings
from dataengine.treatment.families import autoencoder
from tests.bench import harness
from tests.bench.gpu_networks import (
    PLANS,
    TINY,
    TRUE,
    Dimensions,
    Plan,
    Subject,
    compared,
    described,
    foretold,
    generator,
    measured,
    predicted,
    products,
    synchronise,
)
from tests.bench.harness import Figure, figure, seconds, write

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
PREDICTED = "predicted"
"""The group that needs no device, and runs beside the others."""
LONGEST, BEGINNING = 150, 240
"""Seconds in which a child process must finish its next part; its first includes all imports."""
FRAMES = 6
"""Innermost frames of a failure that are kept."""


class Networks:
    """The networks of one child process, each made when it is first used."""

    def __init__(self, dimensions: Dimensions, device: torch.device) -> None:
        self.dimensions, self.device = dimensions, device
        torch.manual_seed(0)

    @cached_property
    def vae(self) -> Any:
        """The float32 VAE."""
        return generator(self.dimensions, self.device, None, ("vae",)).pipeline.vae

    @cached_property
    def detector(self) -> NetworkDetector:
        """The detector."""
        return NetworkDetector.fresh(self.dimensions.detector).eval().requires_grad_(False).to(self.device)

    @cached_property
    def denoiser(self) -> Any:
        """A FLUX family with a transformer and its LoRA, without a VAE."""
        family = generator(self.dimensions, self.device, None, ("transformer",))
        family.adapter.add(LoraSettings(rank=16), seed=0)
        return family

    @cached_property
    def subject(self) -> Subject:
        """All of it, in bfloat16."""
        return Subject(self.dimensions, self.device, None)

    @cached_property
    def quantised(self) -> Subject:
        """All of it, with a 4-bit transformer."""
        return Subject(self.dimensions, self.device, 4)

    def side(self, pixels: int) -> int:
        """A side at these dimensions."""
        return pixels // self.dimensions.scale


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement, which stands alone."""

    name: str
    group: str
    """Parts of one group share a process, and so their networks."""
    measure: Callable[[Networks], Iterable[Figure]]


def attending(kind: str | None) -> Any:
    """Context in which attention is computed by that kernel alone."""
    return nullcontext() if kind is None else sdpa_kernel(ATTENTION[kind])


def passed(networks: Networks, name: str, action: Callable[[], torch.Tensor], told: str) -> Iterator[Figure]:
    """`action` gives a tensor with a gradient behind it: forward, backward, twice; its times and peak."""
    cuda = networks.device.type == "cuda"

    def run() -> None:
        action().float().square().mean().backward()
        synchronise(networks.device)

    first = seconds(run)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    yield figure(
        f"{name}_s", seconds(run), unit="s", note=f"{told}, forward and backward; the first {first:.2f} s"
    )
    if cuda:
        yield figure(f"{name}_peak_gb", torch.cuda.max_memory_allocated() / 1e9, unit="GB", note="allocated")


def vae_alone(side: int, kind: str | None, networks: Networks) -> Iterator[Figure]:
    """Decoding with its gradient to the latents, as a treatment's last step has it."""
    count = networks.side(side) // autoencoder.scale_factor(networks.vae)
    channels = networks.vae.config.latent_channels
    latents = torch.randn(1, channels, count, count, device=networks.device, requires_grad=True)
    shift = networks.vae.config.shift_factor

    def action() -> torch.Tensor:
        with attending(kind):
            return autoencoder.decode(networks.vae, latents, shift)

    yield from passed(networks, _called("vae", side, kind), action, f"float32 VAE, {side}²")
    yield figure(f"{_called('vae', side, kind)}_finite", finite([latents.grad]))


def detector_alone(side: int, networks: Networks) -> Iterator[Figure]:
    """The detector's confidence with its gradient to the image."""
    pixels = networks.side(side)
    images = torch.rand(1, 3, pixels, pixels, device=networks.device, requires_grad=True)
    action = partial(networks.detector.confidence, images)
    yield from passed(networks, f"detector_{side}", action, f"detector, {side}²")
    yield figure(f"detector_{side}_finite", finite([images.grad]))


def denoiser_alone(side: int, kind: str | None, checkpointing: bool, networks: Networks) -> Iterator[Figure]:
    """The transformer with its gradient to the LoRA; every second matrix is zero at first."""
    family, pixels = networks.denoiser, networks.side(side)
    transformer = family.pipeline.transformer
    (
        transformer.enable_gradient_checkpointing
        if checkpointing
        else transformer.disable_gradient_checkpointing
    )()
    latents, prompts = family.initial_latents([0], (pixels, pixels)), family.encode_prompts(["x"])
    times = torch.tensor([0.5], device=networks.device)
    weights = list(family.adapter.parameters().values())
    for weight in weights:
        weight.requires_grad_(True).grad = None

    def action() -> torch.Tensor:
        with attending(kind):
            return family.predict(latents, times, prompts, 0.0)

    name = _called("denoiser_checkpointed" if checkpointing else "denoiser", side, kind)
    yield from passed(networks, name, action, f"transformer, {side}²")
    yield figure(f"{name}_finite", finite([weight.grad for weight in weights]))


def one_update(checkpointing: bool, networks: Networks) -> Iterator[Figure]:
    """One update of everything at 512², where the first run failed."""
    subject, name = networks.subject, "step_checkpointed" if checkpointing else "step"
    for network in (subject.family.pipeline.transformer, subject.family.pipeline.vae):
        (network.enable_gradient_checkpointing if checkpointing else network.disable_gradient_checkpointing)()
    yield figure(f"{name}_512_s", seconds(subject.update(PLANS[0])), unit="s", note="one update, the first")
    yield figure(f"{name}_512_finite", finite([weight.grad for weight in subject.weights]))


def updates(plan: Plan, networks: Networks) -> Iterator[Figure]:
    """Updates as `tuning.treat` makes them: `NAME_finishes`, memory, times."""
    subject = networks.quantised if plan.bits else networks.subject
    for network in (subject.family.pipeline.transformer, subject.family.pipeline.vae):
        network.enable_gradient_checkpointing()
    rate = next(iter(products(networks.device))).value if networks.device.type == "cuda" else None
    yield from measured(subject, plan, None if rate is None else float(rate))
    yield figure(f"{plan.name}_finishes", True)


def estimated(plan: Plan, networks: Networks) -> Iterator[Figure]:
    """What the estimator says, which needs no device."""
    yield from foretold(plan, predicted(plan, networks.dimensions))


def finite(gradients: Sequence[torch.Tensor | None]) -> bool:
    """Whether gradients are there and numbers."""
    return all(grad is not None and bool(torch.isfinite(grad).all()) for grad in gradients)


def _called(name: str, side: int, kind: str | None) -> str:
    return f"{name}_{side}" + (f"_{kind}" if kind else "")


PARTS = (
    Part(name="card", group="vae", measure=lambda networks: products(networks.device)),
    Part(name="vae_512", group="vae", measure=partial(vae_alone, 512, None)),
    Part(name="vae_512_math", group="vae", measure=partial(vae_alone, 512, "math")),
    Part(name="vae_512_efficient", group="vae", measure=partial(vae_alone, 512, "efficient")),
    Part(name="vae_1024", group="vae", measure=partial(vae_alone, 1024, None)),
    Part(name="detector_512", group="detector", measure=partial(detector_alone, 512)),
    Part(name="detector_1024", group="detector", measure=partial(detector_alone, 1024)),
    Part(name="denoiser_512", group="denoiser", measure=partial(denoiser_alone, 512, None, False)),
    Part(
        name="denoiser_checkpointed_512", group="denoiser", measure=partial(denoiser_alone, 512, None, True)
    ),
    *(
        Part(name=f"denoiser_512_{kind}", group="denoiser", measure=partial(denoiser_alone, 512, kind, False))
        for kind in ATTENTION
    ),
    Part(name="step_512", group="updates", measure=partial(one_update, False)),
    Part(name="step_checkpointed_512", group="updates", measure=partial(one_update, True)),
    *(
        Part(name=plan.name, group="4-bit" if plan.bits else "updates", measure=partial(updates, plan))
        for plan in PLANS
    ),
    *(
        Part(name=f"{plan.name}_predicted", group=PREDICTED, measure=partial(estimated, plan))
        for plan in PLANS
    ),
)
"""In the order in which they are run: the most telling first."""


# ---- the child process -------------------------------------------------------------------------------------


def run_parts(names: Sequence[str], out: Path, dimensions: Dimensions, device: torch.device) -> bool:
    """Run these parts, each with its file; false after an error of the device, which leaves it unusable."""
    networks = Networks(dimensions, device)
    for part in (part for part in PARTS if part.name in names):
        (out / f"{part.name}.started").write_text(str(os.getpid()))
        try:
            keep(out, part.name, list(part.measure(networks)))
        except Exception as error:
            traceback.print_exc()
            keep(out, part.name, [failed(part.name, error)])
            if "CUDA error" in str(error):
                return False
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return True


def failed(name: str, error: BaseException) -> Figure:
    """What went wrong, and in which lines."""
    whole = traceback.extract_tb(error.__traceback__)
    frames = [each for each in whole if not each.filename.endswith("nn/modules/module.py")][-FRAMES:]
    where = " < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in reversed(frames))
    said = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    return figure(f"{name}_failed", said, note=where)


def keep(out: Path, name: str, figures: Sequence[Figure]) -> None:
    """The part's figures, renamed into place."""
    draft = out / f"{name}.part"
    draft.write_text(json.dumps([asdict(each) for each in figures]))
    draft.replace(out / f"{name}.json")


# ---- the parent --------------------------------------------------------------------------------------------


def known_figures(out: Path) -> list[Figure]:
    """The figures of all parts that are done, in their order; a crash also has those of its second run."""
    found = []
    for part in PARTS:
        for name in (part.name, f"{part.name}.blocking"):
            file = out / f"{name}.json"
            rows = json.loads(file.read_text()) if file.is_file() else []
            found += [Figure(**row) for row in rows]
    ids = {one.id for one in found}
    for plan in PLANS:
        if f"{plan.name}_failed" in ids:
            found.append(figure(f"{plan.name}_finishes", False))
    return found


def run_group(group: str, out: Path, command: Sequence[str], until: float) -> None:
    """Run the group's parts in children until each has its file or the time is over."""
    while missing := [p.name for p in PARTS if p.group == group and not (out / f"{p.name}.json").is_file()]:
        if time.monotonic() >= until:
            return
        ended = child([*command, "--run", *missing], out, until)
        begun = [name for name in missing if (out / f"{name}.started").is_file()]
        crashed = [name for name in begun if not (out / f"{name}.json").is_file()]
        if not begun:
            keep(out, missing[0], [figure(f"{missing[0]}_failed", f"its process {ended} before it began")])
        for name in crashed:
            keep(out, name, [figure(f"{name}_failed", f"its process {ended}")])
        for name in begun:
            (out / f"{name}.started").unlink(missing_ok=True)
            if _is_of_the_device(out, name) and time.monotonic() < until:
                blocking(name, out, command, until)


def _is_of_the_device(out: Path, name: str) -> bool:
    rows = json.loads((out / f"{name}.json").read_text())
    said = [str(row["value"]) for row in rows if row["id"] == f"{name}_failed"]
    return any("CUDA error" in one or "signal" in one for one in said)


def blocking(name: str, out: Path, command: Sequence[str], until: float) -> None:
    """Run one part again alone, each kernel awaited, so that the failure is reported where it happens."""
    alone = out / "blocking"
    alone.mkdir(exist_ok=True)
    ended = child([*command, "--run", name], alone, until, {"CUDA_LAUNCH_BLOCKING": "1"})
    file = alone / f"{name}.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    figures = [Figure(**{**row, "id": f"{row['id']}_blocking"}) for row in rows]
    keep(out, f"{name}.blocking", figures or [figure(f"{name}_blocking", f"its process {ended}")])


def child(
    command: Sequence[str], out: Path, until: float, environment: Mapping[str, str] | None = None
) -> str:
    """Run a child process that writes into `out`; how it ended, in words. It is killed when it finishes no
    part for `LONGEST` seconds, or when the time is over."""
    process = started(command, out, environment)
    ends = [*out.glob("*.json")]
    limit = time.monotonic() + BEGINNING
    while process.poll() is None:
        time.sleep(0.1)
        if len(now := [*out.glob("*.json")]) != len(ends):
            ends, limit = now, time.monotonic() + LONGEST
        if time.monotonic() > min(until, limit):
            process.kill()
            process.wait()
            return "took too long and was killed"
    if process.returncode < 0:
        return f"ended by signal {signal.Signals(-process.returncode).name}"
    return f"ended with status {process.returncode}"


def started(
    command: Sequence[str], out: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a child process that writes into `out`."""
    with (out / "children.log").open("a") as log:
        return subprocess.Popen(
            [*command, "--out", str(out)], stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )


def run(out: Path, command: Sequence[str], name: str, settings: argparse.Namespace) -> list[Figure]:
    """All groups, and beside them what the estimator says."""
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * settings.minutes
    head = [figure("device", described(torch.device(settings.device)))]
    wanted = [part.name for part in PARTS if part.group == PREDICTED]
    missing = [one for one in wanted if not (out / f"{one}.json").is_file()]
    estimator = started([*command, "--run", *missing], out) if missing else None
    for group in settings.groups:
        if group != PREDICTED:
            run_group(group, out, command, until)
            write(name, [*head, *known_figures(out)], seeds=[0])
    if estimator is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            estimator.wait(max(0, until - time.monotonic()))
        estimator.kill()
    figures = [*head, *known_figures(out)]
    known = {one.id: one.value for one in figures}
    for plan in PLANS:
        figures += compared(plan, known)
    not_run = [part.name for part in PARTS if not (out / f"{part.name}.json").is_file()]
    figures.append(figure("parts_not_run", len(not_run), note=", ".join(not_run)))
    write(name, figures, seeds=[0])
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    groups = list(dict.fromkeys(part.group for part in PARTS))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to prove that the script works")
    parser.add_argument("--out", type=Path, help="folder of the parts' results (default: build/bench/NAME)")
    parser.add_argument("--minutes", type=float, default=8, help="nothing is begun after these (default: 8)")
    parser.add_argument("--groups", nargs="*", choices=groups, default=groups, help="only these")
    parser.add_argument("--run", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    name = "treatment_gpu_tiny" if chosen.tiny else "treatment_gpu"
    out = chosen.out or harness.RESULTS / name
    if chosen.run is not None:
        dimensions = TINY if chosen.tiny else TRUE
        sys.exit(0 if run_parts(chosen.run, out, dimensions, torch.device(chosen.device)) else 1)
    command = [sys.executable, "-m", "tests.bench.treatment_gpu", "--device", chosen.device]
    run(out, [*command, "--tiny"] if chosen.tiny else command, name, chosen)


if __name__ == "__main__":
    main()
