"""The recipe behind `clinic build-clinic`: trains every model of the embedded clinic, one after another.

Each part is one idempotent step. It has a folder of its own below `work` in `out` (checkpoint, loss log,
encoded drawings), resumes there after a kill, and is done when `out/PART` exists: a stock diffusers or
transformers folder, a detector folder, or one safetensors file for an oracle.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from safetensors.torch import save_file

from dataengine.clinic.config import BuildConfig
from dataengine.clinic.oracles import Judge, Teacher
from dataengine.clinic.training.autoencoder import train_autoencoder
from dataengine.clinic.training.first_detector import train_first_detector
from dataengine.clinic.training.flux import CaptionedLatents, captioned_latents, train_flux
from dataengine.clinic.training.oracles import train_oracle
from dataengine.clinic.training.readers import train_readers
from dataengine.clinic.training.stable_diffusion import train_stable_diffusion
from dataengine.clinic.world import stream
from dataengine.diagnosis.detector import save_detector
from dataengine.errors import NotFound
from dataengine.records import Report

Step = Callable[[BuildConfig, Path, Report], Callable[[Path], Any]]


def build(config: BuildConfig, out: Path, progress: Report) -> None:
    """Trains the parts that `config` names and `out` does not hold yet.

    Raises `NotFound` when a part needs another that neither exists nor comes before it in the list.
    """
    for part in config.parts:
        if not (out / part).exists():
            save = _STEPS[part](config, out, progress)
            _publish(save, out / part)


def _publish(save: Callable[[Path], Any], folder: Path) -> None:
    """Write to a temporary folder next to the target and rename it, so that a part is either complete or
    absent."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial)
    partial.replace(folder)


def _needed(out: Path, part: str) -> Path:
    if not (out / part).exists():
        raise NotFound(
            f"This part builds on {part}, which is not in {out}; train it first (parts = {part}, …)."
        )
    return out / part


def load_autoencoder(out: Path) -> AutoencoderKL:
    """The VAE that `build` wrote to `out`, in evaluation mode."""
    return AutoencoderKL.from_pretrained(_needed(out, "autoencoder")).eval()


def _work(out: Path, part: str) -> Path:
    return out / "work" / part


def _autoencoder(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
    work, seconds = _work(out, "autoencoder"), config.checkpoint_seconds
    return train_autoencoder(config.autoencoder, config.device, work, report, seconds).save_pretrained


def _latents(
    config: BuildConfig, out: Path, count: int, flawed: float | None, report: Report
) -> CaptionedLatents:
    """The generator's drawings, or their clean twins, as latents; cached for all parts that use them."""
    kind = "flawed" if flawed is None else "clean"
    cache = out / "work" / "latents" / f"{kind}-{count}.safetensors"
    vae = load_autoencoder(out).to(config.device)
    return captioned_latents(stream("generator", flawed=flawed), count, vae, cache, report)


def _trunk(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
    data = _latents(config, out, config.trunk.drawings, 0.0, report)
    vae, work = load_autoencoder(out), _work(out, "trunk")
    return train_flux(
        config.trunk, data, vae, config.device, work, report, config.checkpoint_seconds
    ).save_pretrained


def _branch(part: str, flawed: float | None) -> Step:
    def step(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
        _needed(out, "trunk")
        settings = config.generator if part == "generator" else config.twin
        return train_flux(
            settings,
            _latents(config, out, settings.drawings, flawed, report),
            load_autoencoder(out),
            config.device,
            _work(out, part),
            report,
            config.checkpoint_seconds,
            trunk=_work(out, "trunk") / "checkpoint.pt",
            trunk_steps=config.trunk.steps,
        ).save_pretrained

    return step


def _oracle(part: str, architecture: type[Judge] | type[Teacher]) -> Step:
    def step(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
        settings = config.judge if part == "judge" else config.teacher
        vae, work = load_autoencoder(out), _work(out, part)
        oracle = train_oracle(
            architecture, part, settings, vae, config.device, work, report, config.checkpoint_seconds
        )
        return lambda folder: save_file(oracle.state_dict(), folder / "model.safetensors")

    return step


def _first_detector(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
    vae, work = load_autoencoder(out), _work(out, "first_doctor")
    detector = train_first_detector(
        config.first_doctor, vae, config.device, work, report, config.checkpoint_seconds
    )
    return lambda folder: save_detector(detector, folder)


def _readers(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
    vae, work = load_autoencoder(out), _work(out, "readers")
    return train_readers(
        config.readers, vae, config.device, work, report, config.checkpoint_seconds
    ).save_pretrained


def _stable_diffusion(config: BuildConfig, out: Path, report: Report) -> Callable[[Path], Any]:
    data = _latents(config, out, config.stable_diffusion.drawings, None, report)
    vae, work = load_autoencoder(out), _work(out, "stable_diffusion")
    return train_stable_diffusion(
        config.stable_diffusion, data, vae, config.device, work, report, config.checkpoint_seconds
    ).save_pretrained


_STEPS: dict[str, Step] = {
    "autoencoder": _autoencoder,
    "trunk": _trunk,
    "generator": _branch("generator", flawed=None),
    "twin": _branch("twin", flawed=0.0),
    "judge": _oracle("judge", Judge),
    "teacher": _oracle("teacher", Teacher),
    "first_doctor": _first_detector,
    "readers": _readers,
    "stable_diffusion": _stable_diffusion,
}
