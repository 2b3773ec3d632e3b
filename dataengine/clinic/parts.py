"""The shipped weights, and the complete stock model folders made from them.

Parts that models share (the VAE) are stored once, in half precision where that is harmless. `materialise`
writes what diffusers, transformers and `dataengine.diagnosis.detector` open without us: configuration and
tokenizers from code, weights from the package.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataengine.errors import Corrupt, NotFound

SHIPPED = Path(__file__).with_name("weights")
SUMS = "SHA256SUMS"
STAMP = "weights.sha256"


def model_names() -> tuple[str, ...]:
    """The models that `materialise` can write."""
    return tuple(_WRITERS)


def materialise(name: str, folder: Path) -> Path:
    """Write a model as a stock folder and return the folder; one that holds these weights already is left
    unchanged.

    `name`: `flux` and `stable_diffusion` (diffusers pipelines), `autoencoder` (a diffusers model), `readers`
    (a transformers image classifier), `first_doctor` (a detector folder), `teacher` and `judge`
    (`model.safetensors` alone). The folder appears complete or not at all.

    Raises `NotFound` for an unknown name or missing weights, `Corrupt` when their hash is not the frozen one.
    """
    if name not in _WRITERS:
        raise NotFound(f"The clinic has no model {name!r}; choose one of {', '.join(_WRITERS)}.")
    folder = Path(folder)
    expected = fingerprint(name)
    if stamp_of(folder) == expected:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        _WRITERS[name](fresh)
        (fresh / STAMP).write_text(expected)
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
    return folder


def stamp_of(folder: Path) -> str:
    """The fingerprint of the model that `materialise` wrote to a folder; "" for any other folder or file."""
    stamp = folder / STAMP
    return stamp.read_text() if stamp.is_file() else ""


def fingerprint(name: str) -> str:
    """SHA-256 over the hashes of the shipped files that make up a model."""
    frozen = frozen_sums()
    return hashlib.sha256(
        "".join(frozen[f"{part}.safetensors"] for part in _FILES[name]).encode()
    ).hexdigest()


def frozen_sums() -> dict[str, str]:
    """Map of each file name to its SHA-256 when the weights were frozen."""
    path = SHIPPED / SUMS
    if not path.is_file():
        raise NotFound(
            f"{path} is missing, so this installation has no clinic weights. Reinstall the package."
        )
    return {name: digest for digest, name in (line.split() for line in path.read_text().splitlines())}


def load_part(part: str) -> dict[str, Tensor]:
    """The tensors of a shipped file in float32, once its hash is verified."""
    from safetensors.torch import load

    data = _verified(part)
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load(data).items()
    }


def freeze(built: Path, parts: tuple[str, ...] | None = None) -> None:
    """Copy the models that `build.build` wrote to `built` into the package, and freeze them by hash."""
    from safetensors.torch import save_file

    SHIPPED.mkdir(exist_ok=True)
    for part in parts or tuple(_COLLECTORS):
        state, metadata, precision = _COLLECTORS[part](built)
        small = {
            name: tensor.to(precision).contiguous() if tensor.is_floating_point() else tensor.contiguous()
            for name, tensor in state.items()
        }
        partial = SHIPPED / f".{part}.partial"
        save_file(small, partial, metadata=metadata)
        partial.replace(SHIPPED / f"{part}.safetensors")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(SHIPPED.glob("*.safetensors"))
    ]
    (SHIPPED / SUMS).write_text("".join(lines))


def autoencoder() -> Any:
    """The shared VAE as a diffusers `AutoencoderKL`, float32, in evaluation mode."""
    from safetensors import safe_open

    from dataengine.clinic import models

    vae = models.autoencoder()
    vae.load_state_dict(load_part("autoencoder"))
    with safe_open(SHIPPED / "autoencoder.safetensors", "pt") as file:
        vae.register_to_config(**json.loads(file.metadata()["config"]))
    return vae.eval()


def _verified(part: str) -> bytes:
    path = SHIPPED / f"{part}.safetensors"
    expected = frozen_sums().get(path.name)
    if expected is None or not path.is_file():
        raise NotFound(
            f"{path} is missing, so this installation has no weights for that model. Reinstall the package."
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise Corrupt(f"{path} does not match its SHA-256 in {SUMS}. Reinstall the package.")
    return data


def _write_autoencoder(folder: Path) -> None:
    autoencoder().save_pretrained(folder)


def _write_flux(folder: Path) -> None:
    from diffusers import FluxPipeline

    from dataengine.clinic import models
    from dataengine.clinic.vocabulary import clip_tokenizer, t5_tokenizer

    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    modules = nn.ModuleDict(
        {
            "transformer": models.flux_transformer(),
            "text_encoder": models.clip_encoder(tokenizer),
            "text_encoder_2": models.t5_encoder(tokenizer_2),
        }
    )
    modules.load_state_dict(load_part("flux"))
    FluxPipeline(
        scheduler=models.flux_scheduler(),
        vae=autoencoder(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        **modules,
    ).save_pretrained(folder)


def _write_stable_diffusion(folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from dataengine.clinic import models
    from dataengine.clinic.vocabulary import clip_tokenizer

    tokenizer = clip_tokenizer()
    modules = nn.ModuleDict(
        {"unet": models.stable_diffusion_unet(), "text_encoder": models.clip_encoder(tokenizer)}
    )
    modules.load_state_dict(load_part("stable_diffusion"))
    StableDiffusionPipeline(
        vae=autoencoder(),
        tokenizer=tokenizer,
        scheduler=models.ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **modules,
    ).save_pretrained(folder)


def _write_readers(folder: Path) -> None:
    from dataengine.clinic.models import reader_network
    from dataengine.clinic.readers import output_labels

    network = reader_network(output_labels())
    network.load_state_dict(load_part("readers"))
    network.save_pretrained(folder)


def _write_first_detector(folder: Path) -> None:
    from safetensors.torch import save_file

    from dataengine.clinic.training.first_detector import FIRST_DETECTOR
    from dataengine.diagnosis.detector import CONFIG_FILE, WEIGHTS_FILE

    save_file(load_part("first_doctor"), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(FIRST_DETECTOR.model_dump_json(indent=2) + "\n")


def _write_oracle(part: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(load_part(part), folder / "model.safetensors")

    return write


_WRITERS: dict[str, Callable[[Path], None]] = {
    "flux": _write_flux,
    "stable_diffusion": _write_stable_diffusion,
    "autoencoder": _write_autoencoder,
    "readers": _write_readers,
    "first_doctor": _write_first_detector,
    "teacher": _write_oracle("teacher"),
    "judge": _write_oracle("judge"),
}
_FILES: dict[str, tuple[str, ...]] = {
    "flux": ("autoencoder", "flux"),
    "stable_diffusion": ("autoencoder", "stable_diffusion"),
    "autoencoder": ("autoencoder",),
    "readers": ("readers",),
    "first_doctor": ("first_doctor",),
    "teacher": ("teacher",),
    "judge": ("judge",),
}

Collected = tuple[dict[str, Tensor], dict[str, str] | None, torch.dtype]


def _collect_autoencoder(built: Path) -> Collected:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(built / "autoencoder")
    scale = {key: vae.config[key] for key in ("scaling_factor", "shift_factor")}
    return vae.state_dict(), {"config": json.dumps(scale)}, torch.float16


def _collect_flux(built: Path) -> Collected:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(built / "generator", torch_dtype=torch.float32)
    return _states(pipeline, "transformer", "text_encoder", "text_encoder_2"), None, torch.bfloat16


def _collect_stable_diffusion(built: Path) -> Collected:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(built / "stable_diffusion", torch_dtype=torch.float32)
    return _states(pipeline, "unet", "text_encoder"), None, torch.bfloat16


def _collect_file(part: str) -> Callable[[Path], Collected]:
    def collect(built: Path) -> Collected:
        from safetensors.torch import load_file

        return load_file(built / part / "model.safetensors"), None, torch.float16

    return collect


def _states(pipeline: Any, *components: str) -> dict[str, Tensor]:
    modules = nn.ModuleDict({name: getattr(pipeline, name) for name in components})
    return modules.state_dict()


_COLLECTORS: dict[str, Callable[[Path], Collected]] = {
    "autoencoder": _collect_autoencoder,
    "flux": _collect_flux,
    "stable_diffusion": _collect_stable_diffusion,
    "readers": _collect_file("readers"),
    "first_doctor": _collect_file("first_doctor"),
    "teacher": _collect_file("teacher"),
    "judge": _collect_file("judge"),
}
