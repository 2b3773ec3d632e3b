"""The shipped weights, and the full stock folders that are made from them.

Parts that models share (the VAE) are kept once, in half precision where that is harmless. `materialise`
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
    """What `materialise` can write."""
    return tuple(_WRITERS)


def materialise(name: str, folder: Path) -> Path:
    """Writes a model as a stock folder and returns it; a folder that holds these weights already is left
    alone.

    `name`: `flux` and `stable_diffusion` (diffusers pipelines), `autoencoder` (a diffusers model), `readers`
    (a transformers image classifier), `first_doctor` (a detector folder), `teacher` and `judge`
    (`model.safetensors` alone). The folder appears as a whole or not at all.

    Raises `NotFound` for another name or absent weights, `Corrupt` when they are not those that were frozen.
    """
    if name not in _WRITERS:
        raise NotFound(f"The clinic has no model {name!r}; it has {', '.join(_WRITERS)}.")
    folder = Path(folder)
    wanted = fingerprint(name)
    if (folder / STAMP).is_file() and (folder / STAMP).read_text() == wanted:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        _WRITERS[name](fresh)
        (fresh / STAMP).write_text(wanted)
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
    return folder


def fingerprint(name: str) -> str:
    """SHA-256 over the hashes of the shipped files that a model is made of."""
    frozen = frozen_sums()
    return hashlib.sha256(
        "".join(frozen[f"{part}.safetensors"] for part in _FILES[name]).encode()
    ).hexdigest()


def frozen_sums() -> dict[str, str]:
    """File name to the SHA-256 that it had when the weights were frozen."""
    path = SHIPPED / SUMS
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: this installation carries no clinic weights. Reinstall the package."
        )
    return {name: digest for digest, name in (line.split() for line in path.read_text().splitlines())}


def load_part(part: str) -> dict[str, Tensor]:
    """A shipped file's tensors in float32, after its hash was verified."""
    from safetensors.torch import load

    data = _verified(part)
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load(data).items()
    }


def freeze(built: Path, parts: tuple[str, ...] | None = None) -> None:
    """Takes what `build.build` left in `built` into the package, and freezes it by hash."""
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
    wanted = frozen_sums().get(path.name)
    if wanted is None or not path.is_file():
        raise NotFound(
            f"{path} is missing: this installation carries no weights for it. Reinstall the package."
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != wanted:
        raise Corrupt(f"{path} is not the file that was frozen in {SUMS}. Reinstall the package.")
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


def _write_first_doctor(folder: Path) -> None:
    from safetensors.torch import save_file

    from dataengine.clinic.training.first_doctor import FIRST_DOCTOR
    from dataengine.diagnosis.detector import CONFIG_FILE, WEIGHTS_FILE

    save_file(load_part("first_doctor"), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(FIRST_DOCTOR.model_dump_json(indent=2) + "\n")


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
    "first_doctor": _write_first_doctor,
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
